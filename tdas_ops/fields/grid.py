"""The grid of a field: its spacings, wavenumbers and half spectra, and whether there is memory for it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _arguments
from tdas_ops.reference import own_columns

Spacing = float | Sequence[float]
_SHORTEST, _LONGEST = 1e-100, 1e100  # spacings whose products and wavenumbers squared float64 holds
_SMALL = 1 << 28  # bytes that are not worth a look at what is free


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The sizes of one, two or three axes."""
    expected = "the sizes of one, two or three axes, all positive, of fewer than 2^33 points"
    found = _arguments.sizes("shape", shape, expected)
    if not 1 <= len(found) <= 3 or math.prod(found) >= _arguments.ELEMENTS:
        raise ValueError(f"shape: got {_arguments.shown(found)}, expected {expected}")
    return found


def checked_spacing(spacing: Any, axes: int) -> tuple[float, ...]:
    """The spacing of every axis, in units of length.

    Raises:
        ValueError, TypeError: one that is not positive or beyond 1e-100 to 1e100, or another number of them.
    """
    expected = f"a number from {_SHORTEST:g} to {_LONGEST:g}, or {axes} of them"
    several = isinstance(spacing, list | tuple) or getattr(spacing, "ndim", 0) == 1
    found = tuple(_arguments.number("spacing", each, expected) for each in (spacing if several else [spacing] * axes))
    if len(found) != axes or not all(_SHORTEST <= each <= _LONGEST for each in found):
        raise ValueError(f"spacing: got {_arguments.shown(spacing)}, expected {expected}")
    return found


def embedding(shape: Sequence[int], periodic: Any) -> tuple[int, ...]:
    """The periodic grid that a field is cut out of.

    Raises:
        ValueError, TypeError: no truth value, nor one for each axis.
    """
    each = tuple(periodic) if isinstance(periodic, list | tuple) else (periodic,) * len(shape)
    if len(each) != len(shape) or not all(isinstance(one, bool) for one in each):
        raise ValueError(f"periodic: got {_arguments.shown(periodic)}, expected True or False, or {len(shape)} of them")
    return tuple(n if one or n == 1 else _smooth(2 * (n - 1)) for n, one in zip(shape, each, strict=True))


def _smooth(least: int) -> int:
    """The next even number without a prime factor above 5."""
    n = least + least % 2
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


def radii(shape: Sequence[int], spacing: Sequence[float], half: bool = False) -> Tensor:
    """|k|, float64, at the frequencies that are not negative, `[n // 2 + 1, ...]`; or at those of the half spectrum,
    `[..., n // 2 + 1]`: all frequencies of every axis but the last."""
    total = torch.zeros((), dtype=torch.float64)
    for axis, (n, step) in enumerate(zip(shape, spacing, strict=True)):
        whole = half and axis < len(shape) - 1
        k = (torch.fft.fftfreq if whole else torch.fft.rfftfreq)(n, step / (2 * math.pi), dtype=torch.float64)
        total = total + k.square_().reshape(-1, *[1] * (len(shape) - 1 - axis))
    return total.sqrt_()


def half_shape(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:-1], shape[-1] // 2 + 1)


def unfolded(values: Tensor, shape: Sequence[int]) -> Tensor:
    """What is given at the frequencies that are not negative, and is even along every axis, as a half spectrum."""
    for axis, n in enumerate(shape[:-1]):
        if n > 2:
            index = torch.arange(n)
            values = values.index_select(axis, torch.minimum(index, n - index))
    return values


def mirrored(half: Tensor, shape: Sequence[int]) -> Tensor:
    """The columns of a half spectrum that hold their own mirror images, at -k."""
    columns = half.movedim(len(shape) - 1, 0)[own_columns(shape[-1])]
    axes = list(range(1, len(shape)))
    return (columns.flip(axes).roll([1] * len(axes), axes) if axes else columns).movedim(0, len(shape) - 1)


def check_memory(name: str, what: str, needed: int, device: torch.device) -> None:
    """Refuses what does not fit into the memory that is free, before it is allocated; where nobody says how much there
    is, nothing is refused.

    Raises:
        MemoryError: it does not fit.
    """
    if needed < _SMALL:
        return
    free = _free(device)
    if free is not None and needed > free:
        raise MemoryError(f"{name}: got {what}, which takes {_size(needed)}, expected at most {_size(free)} ({device})")


def _free(device: torch.device) -> int | None:
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        with open("/proc/meminfo") as lines:
            found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) << 10
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
