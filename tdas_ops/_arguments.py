"""What numbers, shapes and devices may be given as: those of Python, numpy, torch and whatever converts itself."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch

ELEMENTS = 1 << 33  # fewer than these in a sample: the noise contract counts them, two at a time, in 32 bits


def shown(value: Any) -> str:
    """A value in a message: one line, not long, without characters that a terminal obeys."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # a whole number of more digits than Python prints
        text = type(value).__name__
    return text if len(text) <= 100 else text[:97] + "..."


def _index(value: Any) -> int | None:
    """A whole number of any library, or None. A truth value is none; the size of a tensor may be symbolic."""
    if isinstance(value, bool) or getattr(value, "dtype", None) is torch.bool:
        return None
    if isinstance(value, int | torch.SymInt):
        return value  # type: ignore[return-value]
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # the latter two for tensors of several elements or on meta
        return None


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number of any library, of at least `low` and at most `high`.

    Raises:
        ValueError: it is something else.
    """
    index = _index(value)
    if index is None or index < low or (high is not None and index > high):
        limits = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
        expected = "a positive integer" if (low, high) == (1, None) else limits
        raise ValueError(f"{name}: got {shown(value)}, expected {expected}")
    return index


def sizes(name: str, value: Any, expected: str) -> tuple[int, ...]:
    """Whole numbers above 0, of any sequence of them.

    Raises:
        ValueError: they are something else.
    """
    try:
        found = tuple(_index(n) for n in value)
    except TypeError:
        found = (None,)
    if any(n is None or n < 1 for n in found):
        got = tuple(value) if isinstance(value, list | tuple) else value
        raise ValueError(f"{name}: got {shown(got)}, expected {expected}")
    return found  # type: ignore[return-value]


def number(name: str, value: Any, expected: str = "a number") -> float:
    """A real number of any library as a float; one beyond the range of floats is infinite.

    Raises:
        TypeError: it is something else; so are text, truth values, complex numbers and arrays.
    """
    if (  # float() takes some of them
        not isinstance(value, str | bytes | bool | np.bool_ | complex | np.complexfloating)
        and getattr(value, "ndim", 0) == 0
    ):
        try:
            return float(value)
        except OverflowError:
            return math.inf
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(f"{name}: got {type(value).__name__}, expected {expected}")


def device(value: Any) -> torch.device:
    """A device; for that of CUDA without a number the current one.

    Raises:
        ValueError, TypeError: there is no such device, or no CUDA here.
    """
    try:
        named = torch.device(value)
    except RuntimeError:
        raise ValueError(f"device: got {shown(value)}, expected one that torch knows, such as 'cpu'") from None
    except TypeError:
        raise TypeError(f"device: got {type(value).__name__}, expected a torch.device or its name") from None
    if named.type != "cuda":
        return named
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (named.index or 0) >= count:
        raise ValueError(f"device: got {str(named)!r}, expected one that is here: torch finds {count} CUDA devices")
    return torch.device("cuda", torch.cuda.current_device()) if named.index is None else named
