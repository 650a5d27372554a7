"""Annealed Langevin dynamics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from tdas_ops.noise import Stream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers._run import Filters, Options, Run, ScoreFn
from tdas_ops.sde import Marginal

if TYPE_CHECKING:
    from typing_extensions import Unpack


@torch.no_grad()
def annealed_langevin(
    score_fn: ScoreFn,
    shape: Sequence[int],
    sigmas: Sequence[float],
    M: Filters | None = None,
    *,
    noise: Stream,
    step_size: float | None = None,
    steps: int = 5,
    rule: Literal["ncsn", "ncsnv2"] = "ncsnv2",
    denoise: bool | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Annealed Langevin dynamics: at each noise level `steps` Langevin steps of size `epsilon (sigma_i / sigma_L)^2`.

    Args:
        score_fn: `(x, sigma) -> score`.
        shape: (B, C, H, W).
        sigmas: the noise levels, from large to small; each one is an iteration of the run.
        M: the preconditioner, on the device to sample on; or one for each noise level, as in `pc`.
        noise: the stream of all noise of the run, start point included; or its seed, or a `torch.Generator`
            of which one is drawn at the start (`NoiseStream.of`).
        step_size: epsilon, in units of sigma^2; by default that of `ncsnv2_step_size` (rule "ncsnv2" only; NCSN
            published 2e-5 for sigma from 1 to 0.01).
        steps: T, Langevin steps a level.
        rule: "ncsn" takes `x + alpha / 2 score + sqrt(alpha) z` (arXiv 1907.05600, algorithm 1), "ncsnv2"
            `x + alpha score + sqrt(2 alpha) z` (arXiv 2006.09011, algorithm 1).
        denoise: add `sigma_L^2 score` at the end; by default True for "ncsnv2" and False for "ncsn".
        options: see `samplers.Options`. The start is by default `noise(M, scale=sigmas[0])`.

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
    levels = [Marginal(sigma, 1.0, sigma) for sigma in sigmas]
    etas = [factor * step_size * (sigma / last) ** 2 for sigma in sigmas]
    rows = [(sigma, eta, math.sqrt(2 * eta)) for sigma, eta in zip(sigmas, etas, strict=True)]
    run = Run(score_fn, shape, M, noise, levels, rows, sigmas[0], **options)

    def iterate(M: Preconditioner, coefficients: Tensor, level: Marginal | None) -> Tensor:
        sigma, eta, n = coefficients.unbind()
        for _ in range(steps):
            run.step(run.score(sigma), M, eta, n, level or Marginal(sigma, 1.0, sigma))  # type: ignore[arg-type]
        return run.x

    run.loop(iterate)
    x = run.x
    if denoise if denoise is not None else rule == "ncsnv2":
        clean = torch.add(x, run.score(run.rows[-1][0]), alpha=last**2)
        return clean if run.hook is None else run.hook(x, clean, levels[-1], run.noise)[1]
    return x


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
