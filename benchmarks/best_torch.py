"""The ops as a careful user would compose them from torch today: real FFTs, the noise joined half-way, pointwise parts
merged, norms taken of half spectra. The second baseline of the benchmarks, beside the published sequence
(`published.py`).

R is a half spectrum `[C, H, W // 2 + 1]`, A is `[C, H, W]`; z is torch.randn."""

from __future__ import annotations

import torch
from torch import Tensor


def pds(x: Tensor, v: Tensor, R: Tensor | None, A: Tensor | None, d: float, n: float) -> Tensor:
    """x + M [d M^T v + n z]."""
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


def noise(like: Tensor, R: Tensor, A: Tensor | None) -> Tensor:
    """M z."""
    z = torch.randn_like(like)
    z = z if A is None else z.mul_(A)
    return torch.fft.irfft2(torch.fft.rfft2(z).mul_(R), s=like.shape[-2:])


def mmt(v: Tensor, R: Tensor, A: Tensor | None) -> Tensor:
    """M M^T v."""
    size = v.shape[-2:]
    spectrum = torch.fft.rfft2(v).mul_(R)
    if A is not None:
        spectrum = torch.fft.rfft2(torch.fft.irfft2(spectrum, s=size).mul_(A.square()))
    return torch.fft.irfft2(spectrum.mul_(R), s=size)


def langevin(x: Tensor, v: Tensor, R: Tensor, A: Tensor | None, snr: float, method: str) -> Tensor:
    """x + eta D v + sqrt(2 eta) M z, eta = 2 (snr |M z| / |D v|)^2 with the mean norms of the batch."""
    size = x.shape[-2:]
    z = torch.randn_like(x)
    coloured = torch.fft.rfft2(z if A is None else z.mul_(A), norm="ortho").mul_(R)
    if method == "tdas":
        coloured = torch.fft.irfft2(coloured, s=size, norm="ortho")
        eta = _eta(snr, v.flatten(1).norm(dim=1), coloured.flatten(1).norm(dim=1))
        return torch.addcmul(x, v, eta).addcmul_(coloured, torch.sqrt(2 * eta))
    drift = torch.fft.rfft2(v, norm="ortho").mul_(R)
    if A is not None:
        drift = torch.fft.rfft2(torch.fft.irfft2(drift, s=size, norm="ortho").mul_(A.square()), norm="ortho")
    drift.mul_(R)
    eta = _eta(snr, _spectral_norm(drift, size[1]), _spectral_norm(coloured, size[1]))
    drift.mul_(eta).add_(coloured.mul_(torch.sqrt(2 * eta)))
    return torch.fft.irfft2(drift, s=size, norm="ortho").add_(x)


def _eta(snr: float, drift_norm: Tensor, noise_norm: Tensor) -> Tensor:
    return 2 * (snr * noise_norm.mean() / drift_norm.mean()).square()


def _spectral_norm(half: Tensor, width: int) -> Tensor:
    """Norm of each sample, by Parseval: a column of the half spectrum that is not its own mirror image counts twice."""

    def power(part: Tensor) -> Tensor:
        return torch.linalg.vector_norm(torch.view_as_real(part), dim=(1, 2, 3, 4)).square()

    own = power(half[..., :1]) + (power(half[..., -1:]) if width % 2 == 0 else 0)
    return torch.sqrt(2 * power(half) - own)
