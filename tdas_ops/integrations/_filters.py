"""What adapters check of a filter."""

from __future__ import annotations

from collections.abc import Sequence

from tdas_ops.preconditioner import Preconditioner


def fitting(name: str, M: Preconditioner, shape: Sequence[int]) -> Preconditioner:
    """M itself, if it fits samples of a shape (B, C, H, W).

    Raises:
        TypeError: it is no preconditioner.
        ValueError: it is one of another shape; the sentence has the command that makes one that fits.
    """
    if not isinstance(M, Preconditioner):
        raise TypeError(f"{name}: got {type(M).__name__}, expected a Preconditioner")
    if M.shape != tuple(shape[1:]):
        grey = " --grey" if shape[1] == 1 else ""
        command = f"tdas-ops calibrate FOLDER --size {shape[-2]} {shape[-1]}{grey}"
        raise ValueError(
            f"{name}: got a filter of shape {M.shape}, expected {tuple(shape[1:])} (`{command}` makes one)"
        )
    return M
