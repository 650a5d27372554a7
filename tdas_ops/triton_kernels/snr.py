"""The step size of the snr rule from sums of squares: norms of each sample, then their average and eta, on the device.

Every sum has a fixed order, which depends on the size of a sample and, for the average, on their count.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tdas_ops.triton_kernels.scales import Scale

BLOCK = 256


@triton.jit
def _norm(squares, sample, blocks, BLOCK: tl.constexpr):
    """The root of the sum over the blocks of a sample, float64."""
    total = tl.zeros([BLOCK], tl.float64)
    start = 0
    while start < blocks:
        block = start + tl.arange(0, BLOCK)
        total += tl.load(squares + sample.to(tl.int64) * blocks + block, mask=block < blocks, other=0.0).to(tl.float64)
        start += BLOCK
    return tl.sqrt(tl.sum(total))


@triton.jit
def norm_kernel(norms, drift, noise, drift_blocks, noise_blocks, samples, BLOCK: tl.constexpr):
    """norms: float64 `[2, samples]`, of the drift and of the noise; one program a sample."""
    sample = tl.program_id(0)
    tl.store(norms + sample, _norm(drift, sample, drift_blocks, BLOCK))
    tl.store(norms + samples + sample, _norm(noise, sample, noise_blocks, BLOCK))


@triton.jit
def _average(norms, samples, BLOCK: tl.constexpr):
    """The average of the finite ones; NaN where there is none."""
    total, count = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    start = 0
    while start < samples:
        sample = start + tl.arange(0, BLOCK)
        norm = tl.load(norms + sample, mask=sample < samples, other=float("inf"))
        finite = tl.abs(norm) < float("inf")
        total += tl.where(finite, norm, 0.0)
        count += tl.where(finite, 1.0, 0.0)
        start += BLOCK
    return tl.sum(total) / tl.sum(count)


@triton.jit
def step_size_kernel(
    eta, norms, snr, alpha, alpha_each, alpha_stride, samples, PER_SAMPLE: tl.constexpr, BLOCK: tl.constexpr
):
    """eta: float32 `[samples]`."""
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = sample < samples
    if PER_SAMPLE:
        drift = tl.load(norms + sample, mask=inside, other=1.0)
        noise = tl.load(norms + samples + sample, mask=inside, other=1.0)
    else:
        drift, noise = _average(norms, samples, BLOCK), _average(norms + samples, samples, BLOCK)
    ratio = tl.where(drift == 0.0, 0.0, snr * noise / drift)  # no score, no step
    if alpha_each is not None:
        alpha = tl.load(alpha_each + sample * alpha_stride, mask=inside, other=1.0).to(tl.float32)
    tl.store(eta + sample, (2.0 * alpha * ratio * ratio).to(tl.float32), mask=inside)


def step_size(drift: Tensor, noise: Tensor, snr: float, alpha: Scale, per_sample: bool) -> Tensor:
    """`eta = 2 alpha (snr |M z| / |D v|)^2`, float32 `[B]`, the norms of a sample or averaged over the batch.

    Args:
        drift, noise: float32 `[B, blocks]`, squares of D v and M z, summed a block of a sample.
        alpha: a scale.
        per_sample: norms of each sample; else averages over those that are finite.

    Source: Song et al., arXiv 2011.13456, algorithms 4 and 5; PDS, arXiv 2207.02196, for the preconditioned norms.
    """
    samples = len(drift)
    norms = torch.empty((2, samples), dtype=torch.float64, device=drift.device)
    eta = torch.empty(samples, device=drift.device)
    norm_kernel[(samples,)](norms, drift, noise, drift.shape[1], noise.shape[1], samples, BLOCK=BLOCK)
    grid = (triton.cdiv(samples, BLOCK),)
    step_size_kernel[grid](eta, norms, snr, *alpha.arguments(), samples, PER_SAMPLE=per_sample, BLOCK=BLOCK)
    return eta
