"""The one place where inputs of the ops are checked.

Checks read shapes, dtypes and Python numbers, never values on a device, and come before anything is written. Tensors
are plain ones: with a derivative of either mode, or under a transform of torch.func such as vmap, they are refused.
`torch.compile` makes at most two graphs for all values of a number, besides 0: numbers reach the op as tensors there,
and their checks stay as guards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from tdas_ops import _arguments
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner, of_size

Scale = float | Tensor
Noise = NoiseStream | torch.Generator | Tensor

FLOAT32, FLOAT64, _STRIDED = torch.float32, torch.float64, torch.strided
_STATE = (FLOAT32, FLOAT64)
SCORES = {
    FLOAT32: (FLOAT32, torch.bfloat16, torch.float16),
    FLOAT64: (FLOAT64, FLOAT32, torch.bfloat16, torch.float16),
}
# The scales that a dtype of x holds, besides 0: what is below is lost or imprecise; a step d has noise of sqrt(2 d).
_SCALES = {dtype: (torch.finfo(dtype).tiny, torch.finfo(dtype).max / 2) for dtype in _STATE}
_SMALLEST, _LARGEST = _SCALES[FLOAT32]
_NO_DRAW = (None, None, None, 0)


def _dense(name: str, t: Tensor) -> None:
    if not (t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last)):
        raise ValueError(f"{name}: got strides {tuple(t.stride())}, expected a contiguous or channels_last tensor")


def check_state(x: Tensor, M: Preconditioner) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor [B, C, H, W]")
    if not isinstance(M, Preconditioner):
        raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner")
    shape = x.shape
    if len(shape) != 4 or shape[1:] != M.shape or shape[0] == 0:
        expected = f"[B >= 1, {', '.join(map(str, M.shape))}] as M has it{of_size(M, shape)}"
        raise ValueError(f"x: got shape {tuple(shape)}, expected {expected}")
    dtype = x.dtype
    if dtype is not FLOAT32 and (dtype is not FLOAT64 or x.device.type != "cpu"):
        raise TypeError(f"x: got {dtype} on {x.device}, expected float32 (or float64 on the CPU)")
    check_placed("x", x, M)


def check_like(name: str, t: Tensor, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: got {type(t).__name__}, expected a tensor of shape {tuple(x.shape)}")
    if t.shape != x.shape:
        raise ValueError(f"{name}: got shape {tuple(t.shape)}, expected {tuple(x.shape)}, the shape of x")
    if t.dtype not in dtypes:
        raise TypeError(
            f"{name}: got {t.dtype}, expected one of {', '.join(str(d) for d in dtypes)} beside x in {x.dtype}"
        )
    if t.device != x.device:
        raise ValueError(f"{name}: got a tensor on {t.device}, expected {x.device}, the device of x")
    if t.requires_grad or forward_ad._current_level >= 0 or t.layout is not _STRIDED:
        _check_plain(name, t)


def check_placed(name: str, t: Tensor, M: Preconditioner) -> None:
    if t.device != M.device:
        raise ValueError(f"M: got a preconditioner on {M.device}, expected one on {t.device} (M.to(device) moves it)")
    if not is_dynamo_compiling() and _functorch.peek_interpreter_stack() is not None:
        raise transformed(name)
    if t.requires_grad or forward_ad._current_level >= 0 or t.layout is not _STRIDED:
        _check_plain(name, t)


def transformed(name: str) -> ValueError:
    return ValueError(f"{name}: got a call under a transform of torch.func such as vmap, expected one without")


def _check_plain(name: str, t: Tensor) -> None:
    """Whether a tensor is dense and has no derivative, of which an op would know nothing."""
    if t.requires_grad:
        rule = f"expected one that does not (use {name}.detach(), or sample under torch.no_grad)"
        raise ValueError(f"{name}: got a tensor that requires grad, {rule}")
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(t).tangent is not None:
        raise ValueError(
            f"{name}: got a tensor with a forward-mode derivative, expected one without (use {name}.detach())"
        )
    if t.layout is not _STRIDED:
        raise ValueError(f"{name}: got a tensor of layout {t.layout}, expected a dense one")


def address(t: Tensor) -> int:
    """Where a tensor begins, or 0 where it has no place in memory: traced, fake, on the device meta."""
    try:
        if type(t) is Tensor or type(t) is torch.nn.Parameter or not _is_fake(t):
            return t.data_ptr()
    except RuntimeError:  # of a wrapper without storage
        pass
    return 0


def _is_fake(t: Tensor) -> bool:
    from torch._subclasses.fake_tensor import is_fake

    return is_fake(t)


def _extent(t: Tensor) -> int:
    """Bytes from the first element of a tensor to its last one."""
    if t.is_contiguous():
        return t.nbytes
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return (last + 1) * t.element_size()


def output_for(out: Tensor | None, x: Tensor, inputs: dict[str, Any], in_place: bool = True) -> Tensor:
    """Where the result goes: `out` after its checks, else a new tensor like x.

    It shares no memory with the inputs that are tensors, and none with x unless it is x.
    """
    if out is None:
        return torch.empty_like(x)
    check_like("out", out, x, (x.dtype,))
    _dense("out", out)
    if is_dynamo_compiling():
        return out
    begin = address(out)
    if in_place and not (out is x or (begin == address(x) and out.stride() == x.stride())):
        inputs = {"x": x, **inputs}
    _check_apart("out", out, begin, inputs, "x itself or a tensor apart" if in_place else "a tensor apart")
    return out


def check_cast(cast: Tensor, x: Tensor, others: dict[str, Any]) -> None:
    """The second output: dense, in a dtype that a score may have, its memory apart from all others."""
    check_like("cast", cast, x, SCORES[x.dtype])
    _dense("cast", cast)
    if not is_dynamo_compiling():
        _check_apart("cast", cast, address(cast), {"x": x, **others}, "a tensor apart")


def _check_apart(name: str, t: Tensor, begin: int, others: dict[str, Any], expected: str) -> None:
    """Whether no element of what else is a tensor lies in the memory of a dense one, which starts at `begin`."""
    if begin == 0:
        return
    if t.is_neg():
        raise ValueError(f"{name}: got a negated view, expected a tensor of its own")
    end = begin + t.nbytes
    for other_name, other in others.items():
        if isinstance(other, Tensor) and 0 < (at := address(other)) < end and begin < at + _extent(other):
            raise ValueError(f"{name}: got memory of {other_name}, expected {expected}")


def scale_of(name: str, value: Scale, x: Tensor) -> tuple[float, Tensor | None]:
    """A scale as (number, tensor): one of the two carries it."""
    if isinstance(value, Tensor):
        if value.numel() not in (1, x.shape[0]) or value.dim() > 4 or value.shape[1:].numel() != 1:
            raise ValueError(
                f"{name}: got shape {tuple(value.shape)}, expected one value or one for each of {x.shape[0]} samples"
            )
        if not value.dtype.is_floating_point:
            raise TypeError(f"{name}: got {value.dtype}, expected a floating-point tensor")
        if value.device != x.device:
            raise ValueError(f"{name}: got a tensor on {value.device}, expected {x.device}, the device of x")
        if value.requires_grad or forward_ad._current_level >= 0 or value.layout is not _STRIDED:
            _check_plain(name, value)
        return 0.0, value
    number = value if type(value) is float else _arguments.number(name, value, "a number or a tensor")
    if not (_SMALLEST <= number <= _LARGEST or number == 0.0):
        low, high = _SCALES[x.dtype]
        if not low <= number <= high:
            rule = f"expected 0 or from {low:.3g} to {high:.3g}, as {x.dtype} holds it"
            raise ValueError(f"{name}: got {number}, {rule}")
    if is_dynamo_compiling() and number != 0.0:
        return 0.0, torch.ones(1, dtype=torch.float64, device=x.device) * number
    return number, None


def drawn_by(noise: Any, x: Tensor, needed: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None, int]:
    """The noise arguments of an op: z, seeds, draw, first_sample."""
    if isinstance(noise, NoiseStream):
        return None, *noise.arguments(x.size(0), x.device)
    if isinstance(noise, Tensor):
        check_like("noise", noise, x, (x.dtype,))
        return noise, None, None, 0
    if isinstance(noise, torch.Generator):
        if noise.device.type != x.device.type:
            raise ValueError(f"noise: got a generator on {noise.device}, expected one on {x.device}, the device of x")
        return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=noise), None, None, 0
    if noise is not None:
        why = " (one seed would give every step the same noise)" if hasattr(noise, "__index__") else ""
        got = type(noise).__name__
        raise TypeError(f"noise: got {got}, expected a NoiseStream, a torch.Generator or a tensor{why}")
    if needed:
        raise ValueError("noise: got None, expected a NoiseStream, a torch.Generator or a tensor (or noise_scale=0)")
    return _NO_DRAW


def filters_drift(M: Preconditioner) -> bool:
    if M.method is None:
        raise ValueError("M: got a filter without a method, expected 'pds', 'tdas' or 'noise' (it colours noise only)")
    return M.method == "pds"
