"""Samplers: loops of `step` and `langevin_step` around a score function.

A score function is any callable `(x, level) -> score`: x is `[B, C, H, W]`, `level` a tensor `[B]` in the dtype and on
the device of x with sigma (VE and annealed Langevin) or t (VP, sub-VP) of every sample. No loop waits for the device,
unless `check_finite` is set or a callback asks for values.

A run can be interrupted and continued: `callback` receives a `State` after every iteration; its `state_dict()` handed
to `resume` continues to bit-identical samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tdas_ops import ops
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.sde import SDE, Level

ScoreFn = Callable[[Tensor, Tensor], Tensor]
Filters = Preconditioner | Sequence[Preconditioner]
Hook = Callable[[Tensor, Tensor, Level, NoiseStream], tuple[Tensor, Tensor]]


@dataclass
class State:
    """A run after `iteration` of `iterations` iterations.

    Attributes:
        x: the current state, noise included, `[B, C, H, W]`.
        x_mean: the state before the last noise was added: the sample when the run is over.
        noise: the stream the run draws from.
    """

    iteration: int
    iterations: int
    x: Tensor
    x_mean: Tensor
    noise: NoiseStream

    def state_dict(self) -> dict[str, Any]:
        """Copies of the tensors and plain values, for `resume` or `torch.save`; waits for the device."""
        return {
            "iteration": self.iteration,
            "iterations": self.iterations,
            "x": self.x.detach().clone(),
            "x_mean": self.x_mean.detach().clone(),
            "noise": self.noise.state_dict(),
        }


Callback = Callable[[State], None]


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
            example `inpaint(...)`.
        callback: called with the `State` after each iteration.
        resume: a `State.state_dict()` to continue from; `noise` is set to the place where that run was.
        check_finite: stop with an error when x is no longer finite; waits for the device once an iteration.
        progress: show a progress bar.

    Returns: samples `[B, C, H, W]`, in the dtype of the start.

    Raises:
        ValueError: bad arguments, before the first evaluation of the score.
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
    filters = _filters(M, iterations)
    run = _begin(shape, filters[0], noise, sde.start_scale, start, iterations, resume)
    conditions = torch.tensor([level.condition for level in levels], dtype=run.x.dtype).to(run.x.device)
    x, x_mean = run.x, run.x_mean
    for i in tqdm(range(run.iteration, iterations), initial=run.iteration, total=iterations, disable=not progress):
        each, level, condition = filters[i], levels[i], conditions[i].expand(shape[0])
        for _ in range(corrector_steps):
            score = score_fn(x, condition)
            x, x_mean = ops.langevin_step(
                x, score, each, snr, noise=noise, alpha=level.alpha, norm=norm, return_mean=True
            )
            if hook is not None:
                x, x_mean = hook(x, x_mean, level, noise)
        if predictor is not None:
            a, b, n = level.reverse if predictor == "reverse_diffusion" else level.euler
            score = score_fn(x, condition)
            drift, d = (score, b) if a == 0.0 else (torch.add(a * x, score, alpha=b), 1.0)
            x, x_mean = ops.step(x, drift, each, d, noise_scale=n, noise=noise, return_mean=True)
            if hook is not None:
                x, x_mean = hook(x, x_mean, level, noise)
        _end_of_iteration(i, iterations, x, x_mean, noise, callback, check_finite)
    return x_mean if denoise else x


@torch.no_grad()
def annealed_langevin(
    score_fn: ScoreFn,
    shape: Sequence[int],
    sigmas: Sequence[float],
    M: Filters,
    *,
    noise: NoiseStream,
    step_size: float | None = None,
    steps: int = 5,
    rule: Literal["ncsn", "ncsnv2"] = "ncsnv2",
    denoise: bool | None = None,
    start: Tensor | None = None,
    hook: Hook | None = None,
    callback: Callback | None = None,
    resume: dict[str, Any] | None = None,
    check_finite: bool = False,
    progress: bool = True,
) -> Tensor:
    """Annealed Langevin dynamics: at each noise level `steps` Langevin steps of size `epsilon (sigma_i / sigma_L)^2`.

    Args:
        score_fn: `(x, sigma) -> score`.
        shape: (B, C, H, W).
        sigmas: the noise levels, from large to small; each one is an iteration of the run.
        M: the preconditioner, on the device to sample on; or one for each noise level, as in `pc`.
        noise: the stream of all noise of the run, start point included.
        step_size: epsilon, in units of sigma^2; by default that of `ncsnv2_step_size` (rule "ncsnv2" only; NCSN
            published 2e-5 for sigma from 1 to 0.01).
        steps: T, Langevin steps a level.
        rule: "ncsn" takes `x + alpha / 2 score + sqrt(alpha) z` (arXiv 1907.05600, algorithm 1), "ncsnv2"
            `x + alpha score + sqrt(2 alpha) z` (arXiv 2006.09011, algorithm 1).
        denoise: add `sigma_L^2 score` at the end; by default True for "ncsnv2" and False for "ncsn".
        start: by default `noise(M, scale=sigmas[0])`.
        hook, callback, resume, check_finite, progress: as in `pc`.

    Returns: samples `[B, C, H, W]`, in the dtype of the start.

    Raises:
        ValueError: bad arguments, before the first evaluation of the score.
        FloatingPointError: as in `pc`.
    """
    if len(sigmas) == 0 or any(not 0 < b <= a < math.inf for a, b in zip([sigmas[0], *sigmas], sigmas, strict=False)):
        raise ValueError("sigmas: got a sequence that is empty, not positive or rising, expected large to small")
    if rule not in ("ncsn", "ncsnv2"):
        raise ValueError(f"rule: got {rule!r}, expected 'ncsn' or 'ncsnv2'")
    if steps < 1:
        raise ValueError(f"steps: got {steps}, expected at least 1")
    if step_size is None:
        if rule == "ncsn":
            raise ValueError("step_size: got None with rule 'ncsn', expected a number (NCSN published 2e-5)")
        step_size = ncsnv2_step_size(sigmas, steps)
    last = sigmas[-1]
    filters = _filters(M, len(sigmas))
    run = _begin(shape, filters[0], noise, sigmas[0], start, len(sigmas), resume)
    conditions = torch.tensor(sigmas, dtype=run.x.dtype).to(run.x.device)
    x = run.x
    for i in tqdm(range(run.iteration, len(sigmas)), initial=run.iteration, total=len(sigmas), disable=not progress):
        sigma, condition = sigmas[i], conditions[i].expand(shape[0])
        level = _langevin_level(sigma, sigmas[0])
        eta = step_size * (sigma / last) ** 2 * (0.5 if rule == "ncsn" else 1.0)
        for _ in range(steps):
            x = ops.step(x, score_fn(x, condition), filters[i], eta, noise=noise)
            if hook is not None:
                x, _ = hook(x, x, level, noise)
        _end_of_iteration(i, len(sigmas), x, x, noise, callback, check_finite)
    if denoise if denoise is not None else rule == "ncsnv2":
        clean = torch.add(x, score_fn(x, conditions[-1].expand(shape[0])), alpha=last**2)
        return clean if hook is None else hook(x, clean, _langevin_level(last, sigmas[0]), noise)[1]
    return x


def _langevin_level(sigma: float, highest: float) -> Level:
    nothing = (0.0, 0.0, 0.0)
    return Level(sigma / highest, sigma, 1.0, sigma, 1.0, reverse=nothing, euler=nothing)


def ncsnv2_step_size(sigmas: Sequence[float], steps: int) -> float:
    """The epsilon of NCSNv2 for these levels and `steps` Langevin steps a level.

    It brings the variance at the end of a level, started from that of the level above, as near to the level's own as
    any step size does: it minimises `(1 - e)^(2T) (gamma^2 - q) + q` over e, with `e = epsilon / sigma_L^2`,
    `q = 2 e / (1 - (1 - e)^2)` and gamma the ratio of neighbouring levels.

    Source: NCSNv2, arXiv 2006.09011, technique 4 and equation 4.
    """
    if len(sigmas) < 2:
        raise ValueError(f"sigmas: got {len(sigmas)} level, expected at least two to derive a step size")
    gamma2 = (sigmas[0] / sigmas[-1]) ** (2 / (len(sigmas) - 1))
    e = np.geomspace(1e-6, 1.0, 100_001)[:-1]
    q = 1 / (1 - e / 2)
    variance = (1 - e) ** (2 * steps) * (gamma2 - q) + q
    return float(e[variance.argmin()]) * sigmas[-1] ** 2


def inpaint(known: Tensor, mask: Tensor) -> Hook:
    """A hook that holds part of the image: where `mask` is 1 the state follows `known`, noised to the current level,
    and the returned samples are `known`.

    Args:
        known: the image, `[C, H, W]` or `[B, C, H, W]`, on the device of the run.
        mask: 1 where the image is known, 0 where it is to be made; broadcasts to the state.

    Source: Song et al., arXiv 2011.13456, appendix I.2.
    """

    def hook(x: Tensor, x_mean: Tensor, level: Level, noise: NoiseStream) -> tuple[Tensor, Tensor]:
        white = Preconditioner.identity(tuple(x.shape[1:]), method=None).to(x.device)
        noised = torch.add(level.mean_scale * known, ops.noise(white, x.shape, noise), alpha=level.std)
        return torch.where(held, noised, x).to(x.dtype), torch.where(held, known, x_mean).to(x.dtype)

    held = mask.bool()
    return hook


def _filters(M: Filters, iterations: int) -> list[Preconditioner]:
    """The preconditioner of every iteration."""
    if isinstance(M, Preconditioner):
        return [M] * iterations
    strange = [M] if not isinstance(M, Sequence) else [each for each in M if not isinstance(each, Preconditioner)]
    if strange:
        raise TypeError(f"M: got {type(strange[0]).__name__}, expected a Preconditioner or a sequence of them")
    if len(M) != iterations:
        got = f"{len(M)} preconditioners"
        raise ValueError(f"M: got {got}, expected one, or one for each of {iterations} iterations")
    kinds = {f"{each.shape} of method {each.method!r} on {each.device}" for each in M}
    if len(kinds) > 1:
        got = " beside ".join(sorted(kinds))
        raise ValueError(f"M: got preconditioners {got}, expected one shape, method and device")
    return list(M)


def _begin(
    shape: Sequence[int],
    M: Preconditioner,
    noise: NoiseStream,
    scale: float,
    start: Tensor | None,
    iterations: int,
    resume: dict[str, Any] | None,
) -> State:
    """The state of a run before its first (or next) iteration."""
    if not isinstance(noise, NoiseStream):
        raise TypeError(f"noise: got {type(noise).__name__}, expected a NoiseStream")
    if resume is not None:
        if resume["iterations"] != iterations or tuple(resume["x"].shape) != tuple(shape):
            raise ValueError(
                f"resume: got a run of {resume['iterations']} iterations and shape {tuple(resume['x'].shape)}, "
                f"expected {iterations} and {tuple(shape)}"
            )
        noise.load_state_dict(resume["noise"])
        x, x_mean = (resume[name].to(M.device, copy=True) for name in ("x", "x_mean"))
        return State(resume["iteration"], iterations, x, x_mean, noise)
    if start is None:
        x = ops.noise(M, shape, noise, scale)
    elif tuple(start.shape) != tuple(shape) or start.device != M.device:
        got = f"{tuple(start.shape)} on {start.device}"
        raise ValueError(f"start: got {got}, expected {tuple(shape)} on {M.device}")
    else:
        x = start.detach().clone()
    return State(0, iterations, x, x, noise)


def _end_of_iteration(
    i: int, iterations: int, x: Tensor, x_mean: Tensor, noise: NoiseStream, callback: Callback | None, check: bool
) -> None:
    if check and not bool(torch.isfinite(x).all()):
        raise FloatingPointError(f"iteration {i + 1} of {iterations}: got non-finite values in x, expected finite ones")
    if callback is not None:
        callback(State(i + 1, iterations, x, x_mean, noise))


__all__ = ["State", "annealed_langevin", "inpaint", "ncsnv2_step_size", "pc"]
