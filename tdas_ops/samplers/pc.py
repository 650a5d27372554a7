"""Predictor-corrector sampling."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tdas_ops import ops
from tdas_ops._gaussian import PREDICTORS, unsuited
from tdas_ops.noise import Stream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers._run import Filters, Options, Run, ScoreFn, check_sde
from tdas_ops.sde import SDE, Marginal

if TYPE_CHECKING:
    from typing_extensions import Unpack


@torch.no_grad()
def pc(
    score_fn: ScoreFn,
    shape: Sequence[int],
    sde: SDE,
    M: Filters | None = None,
    *,
    noise: Stream,
    iterations: int | None = None,
    snr: float = 0.16,
    predictor: Literal["reverse_diffusion", "euler_maruyama", "ancestral"] | None = "reverse_diffusion",
    corrector: Literal["langevin", "ald"] = "langevin",
    corrector_steps: int = 1,
    norm: Literal["batch", "sample"] | Callable[..., Any] | None = None,
    end_time: float | None = None,
    denoise: bool = True,
    **options: Unpack[Options],
) -> Tensor:
    """Predictor-corrector sampling: in each iteration first the corrector, then the predictor.

    Args:
        score_fn: `(x, sigma or t) -> score`.
        shape: (B, C, H, W).
        sde: `VE`, `VP`, `SubVP`, or what `sde.SDE` describes.
        M: the preconditioner, on the device to sample on; or one for each iteration, of one shape, device and method:
            `M[i]` serves iteration i, and `M[0]` the start as well. By default none, on the device of start or noise.
        noise: the stream of all noise of the run, start point included; or its seed, or a `torch.Generator`
            of which one is drawn at the start (`NoiseStream.of`).
        iterations: number of iterations, by default the native count of the SDE; the end time follows (speed-up rule).
        snr: signal-to-noise ratio of the corrector.
        predictor: "reverse_diffusion", "euler_maruyama", "ancestral" (not for sub-VP), or None for corrector-only
            sampling.
        corrector: "langevin" with the snr rule, or "ald", annealed Langevin dynamics, whose step size
            `2 alpha (snr std)^2` is that of the noise level alone.
        corrector_steps: Langevin steps per iteration; 0 for predictor-only sampling.
        norm: how the snr rule takes its norms; see `langevin_step`. By default as the stream says
            (`NoiseStream.named`): "sample" where it names its samples, by seeds, a first sample or as a shard, so that
            a picture is the same in any batch; "batch" with one plain seed, as the papers have it. Or a function that
            makes the step in the place of `langevin_step`, such as that of `integrations.distributed`.
        end_time: by default that of the speed-up rule.
        denoise: return the last x_mean; otherwise the last x.
        options: see `samplers.Options`. The start is by default `noise(M, scale=sigma_max)` (VE) or scale 1 (VP,
            sub-VP); the hook is called after each corrector and predictor step.

    Returns: samples `[B, C, H, W]`, in the dtype of the start.

    Warns:
        RuntimeWarning: a filter with which a predictor step goes beyond the denoised image, or with which the run
            diverges in the Gaussian model (docs/calibration.md), with a setting that would not.

    Raises:
        ValueError, TypeError: bad arguments, before the first evaluation of the score.
        RuntimeError: an iteration cannot be captured in a CUDA graph; the noise is as it was.
        FloatingPointError: `check_finite` found a non-finite value; the message names the iteration.

    Source: Song et al., arXiv 2011.13456, algorithm 1; TDAS, arXiv 2206.04029; PDS, arXiv 2207.02196, algorithm 1.
    """
    check_sde(sde, SDE, "VE, VP, SubVP")
    iterations = sde.native_iterations if iterations is None else iterations
    levels = sde.levels(iterations, end_time)
    if predictor is not None and predictor not in PREDICTORS:
        raise ValueError(f"predictor: got {predictor!r}, expected {', '.join(map(repr, PREDICTORS))} or None")
    if predictor == "ancestral" and any(level.ancestral is None for level in levels):
        raise ValueError(f"predictor: got 'ancestral' with {type(sde).__name__}, which has none, expected another")
    if corrector not in ("langevin", "ald"):
        raise ValueError(f"corrector: got {corrector!r}, expected 'langevin' or 'ald'")
    if not 0 <= snr < math.inf:
        raise ValueError(f"snr: got {snr}, expected a finite number that is not negative")
    if corrector_steps < 0 or (predictor is None and corrector_steps == 0):
        raise ValueError(
            f"corrector_steps: got {corrector_steps} with predictor {predictor!r}, expected at least one step"
        )
    step = "reverse" if predictor is None else PREDICTORS[predictor]
    rows = [(level.condition, level.mean_scale, level.std, level.alpha, *getattr(level, step)) for level in levels]
    run = Run(score_fn, shape, M, noise, levels, rows, sde.start_scale, **options)
    steps: dict[str, Any] = {"predictor": predictor, "corrector": corrector, "corrector_steps": corrector_steps}
    problem = unsuited(run.filters, sde, iterations, snr, end_time=end_time, **steps)
    if problem is not None:
        warnings.warn(problem, RuntimeWarning, stacklevel=3)
    langevin = norm if callable(norm) else partial(ops.langevin_step, norm=norm or run.norm)
    linear = any(level.reverse[0] != 0.0 for level in levels)
    clean = predictor is None or run.hook is not None  # whether anyone looks at the corrector's x_mean

    def iterate(M: Preconditioner, coefficients: Tensor, level: Marginal | None) -> Tensor:
        x, cast = run.x, run.cast
        condition, mean_scale, std, alpha, a, b, n = coefficients.unbind()
        here: Any = level or Marginal(condition, mean_scale, std)  # type: ignore[arg-type]
        told = condition.expand(shape[0])
        for _ in range(corrector_steps):
            score = run.score(told)
            if corrector == "ald":
                eta = 2 * alpha * (snr * std) ** 2
                result = ops.step(x, score, M, eta, noise=run.noise, out=x, cast=cast, return_mean=clean)  # type: ignore[call-overload]
            else:
                result = langevin(x, score, M, snr, noise=run.noise, alpha=alpha, out=x, cast=cast, return_mean=clean)
            x_mean = run.hooked(result[1] if clean else x, here)
        if predictor is not None:
            score = run.score(told)
            drift, d = (torch.addcmul(a * x, score, b), 1.0) if linear else (score, b)
            _, x_mean = ops.step(x, drift, M, d, noise_scale=n, noise=run.noise, out=x, cast=cast, return_mean=True)
            x_mean = run.hooked(x_mean, here)
        return x_mean

    run.loop(iterate)
    return run.x_mean if denoise else run.x
