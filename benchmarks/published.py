"""The update as the papers' own code carries it out, written straight from their formulas: complex FFTs one axis at a
time, full unfolded masks, drift and noise apart. The baseline of the benchmarks and the independent oracle of the
tests; it shares no code with the package.

Source: PDS, arXiv 2207.02196, equations of the preconditioned predictor and corrector; TDAS, arXiv 2206.04029.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dft(v: Tensor) -> Tensor:
    """The unnormalised 2-D DFT of every plane, rows then columns."""
    return torch.fft.fft(torch.fft.fft(v, dim=-1), dim=-2)


def inverse_dft(v: Tensor) -> Tensor:
    return torch.fft.ifft(torch.fft.ifft(v, dim=-1), dim=-2)


def apply_m(v: Tensor, R: Tensor, A: Tensor | None) -> Tensor:
    """M v = F^-1 R F A v; R and A are full masks `[C, H, W]`; without A its multiplication is left out."""
    return inverse_dft(R * dft(v if A is None else A * v)).real


def apply_mmt(v: Tensor, R: Tensor, A: Tensor | None) -> Tensor:
    """M M^T v = F^-1 R F A^2 F^-1 R F v; without A the inner pair of transforms is left out as well."""
    if A is None:
        return inverse_dft(R * R * dft(v)).real
    return inverse_dft(R * dft(A.square() * inverse_dft(R * dft(v)))).real


def apply_skew(v: Tensor, w: Tensor) -> Tensor:
    """S v = F^-1 i w F v."""
    return inverse_dft(1j * w * dft(v)).real


def update(
    x: Tensor, v: Tensor, R: Tensor, A: Tensor | None, d: float | Tensor, n: float | Tensor, z: Tensor, method: str
) -> tuple[Tensor, Tensor]:
    """(x', x_mean) of one update; d and n are numbers or `[B, 1, 1, 1]`."""
    drift = apply_mmt(v, R, A) if method == "pds" else v
    x_mean = x + d * drift
    return x_mean + n * apply_m(z, R, A), x_mean


def langevin(
    x: Tensor,
    score: Tensor,
    R: Tensor,
    A: Tensor | None,
    snr: float,
    alpha: float,
    z: Tensor,
    method: str,
    per_sample: bool = False,
) -> tuple[Tensor, Tensor]:
    """The corrector with its snr rule: (x', x_mean)."""
    drift = apply_mmt(score, R, A) if method == "pds" else score
    noise = apply_m(z, R, A)
    drift_norm = drift.reshape(len(x), -1).norm(dim=-1)
    noise_norm = noise.reshape(len(x), -1).norm(dim=-1)
    if not per_sample:
        drift_norm, noise_norm = drift_norm.mean(), noise_norm.mean()
    eta = ((snr * noise_norm / drift_norm) ** 2 * 2 * alpha).reshape(-1, 1, 1, 1)
    x_mean = x + eta * drift
    return x_mean + torch.sqrt(eta * 2) * noise, x_mean
