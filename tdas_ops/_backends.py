"""The one place where a backend is chosen.

A backend is an overload of an op (`_schema.py`). The table below says which backends have which op on which device; an
automatic choice takes the first one of `_PREFERENCE` that is available, an explicit one (`use_backend`, or the
environment variable `TDAS_OPS_BACKEND`) is honoured or refused in one sentence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from tdas_ops import _extension, _schema, reference

_PREFERENCE = {"cpu": ("cpp", "reference"), "cuda": ("cuda", "reference")}
_OPS = tuple(_schema.SCHEMAS)
_COMPOSED = tuple(op for op in _OPS if op != "normal_pairs")


def _register() -> None:
    """Registers the Python kernels; those of the extension register themselves when it is loaded.

    The backends "cpp" and "cuda" draw their noise with a compiled kernel inside the same torch.fft composition that is
    the reference.
    """
    for op in _OPS:
        _schema.LIBRARY.impl(f"{op}.reference", getattr(reference, op), "CompositeExplicitAutograd")
    for backend, key in (("cpp", "CPU"), ("cuda", "CUDA")):
        normal = getattr(torch.ops.tdas_ops.normal_pairs, backend)
        for op in _COMPOSED:
            kernel = getattr(reference, op)
            drawn = kernel if op == "precondition" else partial(kernel, normal=normal)
            _schema.LIBRARY.impl(f"{op}.{backend}", drawn, key)


def _missing(backend: str) -> str | None:
    """Why the backend cannot be used here, or None."""
    if backend == "reference":
        return None
    module = _extension.load()
    if module is None:
        return _extension.reason()
    if backend == "cuda" and not module.build_info()["cuda"]:
        return "tdas_ops._C was built without its CUDA part; rebuild it with TDAS_OPS_BUILD=cuda"
    return None


_register()
_AVAILABLE = tuple(backend for backend in _schema.BACKENDS if _missing(backend) is None)
_chosen: str | None = None
_table: dict[str, dict[str, Any]] = {op: {} for op in _OPS}


def _overload(op: str, backend: str) -> Any:
    return getattr(getattr(torch.ops.tdas_ops, op), backend)


def _fill() -> None:
    for op in _OPS:
        _table[op].clear()
        for device, preference in _PREFERENCE.items():
            for backend in preference:
                if backend in _AVAILABLE and _chosen in (None, backend):
                    _table[op][device] = _overload(op, backend)
                    break


def _check(backend: str | None, source: str) -> None:
    if backend is not None and backend not in _schema.BACKENDS:
        raise ValueError(f"{source}: got {backend!r}, expected one of {', '.join(_schema.BACKENDS)}")
    if backend is not None and backend not in _AVAILABLE:
        raise ValueError(f"{source}: {backend!r} is not available: {_missing(backend)}")


def kernel(op: str, device: torch.device) -> Any:
    """The overload that serves `op` on `device`."""
    found = _table[op].get(device.type)
    if found is not None:
        return found
    if _chosen in (None, "reference"):
        return _overload(op, "reference")
    raise ValueError(f"backend: {_chosen!r} was chosen explicitly and does not run on device type {device.type!r}")


@contextmanager
def use_backend(backend: str | None) -> Iterator[None]:
    """Uses one backend ("reference", "cpp" or "cuda") inside the `with` block; None is the automatic choice.

    Raises:
        ValueError: the backend does not exist or is not available here; nothing has changed then.
    """
    global _chosen
    _check(backend, "backend")
    before = _chosen
    _chosen = backend
    _fill()
    try:
        yield
    finally:
        _chosen = before
        _fill()


def _path(op: str, overload: Any) -> str:
    """What an overload runs, in words."""
    backend = overload.name().split(".")[1]
    if op == "normal_pairs":
        return backend
    return "torch.fft" if op == "precondition" else f"torch.fft, {backend} noise"


def backend_info() -> dict[str, Any]:
    """What runs where: available backends with the reason for each missing one, and the path of every op on a device.

    Returns a dict of plain values with the keys `available`, `missing`, `chosen` and `paths`.
    """
    paths = {
        device: {op: _path(op, _table[op][device]) for op in _OPS if device in _table[op]}
        for device in _PREFERENCE
        if device == "cpu" or torch.cuda.is_available()
    }
    return {
        "available": list(_AVAILABLE),
        "missing": {b: _missing(b) for b in _schema.BACKENDS if b not in _AVAILABLE},
        "chosen": _chosen or "automatic",
        "paths": paths,
    }


_requested = os.environ.get("TDAS_OPS_BACKEND") or None
_check(_requested, "TDAS_OPS_BACKEND")
_chosen = _requested
_fill()
