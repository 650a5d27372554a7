"""What users hold as safetensors files: tensors, and plain values as JSON in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tdas_ops import _arguments, _arrays

T = TypeVar("T")


def save(path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes tensors, complex ones as pairs of numbers along a last axis, and what JSON makes of `about`.

    Raises:
        ValueError: values that JSON does not know.
    """
    text = {"format": _format(kind)}
    for name, value in about.items():
        try:
            text[name] = json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            raise ValueError(f"{name}: got {_arguments.shown(value)}, expected values that JSON knows") from None
    real = {name: torch.view_as_real(t) if t.is_complex() else t for name, t in tensors.items()}
    save_file({name: t.contiguous() for name, t in real.items()}, path, metadata=text)


def load(
    path: str | os.PathLike[str],
    kind: str,
    make: Callable[[dict[str, Any], dict[str, Any]], T],
    *,
    needed: tuple[str, ...] = (),
    possible: tuple[str, ...] = (),
    fields: tuple[str, ...],
) -> T:
    """What `make(tensors, about)` makes of a file that `save` wrote.

    Args:
        path, kind: as `save` had them.
        needed, possible: names of the tensors that are there, and that may be.
        fields: names of the values; what "provenance" has is an object.

    Raises:
        ValueError: there is no such file, or it is not such a file: broken, of another kind, or with tensors or values
            that `make` refuses.
        TypeError: no path.
    """
    expected = f"expected a saved {kind}"
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: got {type(path).__name__}, expected the path of a saved {kind}")
    shown = _arguments.shown(os.fspath(path))
    if not Path(path).is_file():  # a pipe would never end
        raise ValueError(f"path: got {shown}, which is no file, {expected}")
    try:
        with safe_open(path, framework="pt") as file:
            text = file.metadata() or {}
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # of safetensors, of the system, or of torch
        raise ValueError(f"path: got {shown} ({_arrays.reason(error)}), {expected}") from None
    if text.get("format") != _format(kind) or not set(needed) <= tensors.keys() <= {*needed, *possible}:
        found = f"format {_arguments.shown(text.get('format'))} with {_arguments.shown(sorted(tensors))}"
        raise ValueError(f"path: got {shown} of {found}, {expected}")
    try:
        about = {name: json.loads(text[name]) for name in fields}
        if not isinstance(about.get("provenance", {}), dict):
            raise ValueError(f"provenance: got {type(about['provenance']).__name__}, expected an object")
        return make(tensors, about)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"path: got {shown} ({_arrays.reason(error)}), {expected}") from None


def as_complex(pairs: Tensor, dims: int) -> Tensor:
    """A tensor of so many dimensions, complex where `save` wrote pairs of it."""
    return torch.view_as_complex(pairs) if pairs.dim() == dims + 1 and pairs.shape[-1] == 2 else pairs


def _format(kind: str) -> str:
    return f"tdas_ops.{kind}/1"
