"""What adapters check of a filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tdas_ops.preconditioner import Preconditioner, of_size


def fitting(name: str, M: Any, shape: Sequence[int]) -> Preconditioner:
    """M itself, if it fits samples of a shape (B, C, H, W).

    Raises:
        TypeError: it is no preconditioner.
        ValueError: it is one of another shape; the sentence has the command that makes one that fits.
    """
    checked(name, M)
    if M.shape != tuple(shape[1:]):
        expected = f"{tuple(shape[1:])}{of_size(M, shape)}"
        raise ValueError(f"{name}: got a filter of shape {M.shape}, expected {expected}")
    made: Preconditioner = M
    return made


def checked(name: str, M: Any) -> Preconditioner:
    """M itself, if it is a preconditioner.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(M, Preconditioner):
        raise TypeError(f"{name}: got {type(M).__name__}, expected a Preconditioner")
    return M
