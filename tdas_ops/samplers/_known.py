"""What a sampler may know of the data: a prior whose part of the flow it solves exactly, and a covariance for noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tdas_ops.preconditioner import Preconditioner
from tdas_ops.prior import Prior
from tdas_ops.samplers._ladder import Step
from tdas_ops.samplers._run import Filters, NoiseSampler, Run, filters


def filters_beside(
    M: Filters | None, shape: Sequence[int], noise_sampler: NoiseSampler | None = None, **priors: Prior | None
) -> Filters | None:
    """M, or without one the identity on the device of the priors; refuses priors that do not fit.

    Raises:
        ValueError, TypeError: one sentence that names the argument.
    """
    given = {name: prior for name, prior in priors.items() if prior is not None}
    for name, prior in given.items():
        if not isinstance(prior, Prior):
            raise TypeError(f"{name}: got {type(prior).__name__}, expected a calibrate.Prior")
        if noise_sampler is not None:
            raise ValueError(f"noise_sampler: got one beside {name}, which makes the noise, expected one of the two")
        if prior.shape != tuple(shape[1:]):
            raise ValueError(f"{name}: got a prior of shape {prior.shape}, expected {tuple(shape[1:])} as the samples")
        M = Preconditioner.identity(prior.shape).to(prior.device) if M is None else M
        for each in filters(M):
            if any(mask is not None for mask in each.masks(torch.float64)):
                raise ValueError(f"M: got a filter with masks beside {name}, expected one of the two")
            if each.device != prior.device:
                raise ValueError(
                    f"{name}: got a prior on {prior.device}, expected one on {each.device} (prior.to(device))"
                )
    return M


def coloured(run: Run, prior: Prior, step: Step, eta: float, share: float, scale: float) -> Tensor:
    """Posterior noise of a step, times `scale`."""
    noise = prior.posterior_noise(
        step.sigma, step.sigma_next, run.shape, run.noise, eta=eta, share=share, dtype=run.x.dtype
    )
    return noise if scale == 1.0 else noise.mul_(scale)


def extrapolated(now: Tensor, history: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """`now + sum_k w_k (now - that of k steps before)`; afterwards the history begins with `now`."""
    made = now.clone() if history else now
    for before, weight in zip(history, weights, strict=True):
        made.addcmul_(now - before, weight)
    for k in range(len(history) - 1, 0, -1):
        history[k].copy_(history[k - 1])
    if history:
        history[0].copy_(now)
    return made


def along_prior(run: Run, prior: Prior, score: Tensor, step: Step, weights: Sequence[Tensor], eta: float) -> Tensor:
    """What a step adds to x: the flow with the implied mean held, or extrapolated as the denoised image otherwise is.

    The history is that of the denoised image and that of the score.
    """
    score = score.to(run.x.dtype)
    order = len(weights)
    x0 = extrapolated(torch.addcmul(run.x, score, step.gain), run.history[:order], weights)
    slope = extrapolated(score * step.mean_scale, run.history[order:], weights)
    return prior.flow(run.x, x0, slope, step.sigma, step.sigma_next, eta).sub_(run.x)
