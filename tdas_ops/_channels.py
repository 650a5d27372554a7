"""R as a matrix at every frequency, which mixes the channels: checks, layouts, Hermitian roots.

Matrices are half spectra `[H, W // 2 + 1, C, C]`, float64 or complex128, with `R(-k) = conj R(k)`, so that what they
make of a real field is real: `F(M z)(k) = R(k) F z(k)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tdas_ops import _arrays
from tdas_ops.reference import own_columns

Shape = tuple[int, int, int]
_CLOSE = 1e-6


def checked(name: str, matrices: Any, shape: Shape, regular: bool = False) -> Tensor:
    """The matrices as a float64 or complex128 CPU tensor of its own, real where they are; `shape` is (C, H, W).

    Raises:
        ValueError: another shape, non-finite values, no symmetry, or (with `regular`) a singular matrix.
        TypeError: no tensor or array of floating-point or complex numbers.
    """
    channels, height, width = shape
    expected = (height, width // 2 + 1, channels, channels)
    matrices = _arrays.own(name, matrices, "fc")
    if tuple(matrices.shape) != expected:
        raise ValueError(f"{name}: got shape {tuple(matrices.shape)}, expected {expected}")
    if not bool(matrices.isfinite().all()):
        raise ValueError(f"{name}: got non-finite values, expected finite ones")
    columns = matrices[:, own_columns(width)]
    largest = float(matrices.abs().max())
    wrong = float((columns - columns[-torch.arange(height) % height].conj()).abs().max())
    if wrong > _CLOSE * max(1e-300, largest):
        raise ValueError(f"{name}: got matrices that miss R(-k) = conj R(k) by {wrong:.3g}, expected ones that keep it")
    if regular and not bool((torch.linalg.det(matrices).abs() > 0).all()):
        raise ValueError(f"{name}: got a singular matrix, expected regular ones (method='noise' admits any)")
    return matrices.real.contiguous() if matrices.is_complex() and not bool(matrices.imag.any()) else matrices


def for_ops(matrices: Tensor) -> Tensor:
    """The same as an op takes them: `[C, C, H, W // 2 + 1]`."""
    return matrices.permute(2, 3, 0, 1).contiguous()


def gains(matrices: Tensor) -> Tensor:
    """Standard deviation of every channel of M z, for white z of unit variance: half spectrum `[C, H, W // 2 + 1]`."""
    return matrices.abs().square().sum(-1).sqrt().permute(2, 0, 1)


def eigen(name: str, spectrum: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Eigenvalues `[H, W // 2 + 1, C]`, none below 0, and eigenvectors of a cross-spectrum, covariances S(k).

    Raises:
        ValueError: as `checked`, and where S is not Hermitian or has an eigenvalue below 0 by more than rounding.
    """
    spectrum = checked(name, spectrum, shape)
    largest = float(spectrum.abs().max())
    skew = float((spectrum - spectrum.mH).abs().max())
    if skew > _CLOSE * max(1e-300, largest):
        raise ValueError(f"{name}: got matrices that miss S = S^H by {skew:.3g}, expected covariances")
    values, vectors = torch.linalg.eigh(spectrum)
    lowest = float(values.min())
    if lowest < -_CLOSE * largest:
        raise ValueError(f"{name}: got an eigenvalue of {lowest:.3g}, expected covariances, which have none below 0")
    return values.clamp_min(0), vectors


def compose(values: Tensor, vectors: Tensor) -> Tensor:
    """Hermitian matrices with these eigenvalues and eigenvectors."""
    return (vectors * values[..., None, :].to(vectors.dtype)) @ vectors.mH
