"""The public functions: checks (`_inputs`), allocation, the call of a kernel (`_backends`).

Shapes: the state x and the score are `[B, C, H, W]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor
from torch._C import _functorch
from torch.compiler import is_dynamo_compiling

from tdas_ops import _arguments, _backends
from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.preconditioner import Preconditioner, of_size

Scale = float | Tensor
Noise = NoiseStream | torch.Generator | Tensor

_FLOAT32, _FLOAT64, _STRIDED = torch.float32, torch.float64, torch.strided
_STATE = (_FLOAT32, _FLOAT64)
_SCORE = {
    _FLOAT32: (_FLOAT32, torch.bfloat16, torch.float16),
    _FLOAT64: (_FLOAT64, _FLOAT32, torch.bfloat16, torch.float16),
}
# The scales that a dtype of x holds, besides 0: what is below is lost or imprecise; a step d has noise of sqrt(2 d).
_SCALES = {dtype: (torch.finfo(dtype).tiny, torch.finfo(dtype).max / 2) for dtype in _STATE}
_SMALLEST, _LARGEST = _SCALES[_FLOAT32]
_NO_DRAW = (None, None, None, 0)


def _dense(name: str, t: Tensor) -> None:
    if not (t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last)):
        raise ValueError(f"{name}: got strides {tuple(t.stride())}, expected a contiguous or channels_last tensor")


def _check_state(x: Tensor, M: Preconditioner) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a tensor [B, C, H, W]")
    if not isinstance(M, Preconditioner):
        raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner")
    shape = x.shape
    if len(shape) != 4 or shape[1:] != M.shape or shape[0] == 0:
        expected = f"[B >= 1, {', '.join(map(str, M.shape))}] as M has it{of_size(M, shape)}"
        raise ValueError(f"x: got shape {tuple(shape)}, expected {expected}")
    dtype = x.dtype
    if dtype is not _FLOAT32 and (dtype is not _FLOAT64 or x.device.type != "cpu"):
        raise TypeError(f"x: got {dtype} on {x.device}, expected float32 (or float64 on the CPU)")
    _check_placed("x", x, M)


def _check_like(name: str, t: Tensor, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
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


def _check_placed(name: str, t: Tensor, M: Preconditioner) -> None:
    if t.device != M.device:
        raise ValueError(f"M: got a preconditioner on {M.device}, expected one on {t.device} (M.to(device) moves it)")
    if not is_dynamo_compiling() and _functorch.peek_interpreter_stack() is not None:
        raise _transformed(name)
    if t.requires_grad or forward_ad._current_level >= 0 or t.layout is not _STRIDED:
        _check_plain(name, t)


def _transformed(name: str) -> ValueError:
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


def _address(t: Tensor) -> int:
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


def _output(out: Tensor | None, x: Tensor, inputs: dict[str, Any], in_place: bool = True) -> Tensor:
    """Where the result goes: `out` after its checks, else a new tensor like x.

    It shares no memory with the inputs that are tensors, and none with x unless it is x.
    """
    if out is None:
        return torch.empty_like(x)
    _check_like("out", out, x, (x.dtype,))
    _dense("out", out)
    if is_dynamo_compiling():
        return out
    if in_place and not (out is x or (_address(out) == _address(x) and out.stride() == x.stride())):
        inputs = {"x": x, **inputs}
    _check_apart("out", out, inputs, "x itself or a tensor apart" if in_place else "a tensor apart")
    return out


def _check_cast(cast: Tensor, x: Tensor, others: dict[str, Any]) -> None:
    """The second output: dense, in a dtype that a score may have, its memory apart from all others."""
    _check_like("cast", cast, x, _SCORE[x.dtype])
    _dense("cast", cast)
    if not is_dynamo_compiling():
        _check_apart("cast", cast, {"x": x, **others}, "a tensor apart")


def _check_apart(name: str, t: Tensor, others: dict[str, Any], expected: str) -> None:
    """Whether no element of what else is a tensor lies in the memory of a dense one."""
    begin = _address(t)
    if begin == 0:
        return
    if t.is_neg():
        raise ValueError(f"{name}: got a negated view, expected a tensor of its own")
    end = begin + t.nbytes
    for other_name, other in others.items():
        if isinstance(other, Tensor) and 0 < (at := _address(other)) < end and begin < at + _extent(other):
            raise ValueError(f"{name}: got memory of {other_name}, expected {expected}")


def _scale(name: str, value: Scale, x: Tensor) -> tuple[float, Tensor | None]:
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


def _drawn(noise: Any, x: Tensor, needed: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None, int]:
    """The noise arguments of an op: z, seeds, draw, first_sample."""
    if isinstance(noise, NoiseStream):
        return None, *noise.arguments(x.shape[0], x.device)
    if isinstance(noise, Tensor):
        _check_like("noise", noise, x, (x.dtype,))
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


def _drift_method(M: Preconditioner) -> bool:
    if M.method is None:
        raise ValueError("M: got a filter without a method, expected 'pds', 'tdas' or 'noise' (it colours noise only)")
    return M.method == "pds"


def noise(
    M: Preconditioner,
    shape: Sequence[int],
    noise: Noise | Stream,
    scale: Scale = 1.0,
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    out: Tensor | None = None,
) -> Tensor:
    """Coloured noise `scale * M z`: start points of a sampler, random fields.

    Args:
        M: the filter, `[C, H, W]`; the result lies on its device.
        shape: `(B, C, H, W)`.
        noise: a `NoiseStream`, a whole number as the seed of one, a `torch.Generator`, or unit normal pixel noise z of
            the given shape.
        scale: number, or tensor with one value or one for each sample; sigma_max starts a VE sampler, 1 a VP one.
        dtype: float32, or float64 on the CPU; ignored when `out` is given.
        memory_format: `torch.contiguous_format` or `torch.channels_last`; ignored when `out` is given.
        out: tensor to write to.

    Raises:
        ValueError, TypeError: one sentence that names the argument, before anything is written.

    Source: TDAS, arXiv 2206.04029 (filtered noise); the noise contract of the package for the draws.
    """
    if not isinstance(M, Preconditioner):
        raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner")
    if not is_dynamo_compiling() and _functorch.peek_interpreter_stack() is not None:
        raise transformed("noise")
    plain = type(shape) in (tuple, torch.Size) and shape[1:] == M.shape
    if not plain or type(shape[0]) is not int or shape[0] < 1:
        expected = f"(B >= 1, {', '.join(map(str, M.shape))}) as M has it"
        shape = _arguments.sizes("shape", shape, expected)
        if len(shape) != 4 or shape[1:] != M.shape:
            raise ValueError(f"shape: got {_arguments.shown(shape)}, expected {expected}{of_size(M, shape)}")
    shape = (shape[0], *M.shape)
    if out is None:
        if dtype is not FLOAT32 and (dtype is not FLOAT64 or M.device.type != "cpu"):
            got = f"{_arguments.shown(dtype)} on {M.device}"
            raise TypeError(f"dtype: got {got}, expected float32 (or float64 on the CPU)")
        if memory_format is not torch.contiguous_format and memory_format is not torch.channels_last:
            got = _arguments.shown(memory_format)
            raise ValueError(f"memory_format: got {got}, expected torch.contiguous_format or torch.channels_last")
        out = torch.empty(shape, dtype=dtype, device=M.device, memory_format=memory_format)
    else:
        check_state(out, M)
        output_for(out, out, {"noise": noise, "scale": scale})
        if shape != tuple(out.shape):
            raise ValueError(f"shape: got {shape}, expected {tuple(out.shape)}, the shape of out")
    if isinstance(noise, list | tuple) or (hasattr(noise, "__index__") and not isinstance(noise, Tensor)):
        noise = NoiseStream.of(noise)
    n, n_tensor = _scale("scale", scale, out)
    freq, space, _ = M.masks(out.dtype)
    kernel = _backends.kernel("noise", out, freq)
    kernel(out, freq, space, n, n_tensor, *drawn_by(noise, out, True))
    return out


def precondition(
    v: Tensor, M: Preconditioner, which: Literal["M", "Mt", "MMt"] = "M", *, out: Tensor | None = None
) -> Tensor:
    """The filter alone: `M v`, `M^T v` or `M M^T v`, where `M = F^-1 R F A`.

    Args:
        v: `[B, C, H, W]`, float32, bfloat16, float16, or float64 on the CPU.
        which: "M", "Mt" (the transpose) or "MMt" (the preconditioner of the drift, without its skew part).
        out: tensor to write to, like v; must not be v itself.

    Returns: a tensor like v (dtype and memory format); computed in float32, float64 for float64 v.

    Raises:
        ValueError, TypeError: one sentence that names the argument, before anything is written.

    Source: PDS, arXiv 2207.02196, equation of the preconditioner M.
    """
    if not isinstance(M, Preconditioner):
        raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner")
    shape = v.shape if isinstance(v, Tensor) else ()
    if len(shape) != 4 or shape[1:] != M.shape or shape[0] == 0:
        got = tuple(shape) if isinstance(v, Tensor) else type(v).__name__
        expected = f"a tensor [B >= 1, {', '.join(map(str, M.shape))}] as M has it{of_size(M, shape)}"
        raise ValueError(f"v: got {got}, expected {expected}")
    dtype = v.dtype
    double = dtype is FLOAT64
    if dtype not in SCORES[FLOAT64] or (double and v.device.type != "cpu"):
        raise TypeError(f"v: got {dtype} on {v.device}, expected float32, bfloat16, float16 (or float64 on the CPU)")
    check_placed("v", v, M)
    if not isinstance(which, str) or which not in ("M", "Mt", "MMt"):
        raise ValueError(f"which: got {_arguments.shown(which)}, expected 'M', 'Mt' or 'MMt'")
    out = output_for(out, v, {"v": v}, in_place=False)
    freq, space, _ = M.masks(FLOAT64 if double else FLOAT32)
    _backends.kernel("precondition", v, freq)(out, v, freq, space, which)
    return out


@overload
def step(
    x: Tensor,
    v: Tensor,
    M: Preconditioner,
    step_size: Scale,
    *,
    noise: Noise | None = ...,
    noise_scale: Scale | None = ...,
    out: Tensor | None = ...,
    cast: Tensor | None = ...,
    return_mean: Literal[False] = ...,
) -> Tensor: ...


@overload
def step(
    x: Tensor,
    v: Tensor,
    M: Preconditioner,
    step_size: Scale,
    *,
    noise: Noise | None = ...,
    noise_scale: Scale | None = ...,
    out: Tensor | None = ...,
    cast: Tensor | None = ...,
    return_mean: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def step(
    x: Tensor,
    v: Tensor,
    M: Preconditioner,
    step_size: Scale,
    *,
    noise: Noise | None = None,
    noise_scale: Scale | None = None,
    out: Tensor | None = None,
    cast: Tensor | None = None,
    return_mean: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """One update of a sampler: `x_mean = x + d D v`, `x' = x_mean + n M z`.

    With the defaults this is a Langevin step of step size eta: d = eta and n = sqrt(2 eta). `D` is the identity for a
    preconditioner of method "tdas" and `M M^T` (plus its skew part S) for "pds".

    Args:
        x: state, `[B, C, H, W]`, float32 (float64 on the CPU).
        v: score or drift, the shape of x, float32, bfloat16 or float16 (float64 beside a float64 x).
        M: the preconditioner, `[C, H, W]`, on the device of x.
        step_size: d, in units of sigma^2; a number (of any library, 0 or in the range of the dtype of x), or a tensor
            with one value or one for each sample.
        noise: a `NoiseStream` (one draw is taken), a `torch.Generator`, or unit normal pixel noise z like x; may be
            absent only when `noise_scale` is 0.
        noise_scale: n, in units of sigma; like `step_size`; `sqrt(2 step_size)` when absent.
        out: tensor to write to, like x; may be x itself, and shares no memory with any other input.
        cast: a second output: a tensor of the shape of x, float32, bfloat16 or float16 (float64 beside a float64 x),
            contiguous or channels_last, that receives x' rounded to nearest; what a network reads next, without a pass
            of its own. Shares no memory with any other argument.
        return_mean: also return x_mean.

    Returns: x', or (x', x_mean), with dtype and memory format of x.

    Raises:
        ValueError, TypeError: one sentence that names the argument, before anything is written. Values on a device are
            never read: a negative step size in a tensor gives NaN noise, and non-finite scores pass through.

    Source: TDAS, arXiv 2206.04029 (noise and start filtered); PDS, arXiv 2207.02196 and 2302.06504 (drift as well).
    """
    check_state(x, M)
    check_like("v", v, x, SCORES[x.dtype])
    d, d_tensor = scale_of("step_size", step_size, x)
    n, n_tensor = (None, None) if noise_scale is None else scale_of("noise_scale", noise_scale, x)
    inputs = {"v": v, "noise": noise, "step_size": d_tensor, "noise_scale": n_tensor}
    out = output_for(out, x, inputs)
    if cast is not None:
        check_cast(cast, x, {**inputs, "out": out})
    filter_drift = filters_drift(M)
    freq, space, skew = M.masks(x.dtype)
    kernel = _backends.kernel("step", x, freq, space, skew)
    drawn = drawn_by(noise, x, n != 0.0 or n_tensor is not None)
    mean = torch.empty_like(x) if return_mean else None
    kernel(out, mean, x, v, freq, space, skew, filter_drift, d, d_tensor, n, n_tensor, *drawn, cast)
    return out if mean is None else (out, mean)


@overload
def langevin_step(
    x: Tensor,
    score: Tensor,
    M: Preconditioner,
    snr: float,
    *,
    noise: Noise,
    alpha: Scale = ...,
    norm: Literal["batch", "sample"] = ...,
    out: Tensor | None = ...,
    cast: Tensor | None = ...,
    return_mean: Literal[False] = ...,
) -> Tensor: ...


@overload
def langevin_step(
    x: Tensor,
    score: Tensor,
    M: Preconditioner,
    snr: float,
    *,
    noise: Noise,
    alpha: Scale = ...,
    norm: Literal["batch", "sample"] = ...,
    out: Tensor | None = ...,
    cast: Tensor | None = ...,
    return_mean: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def langevin_step(
    x: Tensor,
    score: Tensor,
    M: Preconditioner,
    snr: float,
    *,
    noise: Noise,
    alpha: Scale = ...,
    norm: Literal["batch", "sample"] = ...,
    out: Tensor | None = ...,
    cast: Tensor | None = ...,
    return_mean: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


def langevin_step(
    x: Tensor,
    score: Tensor,
    M: Preconditioner,
    snr: float,
    *,
    noise: Noise,
    alpha: Scale = 1.0,
    norm: Literal["batch", "sample"] = "batch",
    out: Tensor | None = None,
    cast: Tensor | None = None,
    return_mean: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """A Langevin step whose size follows the snr rule: `eta = 2 alpha (snr |M z| / |D score|)^2`.

    Then `x_mean = x + eta D score` and `x' = x_mean + sqrt(2 eta) M z`. The norms are those of the preconditioned
    tensors; all of it stays on the device.

    Args:
        x, score, M, noise, out, cast, return_mean: as in `step`.
        snr: the signal-to-noise ratio r of the corrector, for example 0.16.
        alpha: alpha_t of the SDE at this step (1 for VE); a number, or a tensor with one value or one for each sample.
        norm: "batch" averages the norms over the batch (the papers' rule; samples whose norm is not finite are left
            out), "sample" gives each sample its own step size, so that it never depends on its neighbours. A score of
            zero makes no step.

    Raises:
        ValueError, TypeError: one sentence that names the argument, before anything is written.

    Source: Song et al., arXiv 2011.13456, algorithms 4 and 5; PDS, arXiv 2207.02196, for the preconditioned norms.
    """
    check_state(x, M)
    check_like("score", score, x, SCORES[x.dtype])
    if isinstance(snr, Tensor):
        raise TypeError("snr: got a tensor, expected a number")
    ratio, ratio_tensor = scale_of("snr", snr, x)
    a, a_tensor = scale_of("alpha", alpha, x)
    if not isinstance(norm, str) or norm not in ("batch", "sample"):
        raise ValueError(f"norm: got {_arguments.shown(norm)}, expected 'batch' or 'sample'")
    inputs = {"score": score, "noise": noise, "alpha": a_tensor}
    out = output_for(out, x, inputs)
    if cast is not None:
        check_cast(cast, x, {**inputs, "out": out})
    filter_drift = filters_drift(M)
    if ratio_tensor is not None:  # of torch.compile: the op takes a number, but eta has alpha snr^2 as a factor
        ratio, a_tensor = 1.0, (a if a_tensor is None else a_tensor.double()) * ratio_tensor.square()
    freq, space, skew = M.masks(x.dtype)
    kernel = _backends.kernel("langevin_step", x, freq, space, skew)
    drawn = drawn_by(noise, x, True)
    mean = torch.empty_like(x) if return_mean else None
    kernel(out, mean, x, score, freq, space, skew, filter_drift, ratio, a, a_tensor, norm == "sample", *drawn, cast)
    return out if mean is None else (out, mean)
