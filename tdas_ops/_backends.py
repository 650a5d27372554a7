"""The one place where a backend is chosen.

A backend is an overload of an op (`_schema.py`). The table below says which backends have which op on which device; an
automatic choice takes the first one of `_PREFERENCE` that is available, an explicit one (`use_backend`, or the
environment variable `TDAS_OPS_BACKEND`) is honoured or refused in one sentence. So are two choices of CUDA kernels:
`TDAS_OPS_LARGE`, whether the passes over planes that do not fit on chip are launches of their own ("passes", the
default) or one ("ticket"), and `TDAS_OPS_SNR`, whether norms, rule and update of a `langevin_step` on chip are launches
of their own ("launches", the default) or, where that is possible, one ("cooperative").
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _extension, _schema, reference, triton_kernels

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_INTERPRETER = ("triton",) if _INTERPRETED else ()
_PREFERENCE = {
    "cpu": ("cpp", "reference", *_INTERPRETER),
    "cpu float64": ("reference", *_INTERPRETER),  # reference work, also where cpp is chosen
    "cuda": ("triton", "cuda", "reference"),
    "cuda without triton": ("cuda", "reference"),
    "cuda fused": ("cuda", "triton", "reference"),  # masks and sizes that the CUDA kernels take whole
}
_LARGE = ("passes", "ticket")
_SNR = ("launches", "cooperative")
_OPS = tuple(_schema.SCHEMAS)
_COMPOSED = tuple(op for op in _OPS if op != "normals")


def _triton_normals(out: Tensor, seeds: Tensor, draw: Tensor, first_sample: int, spectral: bool) -> None:
    from tdas_ops.triton_kernels import noise  # on first use: the package must import without Triton

    noise.normals(out, seeds, draw, first_sample, spectral)


def _composition(op: str, normals: Any) -> Any:
    """The reference's torch.fft composition of an op around the noise of a kernel of ours."""
    kernel = getattr(reference, op)
    return kernel if op == "precondition" else partial(kernel, normal=normals)


def _triton_update(op: str, *args: Any) -> None:
    """An op that is not `normals`; what is in float64 is the reference's work, with Triton's noise."""
    if args[0].dtype is torch.float64:
        _composition(op, torch.ops.tdas_ops.normals.triton)(*args)
        return
    from tdas_ops.triton_kernels import update

    with torch.cuda.device_of(args[0]):
        getattr(update, op)(*args)


def _register() -> None:
    """Registers the Python kernels; those of the extension register themselves when it is loaded."""
    normals = torch.ops.tdas_ops.normals
    for op in _OPS:
        _schema.LIBRARY.impl(f"{op}.reference", getattr(reference, op), "CompositeExplicitAutograd")
    for op in _COMPOSED:
        _schema.LIBRARY.impl(f"{op}.{_schema.CUDA_FFT}", _composition(op, normals.cuda), "CUDA")
    for key in ("CUDA", "CPU"):
        _schema.LIBRARY.impl("normals.triton", _triton_normals, key)
        for op in _COMPOSED:
            _schema.LIBRARY.impl(f"{op}.triton", partial(_triton_update, op), key)


def _without_triton(reason: str) -> str:
    """A reason with what is lost and what to install."""
    oldest = ".".join(map(str, triton_kernels.MINIMUM))
    lost = "without it, sizes that no CUDA kernel takes run torch compositions that pass over memory more often"
    return f'{reason}; {lost} (pip install "triton>={oldest}")'


@cache
def _triton_failure() -> str | None:
    """Why Triton, which is there, does not work: its age, or a lack of what it compiles with; None if it does."""
    import triton

    if tuple(int(n) for n in re.findall(r"\d+", triton.__version__)[:2]) < triton_kernels.MINIMUM:
        return _without_triton(f"Triton {triton.__version__} is too old")
    if not _INTERPRETED:
        try:
            triton.runtime.driver.active.get_current_target()  # compiles and loads what every launch needs
        except Exception as error:
            return _without_triton(f"Triton does not work here ({error})")
    return None


