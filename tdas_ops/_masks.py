"""Masks as callers give them: checked, and brought to the layout that a `Preconditioner` keeps."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tdas_ops import _arguments, _arrays
from tdas_ops._statistics import check_unshifted, normalised
from tdas_ops.reference import own_columns

Method = Literal["pds", "tdas"] | None
Shape = tuple[int, int, int]
Values = Any  # a tensor, or an array of any library that numpy reads
Mask = Values | str | os.PathLike[str]

_EVEN = 1e-6
_ELEMENTS = 1 << 33  # of a sample: the noise contract counts them, two at a time, in 32 bits


def check_shape(shape: Sequence[int]) -> Shape:
    expected = "(C, H, W), all positive, of fewer than 2^33 elements"
    found = _arguments.sizes("shape", shape, expected)
    if len(found) != 3 or math.prod(found) >= _ELEMENTS:
        raise ValueError(f"shape: got {_arguments.shown(found)}, expected {expected}")
    return found


def checked(
    name: str, mask: Any, shape: tuple[int, int, int], width: int | None, *, odd: bool, positive: bool
) -> Tensor | None:
    """The mask as a float64 CPU tensor of its own, after the checks made once; `width` marks a half spectrum."""
    if mask is None:
        return None
    mask = _arrays.own(name, mask, "f")
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{name}: got shape {tuple(mask.shape)}, expected {tuple(shape)}")
    if not bool(mask.isfinite().all()):
        raise ValueError(f"{name}: got non-finite values, expected finite ones")
    if positive and not bool((mask > 0).all()):
        raise ValueError(
            f"{name}: got values down to {float(mask.min()):.4g}, expected positive ones (method=None admits any)"
        )
    if width is not None:
        columns = mask[..., own_columns(width)]
        mirrored = columns[..., -torch.arange(shape[1]) % shape[1], :]
        _check_parity(name, columns, mirrored, float(mask.abs().max()), odd)
    return mask


def beyond_float32(name: str, mask: Tensor | None, method: Method) -> str | None:
    """Why a mask cannot be used in float32, or None."""
    if mask is None:
        return None
    if mask.dim() == 4:  # matrices, of which any value may be there
        mask, method = torch.view_as_real(mask) if mask.is_complex() else mask, None
    single = mask.float()
    if bool(single.isfinite().all()) and (method is None or name == "skew" or bool((single > 0).all())):
        return None
    low, high, limits = float(mask.min()), float(mask.max()), torch.finfo(torch.float32)
    rule = f"up to {limits.max:.3g}" if method is None or name == "skew" else f"{limits.tiny:.3g} to {limits.max:.3g}"
    return f"M: got {name} with values from {low:.3g} to {high:.3g}, expected {rule} for float32 (float64 holds more)"


def _check_parity(name: str, part: Tensor, mirrored: Tensor, largest: float, odd: bool) -> None:
    """Part of a mask against its mirror image; `largest` is the largest magnitude in the whole mask."""
    wrong = float((part + mirrored if odd else part - mirrored).abs().max())
    if wrong > _EVEN * max(1e-300, largest):
        rule = "w(-k) = -w(k)" if odd else "R(-k) = R(k)"
        raise ValueError(f"{name}: got a mask that misses {rule} by {wrong:.3g}, expected one that keeps it")


def load_mask(name: str, mask: Mask | None, alpha: float, method: Method) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, str | os.PathLike):
        if name == "freq" and getattr(mask, "ndim", 0) == 4:  # matrices, or a mask [1, C, H, W]
            return _arrays.own(name, mask, "fc")
        return bare(_arrays.own(name, mask, "f"))
    if name == "skew":
        raise TypeError("skew: got a path, expected a tensor")
    raw = bare(_arrays.of_npy(name, Path(mask)))
    if name == "freq":
        check_unshifted(raw, True)
    return normalised(raw, alpha, method)


def bare(values: Tensor) -> Tensor:
    """Without the first axis of `[1, C, H, W]`."""
    return values[0] if values.dim() == 4 and len(values) == 1 else values


def is_matrices(freq: Tensor, shape: Shape) -> bool:
    """Whether R is a matrix at every frequency; for pictures of one row `[1, W // 2 + 1, C, C]` tells."""
    return freq.dim() == 4 and (len(freq) > 1 or tuple(freq.shape) == (1, shape[2] // 2 + 1, shape[0], shape[0]))


def fitted(name: str, mask: Tensor, shape: Shape, half_spectrum: bool) -> Tensor:
    """A mask as `[C, H, W]`, or as a half spectrum after a full one was found even (odd for the skew part)."""
    channels, height, width = shape
    if mask.dim() == 2:
        mask = mask[None]
    half = width // 2 + 1
    last = half if half_spectrum else width
    full = half_spectrum and mask.shape[-1:] == (width,) and width != half
    if tuple(mask.shape) not in [(n, height, width if full else last) for n in (1, channels)]:
        raise ValueError(f"{name}: got shape {tuple(mask.shape)}, expected {(channels, height, last)}")
    if full:
        ky, kx = -torch.arange(height) % height, -torch.arange(width) % width
        _check_parity(name, mask, mask[..., ky[:, None], kx], float(mask.abs().max()), odd=name == "skew")
        mask = mask[..., :half]
    return mask.expand(channels, -1, -1)
