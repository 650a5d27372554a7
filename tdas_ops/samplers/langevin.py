"""Annealed Langevin dynamics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tdas_ops import ops
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers._run import Callback, Filters, Hook, Run, ScoreFn, filters, level_of
from tdas_ops.sde import Level


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
    run = Run(shape, filters(M, len(sigmas)), levels, noise, hook, cuda_graph)
    run.begin(sigmas[0], start, resume, network_dtype, channels_last)

    def iterate(M: Preconditioner, coefficients: Tensor, level: Level | None) -> Tensor:
        x, here = run.x, level_of(coefficients)
        _, eta, n = here.reverse
        for _ in range(steps):
            score = score_fn(run.seen, here.condition.expand(shape[0]))
            ops.step(x, score, M, eta, noise_scale=n, noise=noise, out=x, cast=run.cast)
            run.hooked(x, level or here)
        return x

    run.loop(iterate, callback, check_finite, progress)
    x = run.x
    if denoise if denoise is not None else rule == "ncsnv2":
        condition = level_of(run.rows[-1]).condition.expand(shape[0])
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
