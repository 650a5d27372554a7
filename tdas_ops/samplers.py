"""Samplers: loops of `step` and `langevin_step` around a score function.

A score function is any callable `(x, level) -> score`: x is `[B, C, H, W]`, `level` a tensor `[B]` in the dtype and on
the device of x with sigma (VE and annealed Langevin) or t (VP, sub-VP) of every sample. No loop waits for the device,
unless `check_finite` is set or a callback asks for values.

A run can be interrupted and continued: `callback` receives a `State` after every iteration; its `state_dict()` handed
to `resume` continues to bit-identical samples.

An iteration is one function that updates the state in place and reads everything that differs between iterations
(coefficients, masks, the draw counter) from tensors, so that a CUDA graph of it is right for all of them.
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
from tdas_ops._graph import Captured, Iteration
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
        x: the current state, noise included, `[B, C, H, W]`; the next iteration writes to this tensor.
        x_mean: the state before the last noise was added: the sample when the run is over; the next iteration may
            write to this tensor.
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
    run = _Run(shape, _filters(M, iterations), levels, noise, hook, cuda_graph)
    run.begin(sde.start_scale, start, resume, network_dtype, channels_last)
    linear = any(level.reverse[0] != 0.0 for level in levels)
    clean = predictor is None or hook is not None  # whether anyone looks at the corrector's x_mean

    def iterate(M: Preconditioner, coefficients: Tensor, level: Level | None) -> Tensor:
        x, here = run.x, _level(coefficients)
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
    cuda_graph: bool = False,
    network_dtype: torch.dtype | None = None,
    channels_last: bool = False,
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
        hook, callback, resume, check_finite, cuda_graph, network_dtype, channels_last, progress: as in `pc`.

    Returns: samples `[B, C, H, W]`, in the dtype of the start.

    Raises:
        ValueError, TypeError: bad arguments, before the first evaluation of the score.
        RuntimeError, FloatingPointError: as in `pc`.
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
    if not 0.0 <= step_size < math.inf:
        raise ValueError(f"step_size: got {step_size}, expected a finite number that is not negative")
    last, factor = sigmas[-1], 0.5 if rule == "ncsn" else 1.0
    levels = [_langevin_level(sigma, sigmas[0], factor * step_size * (sigma / last) ** 2) for sigma in sigmas]
    run = _Run(shape, _filters(M, len(sigmas)), levels, noise, hook, cuda_graph)
    run.begin(sigmas[0], start, resume, network_dtype, channels_last)

    def iterate(M: Preconditioner, coefficients: Tensor, level: Level | None) -> Tensor:
        x, here = run.x, _level(coefficients)
        _, eta, n = here.reverse
        for _ in range(steps):
            score = score_fn(run.seen, here.condition.expand(shape[0]))
            ops.step(x, score, M, eta, noise_scale=n, noise=noise, out=x, cast=run.cast)
            run.hooked(x, level or here)
        return x

    run.loop(iterate, callback, check_finite, progress)
    x = run.x
    if denoise if denoise is not None else rule == "ncsnv2":
        condition = _level(run.rows[-1]).condition.expand(shape[0])
        clean = torch.add(x, score_fn(run.seen, condition), alpha=last**2)
        return clean if hook is None else hook(x, clean, levels[-1], noise)[1]
    return x


def _langevin_level(sigma: float, highest: float, eta: float) -> Level:
    """Its `reverse` is the Langevin step of size eta."""
    step = (0.0, eta, math.sqrt(2 * eta))
    return Level(sigma / highest, sigma, 1.0, sigma, 1.0, reverse=step, euler=step)


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
        noised = level.mean_scale * known + ops.noise(white, x.shape, noise, level.std)
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


class _Run:
    """The buffers of a run, which every iteration updates in place, and its loop.

    Attributes:
        x: the state.
        seen: what the score function receives: x itself, or x in the network's dtype and memory format.
        rows: the coefficients of every iteration, a tensor for each.
    """

    def __init__(
        self,
        shape: Sequence[int],
        filters: list[Preconditioner],
        levels: list[Level],
        noise: NoiseStream,
        hook: Hook | None,
        cuda_graph: bool,
    ) -> None:
        if not isinstance(noise, NoiseStream):
            raise TypeError(f"noise: got {type(noise).__name__}, expected a NoiseStream")
        if cuda_graph:
            _check_capturable(filters)
        self.shape, self.filters, self.levels, self.noise = tuple(shape), filters, levels, noise
        self.hook, self.cuda_graph = hook, cuda_graph

    def begin(
        self,
        scale: float,
        start: Tensor | None,
        resume: dict[str, Any] | None,
        network_dtype: torch.dtype | None,
        channels_last: bool,
    ) -> None:
        """Sets the buffers to the start of the run, or to where it was interrupted."""
        if network_dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"network_dtype: got {network_dtype}, expected float32, bfloat16 or float16")
        device, iterations = self.filters[0].device, len(self.levels)
        if resume is not None:
            if resume["iterations"] != iterations or tuple(resume["x"].shape) != self.shape:
                raise ValueError(
                    f"resume: got a run of {resume['iterations']} iterations and shape {tuple(resume['x'].shape)}, "
                    f"expected {iterations} and {self.shape}"
                )
            self.noise.load_state_dict(resume["noise"])
        self.first_draw = self.noise.draw.clone()
        if resume is not None:
            self.iteration = int(resume["iteration"])
            self.x, self.x_mean = (_buffer(resume[name].to(device)) for name in ("x", "x_mean"))
        else:
            self.iteration = 0
            self.x = self.x_mean = self._start(scale, start)
        self.noise.arguments(self.shape[0], device)  # moves the stream to the device
        table = torch.tensor([_row(level) for level in self.levels], dtype=self.x.dtype)
        self.rows = table.to(device).unbind()
        memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.seen = self.x.to(network_dtype or self.x.dtype, memory_format=memory_format)

    def _start(self, scale: float, start: Tensor | None) -> Tensor:
        M = self.filters[0]
        if start is None:
            return ops.noise(M, self.shape, self.noise, scale)
        if tuple(start.shape) != self.shape or start.device != M.device:
            got = f"{tuple(start.shape)} on {start.device}"
            raise ValueError(f"start: got {got}, expected {self.shape} on {M.device}")
        return _buffer(start)

    @property
    def cast(self) -> Tensor | None:
        """What an op writes beside x. Where a hook has the last word on x, it is cast after the hook."""
        return None if self.seen is self.x or self.hook is not None else self.seen

    def hooked(self, x_mean: Tensor, level: Level) -> Tensor:
        """Lets the hook have its say on x and returns x_mean."""
        if self.hook is None:
            return x_mean
        x, x_mean = self.hook(self.x, x_mean, level, self.noise)
        if x is not self.x:
            self.x.copy_(x)
        if self.seen is not self.x:
            self.seen.copy_(self.x)
        return x_mean

    def loop(self, iterate: Iteration, callback: Callback | None, check_finite: bool, progress: bool) -> None:
        """The iterations that are left."""
        first, total = self.iteration, len(self.levels)
        if self.cuda_graph and first < total:
            iterate = self._captured(iterate)
        for i in tqdm(range(first, total), initial=first, total=total, disable=not progress):
            self.x_mean = iterate(self.filters[i], self.rows[i], self.levels[i])
            if check_finite and not bool(torch.isfinite(self.x).all()):
                raise FloatingPointError(
                    f"iteration {i + 1} of {total}: got non-finite values in x, expected finite ones"
                )
            if callback is not None:
                callback(State(i + 1, total, self.x, self.x_mean, self.noise))
        if self.cuda_graph:
            self.x_mean = self.x_mean.clone()  # out of the memory of the graph

    def _captured(self, iterate: Iteration) -> Captured:
        changed = [self.x, self.noise.draw] if self.seen is self.x else [self.x, self.seen, self.noise.draw]
        try:
            return Captured(iterate, self.filters[self.iteration], self.rows[self.iteration], changed)
        except Exception:
            self.noise.draw.copy_(self.first_draw)
            raise


def _check_device(device: torch.device) -> None:
    if device.type != "cuda":
        raise ValueError(f"cuda_graph: got True with M on {device}, expected M on a CUDA device (or cuda_graph=False)")


def _check_capturable(filters: list[Preconditioner]) -> None:
    _check_device(filters[0].device)
    if len({tuple(mask is not None for mask in M.masks(torch.float32)) for M in filters}) > 1:
        raise ValueError("M: got preconditioners with different masks absent, expected the same ones with cuda_graph")


def _row(level: Level) -> list[float]:
    return [level.time, level.condition, level.mean_scale, level.std, level.alpha, *level.reverse, *level.euler]


def _level(row: Tensor) -> Any:
    """A row of coefficients as a `Level` whose fields are views of it."""
    time, condition, mean_scale, std, alpha, *steps = row.unbind()
    return Level(time, condition, mean_scale, std, alpha, tuple(steps[:3]), tuple(steps[3:]))  # type: ignore[arg-type]


def _buffer(t: Tensor) -> Tensor:
    """A copy that an op can update in place."""
    last = not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)
    return t.detach().clone(memory_format=torch.channels_last if last else torch.contiguous_format)


__all__ = ["State", "annealed_langevin", "inpaint", "ncsnv2_step_size", "pc"]
