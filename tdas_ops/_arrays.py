"""Numbers of tensors, of arrays of any library and of `.npy` files, as tensors of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdas_ops import _arguments

_KINDS = {"f": "floating-point", "fc": "floating-point or complex", "fiu": "real"}


def reason(error: Exception) -> str:
    """The first line of an error, for the parentheses of another one."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return "".join(c if c.isprintable() else "?" for c in line)


def own(name: str, values: Any, kinds: str) -> Tensor:
    """Numbers of any library as a contiguous float64 (complex128) tensor on the CPU that shares no memory with them.

    Raises:
        TypeError: they are not of these `kinds`, letters as numpy has them: f floating-point, c complex, i and u whole.
    """
    expected = f"a {_KINDS[kinds]} tensor or array"
    if isinstance(values, Tensor):
        dtype = values.dtype
        kind = "f" if dtype.is_floating_point else "c" if dtype.is_complex else "b" if dtype is torch.bool else "i"
        if kind not in kinds or values.is_quantized:
            raise TypeError(f"{name}: got {dtype}, expected {expected}")
        if values.layout is not torch.strided or values.is_meta:
            raise TypeError(f"{name}: got a tensor of layout {values.layout} on {values.device}, expected dense values")
        with torch.inference_mode(False):
            made = torch.empty(values.shape, dtype=torch.complex128 if kind == "c" else torch.float64)
            return made.copy_(values.detach().as_subclass(Tensor))
    if isinstance(values, str | bytes) or not hasattr(values, "__array__"):
        raise TypeError(f"{name}: got {type(values).__name__}, expected {expected}")
    if np.ma.is_masked(values):
        raise TypeError(f"{name}: got an array with masked values, expected {expected}")
    array = np.asarray(values)
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name}: got {array.dtype}, expected {expected}")
    with torch.inference_mode(False), np.errstate(over="ignore"):  # what is beyond float64 is found as infinite
        return torch.from_numpy(np.array(array, dtype="c16" if array.dtype.kind == "c" else "f8", order="C"))


def of_npy(name: str, path: Path) -> Tensor:
    """The real numbers of a `.npy` file.

    Raises:
        ValueError: there are none.
    """
    shown = _arguments.shown(str(path))
    expected = "expected a .npy file with the real numbers of a statistic [C, H, W]"
    if not path.is_file():  # a pipe would never end
        raise ValueError(f"{name}: got {shown}, which is no file, {expected}")
    try:
        with path.open("rb") as file:
            begin = file.read(16)
        if not begin.startswith(np.lib.format.MAGIC_PREFIX):
            raise ValueError(
                "an archive, as .npz and .pt files are" if begin[:2] == b"PK" else f"begins with {begin!r}"
            )
        return own(name, np.load(path, allow_pickle=False), "fiu")
    except Exception as error:  # numpy has one for every way in which a file is broken
        raise ValueError(f"{name}: got {shown} ({reason(error)}), {expected}") from None
