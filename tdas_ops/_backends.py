"""The one place where a backend is chosen.

A backend is an overload of an op (`_schema.py`). The table below says which backends have which op on which device; an
automatic choice takes the first one of `_PREFERENCE` that is available, an explicit one (`use_backend`, or the
environment variable `TDAS_OPS_BACKEND`) is honoured or refused in one sentence.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _extension, _remedy, _schema, reference, triton_kernels

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_INTERPRETER = ("triton",) if _INTERPRETED else ()
_PREFERENCE = {
    "cpu": ("cpp", "reference", *_INTERPRETER),
    "cuda": ("triton", "cuda", "reference"),
    "cuda beyond triton": ("cuda", "reference"),  # samples larger than its kernels take
    "cuda without triton": ("cuda", "reference"),
    "cuda fused": ("cuda", "triton", "reference"),  # masks and sizes that the CUDA kernels take whole
}
_OPS = tuple(_schema.SCHEMAS)
_COMPOSED = tuple(op for op in _OPS if op != "normals")
_FREQ_AT = {"noise": 1, "precondition": 2}  # among the arguments; 4 of the others

Table = dict[str, dict[str, Any]]
"""The overload of an op on a device; under "slow DEVICE" where it is a slower one than it should be."""


class SlowPathWarning(UserWarning):
    """Ops run much slower than they could, for a reason that the text names with the command that mends it.

    Given once for each reason in a process. It is not given where the slower way was chosen: by `use_backend`,
    `TDAS_OPS_BACKEND` or `TDAS_OPS_BUILD=none`.
    """


def _triton_normals(out: Tensor, seeds: Tensor, draw: Tensor, first_sample: int, spectral: bool) -> None:
    from tdas_ops.triton_kernels import noise  # on first use: the package must import without Triton

    noise.normals(out, seeds, draw, first_sample, spectral)


def _composition(op: str, normals: Any) -> Any:
    """The reference's torch.fft composition of an op around the noise of a kernel of ours."""
    kernel = getattr(reference, op)
    return kernel if op == "precondition" else partial(kernel, normal=normals)


def _triton_update(op: str, *args: Any) -> None:
    """An op that is not `normals`; float64 and R as matrices are the reference's work, with Triton's noise."""
    if args[0].dtype is torch.float64 or reference.is_mixing(args[_FREQ_AT.get(op, 4)]):
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
    for op in _COMPOSED:
        _schema.LIBRARY.impl(f"{op}.{_schema.CHOSEN}", partial(_chosen_at_call, op), "CompositeExplicitAutograd")
    for op in _OPS:
        for backend in getattr(torch.ops.tdas_ops, op).overloads():
            _keep_in_traces(op, backend)


def _chosen_at_call(op: str, *args: Any) -> None:
    names = [argument.name for argument in getattr(torch.ops.tdas_ops, op).reference._schema.arguments]
    named = dict(zip(names, args, strict=False))
    kernel(op, named["out"], named.get("freq"), named.get("space"), named.get("skew"), at_call=True)(*args)


def _keep_in_traces(op: str, backend: str) -> None:
    """Makes the graph of torch.jit.trace, which has names of ops alone, keep the overload: as an op of its own name."""
    overload, name = getattr(getattr(torch.ops.tdas_ops, op), backend), f"{op}_{backend}"
    _schema.LIBRARY.define(name + _schema.SCHEMAS[op])
    _schema.LIBRARY.impl(name, overload, "CompositeExplicitAutograd")
    _schema.LIBRARY.impl(f"{op}.{backend}", getattr(torch.ops.tdas_ops, name), "Tracer")


def _without_triton(reason: str) -> str:
    """A reason with what is lost and what to install."""
    oldest = ".".join(map(str, triton_kernels.MINIMUM))
    lost = "without it, sizes that no CUDA kernel takes run torch compositions that pass over memory more often"
    return f"{reason}; {lost} ({_remedy.install(f'triton>={oldest}')})"


@cache
def _triton_failure() -> str | None:
    """Why Triton, which is there, does not work: its age, or a lack of what it compiles with; None if it does."""
    try:
        import triton
    except Exception as error:
        return _without_triton(f"Triton does not load ({error})")
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


def _installed(backend: str) -> bool:
    """Whether the backend is there; says nothing of a GPU, and of Triton not whether it works."""
    if backend == "triton":
        return importlib.util.find_spec("triton") is not None
    module = None if backend == "reference" else _extension.load()
    if backend == "reference" or module is None:
        return backend == "reference"
    cuda = module.build_info()["cuda"]
    return backend == "cpp" or (cuda is not None and not _newer_than_torchs(cuda))


def _newer_than_torchs(cuda: str) -> bool:
    """Whether this CUDA is of a newer major version than that of torch, whose driver may then be too old for it."""
    return torch.version.cuda is not None and int(cuda.split(".")[0]) > int(torch.version.cuda.split(".")[0])


