"""Euler's and Heun's method for the probability flow, with churn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tdas_ops import _arguments, ops
from tdas_ops._graph import Iteration
from tdas_ops.noise import Stream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers._ladder import Levels, Step, arrival, between, noise_levels, run_of, step_from, step_of
from tdas_ops.samplers._run import Filters, Options, Run, ScoreFn
from tdas_ops.sde import Marginal, NoiseLevels

if TYPE_CHECKING:
    from typing_extensions import Unpack


@torch.no_grad()
def heun(
    score_fn: ScoreFn,
    shape: Sequence[int],
    sde: NoiseLevels,
    M: Filters | None = None,
    *,
    noise: Stream,
    evaluations: int | None = None,
    ladder: Levels = "karras",
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    **options: Unpack[Options],
) -> Tensor:
    """Heun's method for the flow `dx = (x - x0) / sigma dsigma` (EDM).

    With churn, noise takes the state from sigma up to `sigma (1 + gamma)` before each step,
    `gamma = min(s_churn / steps, sqrt(2) - 1)`, as far as sigma_max. It is drawn with the step before: the state of a
    callback or hook is at the raised level.

    Args:
        score_fn, shape, sde, M, noise, ladder: as in `ancestral`.
        evaluations: calls of the score function: two a step, one for the last step to 0, so an odd number.
        s_churn: amount of churn, not negative.
        s_tmin, s_tmax: the levels, both included, that churn takes place at.
        s_noise: factor of the noise.
        options: see `samplers.Options`; x in them is the state over its mean scale, `x0 + sigma z`. A step to 0 is not
            part of a CUDA graph.

    Returns, Raises: as in `ancestral`.

    Source: Karras et al., arXiv 2206.00364, algorithm 2; names as in k-diffusion.
    """
    sigmas = noise_levels(sde, evaluations, ladder, each=2)
    steps, kicks, arrivals = churned(sde, sigmas, s_churn, s_tmin, s_tmax, s_noise)
    ends = [Step(0.0, 0.0, 0.0, 0.0, 0.0) if s == 0 else step_from(sde, s, s) for s in sigmas[1:]]
    coefficients = [
        (_euler(step), end.condition, end.mean_scale, _corrected(step, end), *arrival)
        for step, end, *arrival in zip(steps, ends, kicks[1:], arrivals, strict=True)
    ]
    run = run_of(score_fn, shape, M, noise, steps, coefficients, arrivals=arrivals, **options)
    run.kick(kicks[0])
    noisy = any(kicks[1:])

    def iterate(M: Preconditioner, coefficients: Tensor, level: Marginal | None) -> Tensor:
        here, (d, condition, mean_scale, second, n, reached) = step_of(coefficients)
        score = run.score(here.condition, here.mean_scale)
        back = score.to(run.x.dtype) * (-0.5 * d)  # kept apart from the network's memory, which the next call may reuse
        ops.step(run.x, score, M, d, noise_scale=0.0, out=run.x, cast=run.written)
        v = back.addcmul_(run.score(condition, mean_scale), second)
        return run.step(v, M, 1.0, n if noisy else None, level or arrival(reached))

    run.loop(iterate, _euler_iteration(run, noisy) if sigmas[-1] == 0 else None)
    return run.x


@torch.no_grad()
def probability_flow(
    score_fn: ScoreFn,
    shape: Sequence[int],
    sde: NoiseLevels,
    M: Filters | None = None,
    *,
    noise: Stream,
    evaluations: int | None = None,
    ladder: Levels = "karras",
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    **options: Unpack[Options],
) -> Tensor:
    """Euler's method for the flow that `heun` solves: `x' = x + (1 - t / s) D (x0 - x)` from s to t, which is DDIM.

    Args:
        score_fn, shape, sde, M, noise, evaluations, ladder: as in `ancestral`.
        s_churn, s_tmin, s_tmax, s_noise: as in `heun`.
        options: see `samplers.Options`; x in them is the state over its mean scale, `x0 + sigma z`.

    Returns, Raises: as in `ancestral`.

    Source: Song et al., arXiv 2011.13456, section 4.3, in the coordinates of arXiv 2206.00364, section 4.
    """
    sigmas = noise_levels(sde, evaluations, ladder)
    steps, kicks, arrivals = churned(sde, sigmas, s_churn, s_tmin, s_tmax, s_noise)
    coefficients = [(_euler(step), *arrival) for step, *arrival in zip(steps, kicks[1:], arrivals, strict=True)]
    run = run_of(score_fn, shape, M, noise, steps, coefficients, arrivals=arrivals, **options)
    run.kick(kicks[0])
    run.loop(_euler_iteration(run, any(kicks[1:])))
    return run.x


def _euler_iteration(run: Run, noisy: bool) -> Iteration:
    def iterate(M: Preconditioner, coefficients: Tensor, level: Marginal | None) -> Tensor:
        here, (d, *_, n, reached) = step_of(coefficients)
        score = run.score(here.condition, here.mean_scale)
        return run.step(score, M, d, n if noisy else None, level or arrival(reached))

    return iterate


def _euler(step: Step) -> float:
    """Euler's step, as a factor of the score."""
    return float((1 - step.sigma_next / step.sigma) * step.gain)


def _corrected(step: Step, end: Step) -> float:
    """The half of Heun's step that the score at its end has, as a factor of that."""
    return 0.5 * (step.sigma - step.sigma_next) * step.sigma_next * float(end.mean_scale)


def churned(
    sde: NoiseLevels,
    sigmas: Sequence[float],
    s_churn: float,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> tuple[list[Step], list[float], list[float]]:
    """Steps from the raised levels, the noise that raises each level, and what each step reaches."""
    expected = "a finite number that is not negative"
    s_churn = _arguments.number("s_churn", s_churn, expected)
    if not 0 <= s_churn < math.inf:
        raise ValueError(f"s_churn: got {s_churn:g}, expected {expected}")
    s_tmin, s_tmax = _arguments.number("s_tmin", s_tmin), _arguments.number("s_tmax", s_tmax)
    if not 0 <= s_tmin <= s_tmax:
        raise ValueError(f"s_tmin, s_tmax: got ({s_tmin:g}, {s_tmax:g}), expected 0 <= first <= second")
    s_noise = between("s_noise", s_noise, 0.0, 10.0)
    gamma = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    raised = [
        max(sigma, min(sigma * (1 + gamma), sde.sigma_max)) if s_tmin <= sigma <= s_tmax else sigma
        for sigma in sigmas[:-1]
    ] + [sigmas[-1]]
    kicks = [s_noise * math.sqrt(high**2 - low**2) for high, low in zip(raised, sigmas, strict=True)]
    steps = [step_from(sde, *pair) for pair in zip(raised, sigmas[1:], strict=False)]
    return steps, kicks, raised[1:]