# For torch.compile: torch.compiler.assume_constant_result, which imports all of torch._dynamo, does no more than this.
_triton_failure._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _missing(backend: str) -> str | None:
    """Why the backend cannot be used here, or None."""
    if backend == "reference":
        return None
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return _without_triton("Triton is not installed")
        return None
    module = _extension.load()
    if module is None:
        return _extension.reason()
    if backend == "cuda" and not module.build_info()["cuda"]:
        why = _extension.record().get("cuda_kernels", "no record").removeprefix("no: ")
        return f"tdas_ops._C was built without its CUDA part ({why}); rebuild it with TDAS_OPS_BUILD=cuda"
    return None


def _unusable(backend: str) -> str | None:
    """Why an explicit choice of the backend cannot be honoured, or None; unlike `_missing` it looks for a GPU."""
    reason = _missing(backend)
    if reason is None and backend in ("triton", "cuda") and not torch.cuda.is_available():
        if backend == "cuda":
            return "torch finds no CUDA device"
        if not _INTERPRETED:
            return "Triton needs a GPU, or its interpreter (TRITON_INTERPRET=1 before Python starts)"
    if reason is None and backend == "triton":
        return _triton_failure()
    return reason


_register()
# Looking for a GPU here would start the driver in every process that imports the package.
_INSTALLED = tuple(backend for backend in _schema.BACKENDS if _missing(backend) is None)
_chosen: str | None = None
_large, _snr = _LARGE[0], _SNR[0]
_table: dict[str, dict[str, Any]] = {op: {} for op in _OPS}


def _overload(op: str, backend: str, device: str = "") -> Any:
    composed = op in _COMPOSED and device != "cuda fused"
    return getattr(getattr(torch.ops.tdas_ops, op), _schema.CUDA_FFT if backend == "cuda" and composed else backend)


_FUSED_SIZES = (32, 64, 128, 256, 512, 1024, 2048)  # heights and widths of the CUDA kernels


def _fused(op: str, tensor: Tensor, freq: Tensor | None, space: Tensor | None, skew: Tensor | None) -> bool:
    """Whether CUDA kernels take an update whole: with transforms of their own, or without any."""
    if freq is None:
        return skew is None
    if op == "langevin_step" and space is not None and skew is not None:
        return False
    return tensor.shape[-2] in _FUSED_SIZES and tensor.shape[-1] in _FUSED_SIZES


def _column(fused: bool, elements: int) -> str:
    """Which column of the table serves a GPU; `elements`: of a sample."""
    if fused and "cuda" in _INSTALLED:
        return "cuda fused"
    if _chosen is not None or "triton" not in _INSTALLED:
        return "cuda"
    return "cuda" if elements < triton_kernels.LIMIT and _triton_failure() is None else "cuda without triton"


def _fill() -> None:
    for op in _OPS:
        _table[op].clear()
        for device, preference in _PREFERENCE.items():
            for backend in preference:
                chosen = "reference" if (device, _chosen) == ("cpu float64", "cpp") else _chosen
                if backend in _INSTALLED and chosen in (None, backend):
                    _table[op][device] = _overload(op, backend, device)
                    break


def _check(backend: str | None, source: str) -> None:
    if backend is not None and backend not in _schema.BACKENDS:
        raise ValueError(f"{source}: got {backend!r}, expected one of {', '.join(_schema.BACKENDS)}")
    reason = None if backend is None else _unusable(backend)
    if reason is not None:
        raise ValueError(f"{source}: got {backend!r}, expected a backend that is available here: {reason}")