def _missing(backend: str) -> str | None:
    """Why the backend is not there, or None."""
    if _installed(backend):
        return None
    if backend == "triton":
        return _without_triton("Triton is not installed")
    module = _extension.load()
    if module is None:
        return _extension.reason()
    if cuda := module.build_info()["cuda"]:
        torchs = f"torch {torch.__version__} of CUDA {torch.version.cuda}, whose driver may be too old for them"
        command = f"TDAS_OPS_BUILD=cuda {_remedy.reinstall()}"
        return f"the CUDA kernels are of CUDA {cuda} and {torchs}; rebuild them by an nvcc as old with `{command}`"
    why = _extension.record().get("cuda_kernels", "no record").removeprefix("no: ")
    command = f"TDAS_OPS_BUILD=cuda {_remedy.reinstall()}"
    return f"tdas_ops._C was built without its CUDA part ({why}); rebuild it with `{command}`"


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
_INSTALLED = tuple(filter(_installed, _schema.BACKENDS))
# The choice of the process, of TDAS_OPS_BACKEND or automatic, and that of a `use_backend` block, which its thread has
# alone; `_blocks` are open in all threads, so that where there are none nobody looks for one.
_requested: str | None = None
_table: Table = {op: {} for op in _OPS}
_block: ContextVar[tuple[str | None, Table] | None] = ContextVar("tdas_ops backend", default=None)
_blocks = 0
_in_blocks = False
_lock = threading.Lock()
_warned: set[str] = set()


def _overload(op: str, backend: str, device: str = "") -> Any:
    composed = op in _COMPOSED and device != "cuda fused"
    return getattr(getattr(torch.ops.tdas_ops, op), _schema.CUDA_FFT if backend == "cuda" and composed else backend)


_FUSED_SIZES = (32, 64, 128, 256, 512, 1024, 2048)  # heights and widths of the CUDA kernels


def _fused(op: str, tensor: Tensor, freq: Tensor | None, space: Tensor | None, skew: Tensor | None) -> bool:
    """Whether CUDA kernels take an update whole: with transforms of their own, or without any."""
    if freq is None:
        return skew is None
    if reference.is_mixing(freq):
        return False
    if op == "langevin_step" and space is not None and skew is not None:
        return False
    return tensor.shape[-2] in _FUSED_SIZES and tensor.shape[-1] in _FUSED_SIZES


def _column(fused: bool, elements: int, chosen: str | None) -> str:
    """Which column of the table serves a GPU; `elements`: of a sample."""
    if fused and "cuda" in _INSTALLED:
        return "cuda fused"
    if chosen is not None:
        return "cuda"
    if "triton" not in _INSTALLED or _triton_failure() is not None:
        return "cuda without triton"
    return "cuda" if elements < triton_kernels.LIMIT else "cuda beyond triton"


def _filled(choice: str | None) -> Table:
    broken = "cpp" not in _INSTALLED and not _extension.left_out()
    slow = {"cuda without triton", *(("cpu", "cuda", "cuda beyond triton") if broken else ())}
    table: Table = {op: {} for op in _OPS}
    for op in _OPS:
        for device, preference in _PREFERENCE.items():
            for backend in preference:
                if backend in _INSTALLED and choice in (None, backend):
                    key = f"slow {device}" if choice is None and device in slow else device
                    table[op][key] = _overload(op, backend, device)
                    break
    return table


def _fill() -> None:
    """Fills the table of the process."""
    for op, overloads in _filled(_requested).items():
        _table[op].clear()
        _table[op].update(overloads)


def current() -> tuple[str | None, Table]:
    """The choice that is in force here and its table."""
    return _block.get() or (_requested, _table)


def _check(backend: str | None, source: str) -> None:
    if backend is not None and backend not in _schema.BACKENDS:
        raise ValueError(f"{source}: got {backend!r}, expected one of {', '.join(_schema.BACKENDS)}")
    reason = None if backend is None else _unusable(backend)
    if reason is not None:
        raise ValueError(f"{source}: got {backend!r}, expected a backend that is available here: {reason}")


