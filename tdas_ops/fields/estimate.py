"""The power spectrum of fields, averaged over shells of |k|."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tdas_ops import _arguments, _arrays
from tdas_ops.fields import grid
from tdas_ops.fields.grid import Spacing
from tdas_ops.reference import column_weights


class PowerSpectrum(NamedTuple):
    """An isotropic power spectrum, shell by shell, float64; a spectrum that `random_field` takes.

    Attributes:
        k: mean angular wavenumber of the frequencies of each shell, rising, in inverse units of length.
        power: P, in the units of `field^2 length^d`.
        modes: how many frequencies of the grid (k and -k are two) and fields each mean is over: of a Gaussian field its
            relative standard deviation is `sqrt(2 / modes)`.
    """

    k: Tensor
    power: Tensor
    modes: Tensor


def power_spectrum(field: Any, spacing: Spacing = 1.0, *, other: Any = None, edges: Any = None) -> PowerSpectrum:
    """The power spectrum of periodic fields: `|x_k|^2 / V`, averaged over shells of |k| and over the fields.

    In the convention of `tdas_ops.fields`: angular wavenumbers, P in units of `field^2 length^d`. The mean of a field,
    k = 0, is left out. Computed in float64.

    Args:
        field: `[members, *grid]` with a grid of one, two or three axes; a tensor or array of real numbers.
        spacing: distance of neighbouring grid points, one number or one for each axis.
        other: fields of the same shape, for the (real part of the) cross-spectrum of both.
        edges: rising wavenumbers that bound the shells, two or more; by default half multiples of the lowest wavenumber
            of the shortest axis, the first shell with all that lies below. Empty shells are left out.

    Raises:
        ValueError, TypeError: another number of axes, a grid of one point, edges that do not rise, values that are no
            real numbers.
    """
    fields = [_checked("field", field)]
    if other is not None:
        fields.append(_checked("other", other))
        if fields[1].shape != fields[0].shape:
            raise ValueError(f"other: got {tuple(fields[1].shape)}, expected {tuple(fields[0].shape)}, that of field")
    members, shape = len(fields[0]), tuple(fields[0].shape[1:])
    steps = grid.checked_spacing(spacing, len(shape))
    k = grid.radii(shape, steps, half=True)
    bounds = _shells(k, shape, steps, edges)
    index = torch.bucketize(k, bounds, right=True).flatten()  # 0 and len(bounds) lie outside
    index[0] = 0
    weights = column_weights(shape[-1]).expand(k.shape).flatten()
    count = len(bounds) + 1
    modes = torch.bincount(index, weights, count)
    middle = torch.bincount(index, weights * k.flatten(), count) / modes
    total, axes = torch.zeros(count, dtype=torch.float64), tuple(range(-len(shape), 0))
    for member in range(members):
        spectra = [torch.fft.rfftn(each[member].double(), dim=axes) for each in fields]
        square = (spectra[0] * spectra[-1].conj()).real if other is not None else torch.view_as_real(spectra[0])
        square = square if other is not None else square.square().sum(-1)
        total += torch.bincount(index, weights * square.flatten(), count)
    power = total / (modes * members) * (math.prod(steps) / math.prod(shape))
    kept = modes > 0
    kept[[0, -1]] = False
    return PowerSpectrum(middle[kept], power[kept], modes[kept] * members)


def _checked(name: str, field: Any) -> Tensor:
    if isinstance(field, Tensor) and field.dtype in (torch.float32, torch.float64) and field.device.type == "cpu":
        values = field.detach()
    else:
        values = _arrays.own(name, field, "fiu")
    if not 2 <= values.dim() <= 4 or 0 in values.shape or values.shape[1:].numel() < 2:
        expected = "[members, *grid] with one, two or three axes of the grid"
        raise ValueError(f"{name}: got shape {tuple(values.shape)}, expected {expected}")
    return values


def _shells(k: Tensor, shape: tuple[int, ...], steps: tuple[float, ...], edges: Any) -> Tensor:
    if edges is None:
        width = max(2 * math.pi / (n * step) for n, step in zip(shape, steps, strict=True) if n > 1)
        bounds = (torch.arange(math.ceil(float(k.max()) / width + 0.5) + 1, dtype=torch.float64) + 0.5) * width
        bounds[0] = 0
        return bounds
    bounds = _arrays.own("edges", torch.tensor(edges) if isinstance(edges, list | tuple) else edges, "fiu")
    if bounds.dim() != 1 or len(bounds) < 2 or not bool((bounds.diff() > 0).all()):
        raise ValueError(f"edges: got {_arguments.shown(edges)}, expected two or more rising wavenumbers")
    return bounds
