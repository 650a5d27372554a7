"""What a power spectrum may be given as, and its values on a grid after all checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tdas_ops import _arrays, _channels
from tdas_ops.fields import grid
from tdas_ops.fields.estimate import PowerSpectrum

Power = Callable[[Tensor], Any] | tuple[Any, Any] | PowerSpectrum | Any
_CLOSE = 1e-6
_KINDS = "a function of k, a table (k, P), a PowerSpectrum, or P at every frequency"


class Amplitudes(NamedTuple):
    """The root of `P / product of spacings`: what unit white noise is multiplied with, `F x = R F z`.

    Attributes:
        values: half spectrum `[..., n // 2 + 1]` float64, or Hermitian matrices `[..., n // 2 + 1, C, C]`, float64 or
            complex128.
        even: whether it is the same at k and at k with the sign of one component changed.
    """

    values: Tensor
    even: bool

    def channels(self, axes: int) -> int | None:
        """C, or None for a scalar field."""
        return self.values.shape[-1] if self.values.dim() > axes else None


def amplitudes(spectrum: Power, shape: Sequence[int], spacing: Sequence[float], cell: float) -> Amplitudes:
    """The amplitudes of a spectrum on a grid; `cell` is the product of the spacings."""
    axes = len(shape)
    if callable(spectrum) or isinstance(spectrum, tuple):
        k = grid.radii(shape, spacing)
        power = _called(spectrum, k) if callable(spectrum) else _tabulated(spectrum, k)
        _check_values(power, axes, k)
        return Amplitudes(grid.unfolded(_root(power, axes, cell), shape), True)
    if not hasattr(spectrum, "__array__"):
        raise TypeError(f"spectrum: got {type(spectrum).__name__}, expected {_KINDS}")
    power = _arrays.own("spectrum", spectrum, "fc")
    expected = grid.half_shape(shape)
    square = power.dim() == axes + 2 and power.shape[-1] == power.shape[-2]
    if tuple(power.shape[:axes]) != expected or not (power.dim() == axes or square):
        rule = f"{expected}, a half spectrum of the grid {tuple(shape)}, or (*{expected}, C, C)"
        raise ValueError(f"spectrum: got shape {tuple(power.shape)}, expected {rule}")
    if power.dim() == axes and power.is_complex():
        raise TypeError(f"spectrum: got {power.dtype}, expected real values")
    _check_values(power, axes, grid.radii(shape, spacing, half=True))
    wrong = float((grid.mirrored(power, shape).conj() - _own(power, shape)).abs().max())
    if wrong > _CLOSE * float(power.abs().max()):
        raise ValueError(f"spectrum: got values that miss P(-k) = conj P(k) by {wrong:.3g}, expected ones that keep it")
    even = all(_even(power, axis) for axis in range(axes - 1)) and not power.is_complex()
    return Amplitudes(_root(power, axes, cell), even)


def _called(spectrum: Callable[[Tensor], Any], k: Tensor) -> Tensor:
    power = spectrum(k.clone())
    if not hasattr(power, "__array__"):
        raise TypeError(f"spectrum: got {type(power).__name__} from it, expected a tensor or array like k")
    power = _arrays.own("spectrum", power, "fiu")
    matrices = power.dim() == k.dim() + 2 and power.shape[-1] == power.shape[-2]
    if power.shape[: k.dim()] != k.shape or not (power.dim() == k.dim() or matrices):
        rule = f"{tuple(k.shape)}, the shape of k, or that and (C, C)"
        raise ValueError(f"spectrum: got shape {tuple(power.shape)} from it, expected {rule}")
    if bool(k[(0,) * k.dim()] == 0) and not bool(power[(0,) * k.dim()].isfinite().all()):
        power[(0,) * k.dim()] = 0
    return power


def _tabulated(table: tuple[Any, ...], k: Tensor) -> Tensor:
    """A table at |k|: scalars linear in log P over log k, matrices linear over log k; nothing at k = 0."""
    measured = isinstance(table, PowerSpectrum)
    if not measured and len(table) != 2:
        raise ValueError(f"spectrum: got a tuple of {len(table)}, expected a table (k, P)")
    at, power = (_arrays.own(name, each, "fiu") for name, each in zip(("k", "P"), table[:2], strict=True))
    matrices = power.dim() == 3 and power.shape[-1] == power.shape[-2]
    if at.dim() != 1 or len(at) < 2 or len(power) != len(at) or not (power.dim() == 1 or matrices):
        got = f"k of shape {tuple(at.shape)} and P of shape {tuple(power.shape)}"
        raise ValueError(f"spectrum: got a table with {got}, expected (n,) and (n,) or (n, C, C), n at least 2")
    if not bool(at.isfinite().all()) or not bool(at[0] > 0) or not bool((at.diff() > 0).all()):
        raise ValueError("spectrum: got a table whose k are not all positive and rising, expected them so")
    _check_values(power, 1, at)
    inside = k[k > 0]
    low, high = float(inside.min()) if len(inside) else 1.0, float(inside.max()) if len(inside) else 1.0
    if len(inside) and not measured and (low < float(at[0]) * (1 - 1e-9) or high > float(at[-1]) * (1 + 1e-9)):
        got = f"got a table from k = {float(at[0]):.6g} to {float(at[-1]):.6g}"
        raise ValueError(f"spectrum: {got}, expected the {low:.6g} to {high:.6g} of the grid")
    x, y = at.log(), power if matrices else power.clamp_min(1e-300).log()
    where = k.clamp(float(at[0]), float(at[-1])).log()
    right = torch.searchsorted(x, where).clamp(1, len(x) - 1)
    share = (where - x[right - 1]) / (x[right] - x[right - 1])
    share = share[..., None, None] if matrices else share
    made = torch.lerp(y[right - 1], y[right], share)
    made = made if matrices else made.exp_()
    made[k == 0] = 0
    return made


def _check_values(power: Tensor, axes: int, k: Tensor) -> None:
    """Finite everywhere, and not negative (covariances are looked at with their eigenvalues)."""
    if power.numel() == 0:
        raise ValueError(f"spectrum: got shape {tuple(power.shape)}, expected some values")
    low, high = (float(end) for end in (torch.view_as_real(power) if power.is_complex() else power).aminmax())
    finite = math.isfinite(low) and math.isfinite(high)
    if not finite or (power.dim() == axes and low < 0):
        strange, rule = (power < 0, "none below 0") if finite else (~power.isfinite(), "finite ones")
        place = tuple(strange.nonzero()[0].tolist())
        value, at = power[place].item(), float(k[place[:axes]])
        raise ValueError(f"spectrum: got P = {value:.4g} at k = {at:.6g}, expected {rule}")


def _root(power: Tensor, axes: int, cell: float) -> Tensor:
    if power.dim() == axes:
        return power.div_(cell).sqrt_()
    largest = float(power.abs().max())
    skew = float((power - power.mH).abs().max())
    if skew > _CLOSE * largest:
        raise ValueError(f"spectrum: got matrices that miss P = P^H by {skew:.3g}, expected covariances")
    values, vectors = torch.linalg.eigh(power)
    lowest = float(values.min())
    if lowest < -_CLOSE * largest:
        raise ValueError(f"spectrum: got an eigenvalue of {lowest:.3g}, expected covariances, which have none below 0")
    return _channels.compose(values.clamp_min_(0).div_(cell).sqrt_(), vectors)


def _own(half: Tensor, shape: Sequence[int]) -> Tensor:
    return half.movedim(len(shape) - 1, 0)[grid.own_columns(shape[-1])].movedim(0, len(shape) - 1)


def _even(power: Tensor, axis: int) -> bool:
    """Whether the values are the same with the sign of one component of k changed, up to rounding."""
    other = power.flip(axis).roll(1, axis)
    return bool(((power - other).abs() <= 1e-9 * (power.abs() + other.abs())).all())