def kernel(
    op: str,
    tensor: Tensor,
    freq: Tensor | None,
    space: Tensor | None = None,
    skew: Tensor | None = None,
    at_call: bool = False,
) -> Any:
    """The overload that serves `op` on the device of `tensor`, for its size and these masks.

    While it is traced that may be one which looks again `at_call`.
    """
    chosen, table = _requested, _table
    if _in_blocks:
        if torch.compiler.is_compiling() and not at_call:  # what is compiled could not guard the choice of one thread
            return _overload(op, _schema.CHOSEN)
        chosen, table = current()
    # Asking for the name of a device makes a string, which costs more than the rest of the look-up.
    if tensor.is_cpu:
        device = "cpu"
    elif tensor.is_cuda:
        device = _column(_fused(op, tensor, freq, space, skew), tensor.numel() // len(tensor), chosen)
    else:
        device = tensor.device.type
    found = table[op].get(device)
    if found is not None:
        return found
    if chosen not in (None, "reference"):
        raise ValueError(f"backend: {chosen!r} was chosen explicitly and does not run on device type {device!r}")
    if chosen is None and device != "meta":
        _warn_slow(device)
    return table[op].get(f"slow {device}") or _overload(op, "reference")


def _warn_slow(device: str) -> None:
    """Says once why the ops of a column of the table run slower than they could."""
    if device == "cuda without triton":
        lacking = ["triton"] if "cuda" in _INSTALLED else ["triton", "cuda"]
        reason = "; ".join(filter(None, map(_unusable, lacking)))
    elif device in _PREFERENCE:
        reason = str(_missing("cpp"))
    else:
        reason = f"there are kernels for the CPU and for GPUs of device type 'cuda', and none for {device!r}"
    with _lock:
        if reason in _warned:
            return
        _warned.add(reason)
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("tdas_ops."):
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(f"ops run slower than they could, often many times: {reason}", SlowPathWarning, stacklevel=level)
    except SlowPathWarning:  # as an error: every op raises it
        _warned.discard(reason)
        raise


_warn_slow._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def use_backend(backend: str | None) -> Iterator[None]:
    """Uses one backend ("reference", "cpp", "triton" or "cuda") inside the `with` block; None is the automatic choice.

    The choice is that of the thread, or the asyncio task, that is in the block: others keep theirs, and a thread that
    is started inside it begins without it. What torch.compile has compiled follows the choice in force where it runs.
    `TDAS_OPS_BACKEND` chooses for the whole process.

    Raises:
        ValueError: the backend does not exist or is not available here; nothing has changed then.
    """
    _check(backend, "backend")
    token = _block.set((backend, _filled(backend)))
    _count_blocks(1)
    try:
        yield
    finally:
        _count_blocks(-1)
        _block.reset(token)


def _count_blocks(change: int) -> None:
    global _blocks, _in_blocks
    with _lock:
        _blocks += change
        _in_blocks = _blocks > 0


def _path(op: str, device: str) -> str:
    """What an op runs on a device, in words."""
    chosen, table = current()
    if device == "cuda":
        device = _column(op == "normals", 0, chosen)
    backend = (table[op].get(device) or table[op][f"slow {device}"]).name().split(".")[1]
    if backend == "cpp":
        module = _extension.load()
        isa = module.build_info()["cpu_instruction_set"] if module else None
        if op == "normals":
            return f"cpp ({isa})"
        return (
            f"fused ({isa}) for H and W from 32 to 2048 without a prime factor above 256; complex torch.fft and fused "
            f"kernels ({isa}) for other sizes and for R as matrices; pixels alone ({isa}) without a frequency mask; "
            "float64 likewise"
        )
    if op == "normals":
        return backend
    fused = device != "cpu" and table[op]["cuda fused"].name().endswith(".cuda")
    noise = "cuda" if backend == _schema.CUDA_FFT else backend
    composed = mixing = "torch.fft" if op == "precondition" else f"torch.fft, {noise} noise"
    if backend == "triton":
        composed = "torch.fft, triton kernels" + ("" if fused else "; pixels alone without a frequency mask")
    sizes = "fused for H and W powers of two from 32 to 2048"
    if op == "langevin_step":
        sizes += ", in one launch where H = W up to 128, R is the one mask and the device holds all planes"
    sizes += "; pixels alone without a frequency mask"
    path = f"{sizes}; {composed} otherwise" if fused else composed
    return f"{path}; {mixing} for R as matrices" if backend == "triton" else path


def backend_info() -> dict[str, Any]:
    """What runs where: available backends with the reason for each missing one, and the path of every op on a device.

    Returns a dict of plain values with the keys `available`, `missing`, `chosen` and `paths`.
    """
    chosen, table = current()
    paths = {
        device: {op: _path(op, device) for op in _OPS if device in table[op] or f"slow {device}" in table[op]}
        for device in _PREFERENCE
        if device == "cpu" or (device == "cuda" and torch.cuda.is_available())
    }
    return {
        "available": [b for b in _schema.BACKENDS if _unusable(b) is None],
        "missing": {b: reason for b in _schema.BACKENDS if (reason := _unusable(b)) is not None},
        "chosen": chosen or "automatic",
        "paths": paths,
    }


_requested = os.environ.get("TDAS_OPS_BACKEND") or None
_check(_requested, "TDAS_OPS_BACKEND")
_fill()
