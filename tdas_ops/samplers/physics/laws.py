"""Gaussian laws as energies, and masses from spectra and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _arguments, _arrays, ops
from tdas_ops.fields import GaussianField
from tdas_ops.fields.grid import Spacing, checked_shape
from tdas_ops.fields.spectra import Power
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.reference import column_weights
from tdas_ops.samplers.physics.chain import Energy, Mass, Observable


def mass_of_spectrum(
    spectrum: Power, shape: Sequence[int], spacing: Spacing = 1.0, *, device: torch.device | str = "cpu"
) -> Mass:
    """The filter M whose `M M^T` is the covariance of a field of a power spectrum: the inverse mass that makes all
    modes turn at frequency 1, and the prior of `pcn`.

    Args:
        spectrum: P(k) as `random_field` takes it, above 0 at every frequency, also at k = 0; in lattice units P is the
            variance of a coefficient of the orthonormal DFT.
        shape: points of the axes, for states `[chains, N]`, `[chains, 1, H, W]` and `[chains, n, n, n]`.
        spacing, device: as in `random_field`.

    Returns: a `Preconditioner` of method "pds"; in three dimensions a `GaussianField`.

    Raises:
        ValueError, TypeError: as `GaussianField` has them; a spectrum that is 0 somewhere (it would never move there).
    """
    field = GaussianField(spectrum, shape, spacing, device=device)
    if len(field.shape) == 3:
        if not field.regular:
            raise ValueError("spectrum: got one with values of 0 or with channels, expected power at every frequency")
        return field
    M = field.filter
    about = {"source": "mass of a spectrum"}
    return Preconditioner(M.shape, M.freq, method="pds", provenance=about, device=M.device)


def mass_of_samples(samples: Any) -> Preconditioner:
    """The filter M whose `M M^T` has the spectrum of samples of a stationary law, for instance of a short run.

    The variance of each coefficient is averaged over the samples and over the signs of both components of k. What is
    estimated from n samples is off by a factor of `1 +- sqrt(1 / n)` or less, which a mass hardly feels.

    Args:
        samples: `[N, C, H, W]` with two or more; a tensor or array of floating-point numbers.

    Raises:
        ValueError, TypeError: another shape, values that are not finite, or a coefficient that never varies.
    """
    device = samples.device if isinstance(samples, Tensor) else "cpu"
    values = _arrays.own("samples", samples, "f")
    if values.dim() != 4 or len(values) < 2 or values.numel() == 0 or not bool(values.isfinite().all()):
        rule = "finite values [N, C, H, W], N at least 2"
        raise ValueError(f"samples: got shape {tuple(values.shape)}, expected {rule}")
    mean = values.mean((0, 2, 3), keepdim=True)
    height, width = values.shape[2:]
    power = torch.fft.rfft2(values - mean, norm="ortho").abs().square().mean(0)
    power = 0.5 * (power + power.flip(1).roll(1, 1))
    if not bool((power > 0).all()):
        raise ValueError("samples: got a coefficient that is the same in all of them, expected some variance")
    about = {"source": "mass of samples", "samples": len(values)}
    return Preconditioner((values.shape[1], height, width), power.sqrt(), provenance=about, device=device)


def gaussian(M: Mass) -> tuple[Energy, Observable]:
    """`(energy, grad)` of the Gaussian law of covariance `M M^T`: `U = |M^-1 x|^2 / 2` as a Parseval sum, float64.

    Args:
        M: a filter with a frequency mask alone, positive, for states `[chains, C, H, W]`; or a periodic scalar
            `GaussianField` with power at every frequency, for states `[chains, *shape]`.

    Raises:
        ValueError, TypeError: a filter with a space mask, matrices or no mask, another field.
    """
    if isinstance(M, GaussianField):
        if M.grid != M.shape or not M.regular:
            raise ValueError(f"M: got {M!r}, expected a periodic scalar field with power at every frequency")
        root, shape, axes = M._root(torch.float64), M.shape, tuple(range(-len(M.shape), 0))

        def apply(x: Tensor) -> Tensor:
            spectrum = torch.fft.rfftn(x.detach(), dim=axes).div_(root).div_(root)
            return torch.fft.irfftn(spectrum, s=shape, dim=axes)

        return _parseval(root, shape), apply
    if not isinstance(M, Preconditioner):
        raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner or a GaussianField")
    if M.freq is None or M.space is not None or M.mixing or not bool((M.freq > 0).all()):
        raise ValueError(f"M: got {M!r}, expected a filter with a positive frequency mask alone")
    inverse = Preconditioner(M.shape, M.freq.reciprocal(), method=None, device=M.device)
    return _parseval(M.freq.to(M.device), M.shape[1:]), lambda x: ops.precondition(x.detach(), inverse, "MMt")


def _parseval(root: Tensor, shape: Sequence[int]) -> Energy:
    """Half the sum of `|x_k / root|^2` of the orthonormal DFT, of half spectra."""
    weights = column_weights(shape[-1]).to(root.device) / (root.square() * (2 * math.prod(shape)))
    axes = tuple(range(-len(shape), 0))

    def energy(x: Tensor) -> Tensor:
        square = torch.view_as_real(torch.fft.rfftn(x, dim=axes)).double().square().sum(-1)
        return (square * weights).flatten(1).sum(1)

    return energy


def free_propagator(shape: Sequence[int], mass_squared: float) -> Tensor:
    """The propagator of a free scalar field on a periodic lattice of spacing 1: `1 / (khat^2 + m^2)`,
    `khat^2 = sum 4 sin^2(k_i / 2)`, as the half spectrum that `random_field` and `mass_of_spectrum` take, float64.

    It belongs to the action `S = sum_x [ sum_i (phi(x + i) - phi(x))^2 + m^2 phi(x)^2 ] / 2`.

    Args:
        shape: points of one, two or three axes.
        mass_squared: m^2, above 0, in lattice units.

    Source: Montvay and Muenster, Quantum Fields on a Lattice (1994), section 2.1.
    """
    mass = _arguments.number("mass_squared", mass_squared)
    if not 0 < mass < math.inf:
        raise ValueError(f"mass_squared: got {mass_squared}, expected a finite positive number")
    sizes = checked_shape(shape)
    total = torch.full((), mass, dtype=torch.float64)
    for axis, n in enumerate(sizes):
        count = n if axis < len(sizes) - 1 else n // 2 + 1
        k = math.pi * torch.arange(count, dtype=torch.float64) / n
        total = total + (4 * k.sin().square()).reshape(-1, *[1] * (len(sizes) - 1 - axis))
    return total.reciprocal_()
