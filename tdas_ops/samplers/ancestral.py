"""Ancestral sampling of DDPM and its variance-exploding form, on a ladder of noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tdas_ops.noise import Stream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.prior import Prior
from tdas_ops.samplers._known import coloured, filters_beside
from tdas_ops.samplers._ladder import (
    Levels,
    Step,
    arrival,
    between,
    noise_levels,
    run_of,
    step_of,
    steps_of,
)
from tdas_ops.samplers._run import Filters, NoiseSampler, Options, ScoreFn
from tdas_ops.sde import Marginal, NoiseLevels

if TYPE_CHECKING:
    from typing_extensions import Unpack


@torch.no_grad()
def ancestral(
    score_fn: ScoreFn,
    shape: Sequence[int],
    sde: NoiseLevels,
    M: Filters | None = None,
    *,
    noise: Stream,
    evaluations: int | None = None,
    ladder: Levels = "karras",
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    covariance: Prior | None = None,
    share: float = 1.0,
    **options: Unpack[Options],
) -> Tensor:
    """Ancestral sampling: each step draws from the posterior of the next level given this one and the denoised image.

    From s to t: `x' = x + (1 - r / s) D (x0 - x) + n M z` with `n = eta t sqrt(1 - t^2 / s^2)` and `r^2 = t^2 - n^2`.
    At eta = 1 that is DDPM, at eta = 0 DDIM, which is Euler of the probability flow.

    Args:
        score_fn: `(x, what the SDE tells it) -> score`.
        shape: (B, C, H, W).
        sde: `VE`, `VP`, `SubVP`, `Discrete`, or what `sde.NoiseLevels` describes.
        M: the preconditioner, by default none; or one for each step; as in `pc`.
        noise: the stream of all noise of the run, start point included; or its seed, or a `torch.Generator`
            of which one is drawn at the start (`NoiseStream.of`).
        evaluations: calls of the score function, one a step; None where the ladder says how many.
        ladder: see `samplers.Levels`.
        eta: share of the posterior's noise, from 0 to 1.
        s_noise: factor of the noise.
        noise_sampler: `(sigma, sigma_next) -> z`, unit normal noise of a step like x, in the place of a draw of
            `noise`: with `noise.brownian(shape)` the picture stays the same, but for what the steps leave out, at
            another number of evaluations. Not beside a covariance or with `cuda_graph`.
        covariance: a law of the data that gives the noise the covariance of its posterior, `Prior.posterior_noise`, in
            the place of isotropic noise: exact for data of that law at eta = 1. None in a step to 0, and not beside M.
        share: of what that covariance exceeds isotropic noise by, from 0 to 1.
        options: see `samplers.Options`; x in them is the state over its mean scale, `x0 + sigma z`.

    Returns: samples `[B, C, H, W]`, in the dtype of the start.

    Raises:
        ValueError, TypeError: bad arguments, before the first evaluation of the score.
        RuntimeError, FloatingPointError: as in `pc`.

    Source: Ho et al., arXiv 2006.11239, equations 6 and 7; Song et al., arXiv 2011.13456, appendix F; eta: Song et al.,
        arXiv 2010.02502, equation 16; the covariance: Analytic-DPM, arXiv 2201.06503, with that of a Gaussian law.
    """
    eta, s_noise = between("eta", eta, 0.0, 1.0), between("s_noise", s_noise, 0.0, 10.0)
    share = between("share", share, 0.0, 1.0)
    M = filters_beside(M, shape, noise_sampler, covariance=covariance)
    steps = steps_of(sde, noise_levels(sde, evaluations, ladder))
    coefficients = [_coefficients(step, eta, s_noise) for step in steps]
    run = run_of(score_fn, shape, M, noise, steps, coefficients, noise_sampler=noise_sampler, **options)
    noisy = eta * s_noise > 0

    def iterate(M: Preconditioner, coefficients: Tensor, level: Marginal | None) -> Tensor:
        here, (d, n) = step_of(coefficients)
        score = run.score(here.condition, here.mean_scale)
        if covariance is None or not noisy:
            return run.step(score, M, d, n if noisy else None, level or arrival(here.sigma_next))
        v = coloured(run, covariance, here, 1.0, share, eta * s_noise).addcmul_(score.to(run.x.dtype), d)
        return run.step(v, M, 1.0, None, level or arrival(here.sigma_next))

    def last(M: Preconditioner, coefficients: Tensor, level: Marginal | None) -> Tensor:
        here, (d, _) = step_of(coefficients)
        return run.step(run.score(here.condition, here.mean_scale), M, d, None, level or arrival(here.sigma_next))

    run.loop(iterate, last if covariance is not None and steps[-1].sigma_next == 0 else None)
    return run.x


def _coefficients(step: Step, eta: float, s_noise: float) -> tuple[float, float]:
    """d of the score, and n."""
    up = eta * step.sigma_next * math.sqrt(1 - (step.sigma_next / step.sigma) ** 2)
    down = math.sqrt(step.sigma_next**2 - up**2)
    return (1 - down / step.sigma) * step.gain, s_noise * up