def kernel(
    op: str, tensor: Tensor, freq: Tensor | None, space: Tensor | None = None, skew: Tensor | None = None
) -> Any:
    """The overload that serves `op` on the device of `tensor`, in its dtype, for its size and these masks."""
    # Asking for the name of a device makes a string, which costs more than the rest of the look-up.
    if tensor.is_cpu:
        device = "cpu float64" if tensor.dtype is torch.float64 else "cpu"
    elif tensor.is_cuda:
        device = _column(_fused(op, tensor, freq, space, skew), tensor.numel() // len(tensor))
    else:
        device = tensor.device.type
    found = _table[op].get(device)
    if found is not None:
        return found
    if _chosen in (None, "reference"):
        return _overload(op, "reference")
    raise ValueError(f"backend: {_chosen!r} was chosen explicitly and does not run on device type {device!r}")


@contextmanager
def use_backend(backend: str | None) -> Iterator[None]:
    """Uses one backend ("reference", "cpp", "triton" or "cuda") inside the `with` block; None is the automatic choice.

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


def choose_large(choice: str, source: str = "choice") -> None:
    """How the CUDA kernels pass over planes that do not fit on chip: in launches of one "passes", or by "ticket".

    Raises:
        ValueError: there is no such way, or it is not available here; nothing has changed then.
    """
    global _large
    _choose("use_tickets", _LARGE, choice, source)
    _large = choice


def choose_snr(choice: str, source: str = "choice") -> None:
    """How `langevin_step` of planes on chip goes: norms, rule and update in "launches" of their own, or "cooperative".

    The latter is one launch of blocks that wait for each other. What it cannot do stays as it is: updates with a space
    mask, a skew part, a mean or noise of the caller's, planes that are not square, or more than the device holds.

    Raises:
        ValueError: there is no such way, or it is not available here; nothing has changed then.
    """
    global _snr
    _choose("use_cooperative", _SNR, choice, source)
    _snr = choice


def _choose(switch: str, choices: tuple[str, str], choice: str, source: str) -> None:
    """Sets a switch of the extension: off for the first choice, on for the second."""
    if choice not in choices:
        raise ValueError(f"{source}: got {choice!r}, expected one of {', '.join(choices)}")
    module, reason = _extension.load(), _missing("cuda")
    if module is not None and reason is None:
        getattr(module, switch)(choice == choices[1])
    elif choice == choices[1]:
        raise ValueError(f"{source}: got {choice!r}, expected {choices[0]!r}: {reason}")


def _path(op: str, device: str) -> str:
    """What an op runs on a device, in words."""
    if device == "cuda":
        device = _column(op == "normals", 0)
    backend = _table[op][device].name().split(".")[1]
    if backend == "cpp":
        module = _extension.load()
        isa = module.build_info()["cpu_instruction_set"] if module else None
        if op == "normals":
            return f"cpp ({isa})"
        return (
            f"fused ({isa}) for H and W powers of two from 32 to 2048; complex torch.fft and fused kernels ({isa}) for "
            f"other sizes; pixels alone ({isa}) without a frequency mask; reference for float64"
        )
    if op == "normals":
        return backend
    fused = device != "cpu" and _table[op]["cuda fused"].name().endswith(".cuda")
    noise = "cuda" if backend == _schema.CUDA_FFT else backend
    composed = "torch.fft" if op == "precondition" else f"torch.fft, {noise} noise"
    if backend == "triton":
        composed = "torch.fft, triton kernels" + ("" if fused else "; pixels alone without a frequency mask")
    sizes = "fused for H and W powers of two from 32 to 2048"
    if _large == "ticket":
        sizes += ", those that do not fit on chip in one launch by tickets"
    if _snr == "cooperative" and op == "langevin_step":
        sizes += ", square planes on chip in one cooperative launch where the device holds them all"
    sizes += "; pixels alone without a frequency mask"
    return f"{sizes}; {composed} otherwise" if fused else composed


def backend_info() -> dict[str, Any]:
    """What runs where: available backends with the reason for each missing one, and the path of every op on a device.

    Returns a dict of plain values with the keys `available`, `missing`, `chosen` and `paths`.
    """
    paths = {
        device: {op: _path(op, device) for op in _OPS if device in _table[op]}
        for device in _PREFERENCE
        if device == "cpu" or (device == "cuda" and torch.cuda.is_available())
    }
    return {
        "available": [b for b in _schema.BACKENDS if _unusable(b) is None],
        "missing": {b: reason for b in _schema.BACKENDS if (reason := _unusable(b)) is not None},
        "chosen": _chosen or "automatic",
        "paths": paths,
    }


_requested = os.environ.get("TDAS_OPS_BACKEND") or None
_check(_requested, "TDAS_OPS_BACKEND")
_chosen = _requested
for _variable, _choice in (("TDAS_OPS_LARGE", choose_large), ("TDAS_OPS_SNR", choose_snr)):
    if os.environ.get(_variable):
        _choice(os.environ[_variable], _variable)
_fill()
