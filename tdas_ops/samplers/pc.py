"""Predictor-corrector sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tdas_ops import ops
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers._run import Callback, Filters, Hook, Run, ScoreFn, filters, level_of
from tdas_ops.sde import SDE, Level


@torch.no_grad()
def pc(
    score_fn: ScoreFn,
    shape: Sequence[int],
    sde: SDE,
    M: Filters,
    *,
    noise: NoiseStream,
    iterations: int | None = None,
    snr: float = 0.16,
    predictor: Literal["reverse_diffusion", "euler_maruyama"] | None = "reverse_diffusion",
    corrector_steps: int = 1,
    norm: Literal["batch", "sample"] = "batch",
    start: Tensor | None = None,
    end_time: float | None = None,
    denoise: bool = True,
    hook: Hook | None = None,
    callback: Callback | None = None,
    resume: dict[str, Any] | None = None,
    check_finite: bool = False,
    cuda_graph: bool = False,
    network_dtype: torch.dtype | None = None,
    channels_last: bool = False,
    progress: bool = True,
) -> Tensor:
    """Predictor-corrector sampling: in each iteration first the corrector, then the predictor.

    Args:
        score_fn: `(x, sigma or t) -> score`.
        shape: (B, C, H, W).
        sde: `VE`, `VP` or `SubVP`.
        M: the preconditioner, on the device to sample on; or one for each iteration, of one shape, device and method:
            `M[i]` serves iteration i, and `M[0]` the start as well.
        noise: the stream of all noise of the run, start point included.
        iterations: number of iterations, by default the native count of the SDE; the end time follows (speed-up rule).
        snr: signal-to-noise ratio of the corrector.
        predictor: None for corrector-only sampling.
        corrector_steps: Langevin steps per iteration; 0 for predictor-only sampling.
        norm: how the snr rule takes its norms; see `langevin_step`.
        start: the start point, by default `noise(M, scale=sigma_max)` (VE) or scale 1 (VP, sub-VP), float32; a run
            keeps the dtype of its start.
        end_time: by default that of the speed-up rule.
        denoise: return the last x_mean; otherwise the last x.
        hook: called after each corrector and predictor step as `hook(x, x_mean, level, noise) -> (x, x_mean)`, for
            example `inpaint(...)`. With `cuda_graph` the fields of `level` are tensors without dimensions.
        callback: called with the `State` after each iteration.
        resume: a `State.state_dict()` to continue from; `noise` is set to the place where that run was.
        check_finite: stop with an error when x is no longer finite; waits for the device once an iteration.
        cuda_graph: capture the first iteration, score function and hook included, and replay it for all of them: the
            bits of the eager run without Python's time. On a CUDA device, for a score function that never waits for
            it, with the same masks present in all of M. Callback and `check_finite` run between the replays.
        network_dtype: dtype of the x that the score function receives, float32, bfloat16 or float16, by default that
            of the state; the update writes it beside the state.
        channels_last: the score function receives x in the memory format channels_last.
        progress: show a progress bar.

    Returns: samples `[B, C, H, W]`, in the dtype of the start.

    Raises:
        ValueError, TypeError: bad arguments, before the first evaluation of the score.
        RuntimeError: an iteration cannot be captured in a CUDA graph; the noise is as it was.
        FloatingPointError: `check_finite` found a non-finite value; the message names the iteration.

    Source: Song et al., arXiv 2011.13456, algorithm 1; TDAS, arXiv 2206.04029; PDS, arXiv 2207.02196, algorithm 1.
    """
    iterations = sde.native_iterations if iterations is None else iterations
    levels = sde.levels(iterations, end_time)
    if predictor not in ("reverse_diffusion", "euler_maruyama", None):
        raise ValueError(f"predictor: got {predictor!r}, expected 'reverse_diffusion', 'euler_maruyama' or None")
    if corrector_steps < 0 or (predictor is None and corrector_steps == 0):
        raise ValueError(
            f"corrector_steps: got {corrector_steps} with predictor {predictor!r}, expected at least one step"
        )
    run = Run(shape, filters(M, iterations), levels, noise, hook, cuda_graph)
    run.begin(sde.start_scale, start, resume, network_dtype, channels_last)
    linear = any(level.reverse[0] != 0.0 for level in levels)
    clean = predictor is None or hook is not None  # whether anyone looks at the corrector's x_mean

    def iterate(M: Preconditioner, coefficients: Tensor, level: Level | None) -> Tensor:
        x, here = run.x, level_of(coefficients)
        condition = here.condition.expand(shape[0])
        for _ in range(corrector_steps):
            score = score_fn(run.seen, condition)
            result = ops.langevin_step(
                x, score, M, snr, noise=noise, alpha=here.alpha, norm=norm, out=x, cast=run.cast, return_mean=clean
            )
            x_mean = run.hooked(result[1] if clean else x, level or here)
        if predictor is not None:
            a, b, n = here.reverse if predictor == "reverse_diffusion" else here.euler
            score = score_fn(run.seen, condition)
            drift, d = (torch.addcmul(a * x, score, b), 1.0) if linear else (score, b)
            _, x_mean = ops.step(x, drift, M, d, noise_scale=n, noise=noise, out=x, cast=run.cast, return_mean=True)
            x_mean = run.hooked(x_mean, level or here)
        return x_mean

    run.loop(iterate, callback, check_finite, progress)
    return run.x_mean if denoise else run.x
