"""The update as a careful user would compose it from torch today: real FFTs, the noise joined half-way, pointwise parts
merged. The second baseline of the benchmarks, beside the published sequence (`published.py`)."""

from __future__ import annotations

import torch
from torch import Tensor


def pds(x: Tensor, v: Tensor, R: Tensor | None, A: Tensor | None, d: float, n: float) -> Tensor:
    """x + M [d M^T v + n z]; R is a half spectrum `[C, H, W // 2 + 1]`, A is `[C, H, W]`; z is torch.randn."""
    size = x.shape[-2:]
    if R is None:
        assert A is not None
        return x + (A * v).mul_(d).add_(torch.randn_like(x), alpha=n).mul_(A)
    if A is None:
        spectrum = torch.fft.rfft2(v).mul_(R).mul_(d).add_(torch.fft.rfft2(torch.randn_like(x)), alpha=n).mul_(R)
        return torch.fft.irfft2(spectrum, s=size).add_(x)
    u = torch.fft.irfft2(torch.fft.rfft2(v).mul_(R), s=size).mul_(d).mul_(A).add_(torch.randn_like(x), alpha=n).mul_(A)
    return torch.fft.irfft2(torch.fft.rfft2(u).mul_(R), s=size).add_(x)


def tdas(x: Tensor, v: Tensor, R: Tensor | None, A: Tensor | None, d: float, n: float) -> Tensor:
    """x + d v + n M z."""
    z = torch.randn_like(x)
    if A is not None:
        z = z.mul_(A)
    if R is not None:
        z = torch.fft.irfft2(torch.fft.rfft2(z).mul_(R), s=x.shape[-2:])
    return torch.add(x, v, alpha=d).add_(z, alpha=n)
