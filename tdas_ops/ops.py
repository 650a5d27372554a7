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
from tdas_ops._inputs import (
    FLOAT32,
    FLOAT64,
    SCORES,
    Noise,
    Scale,
    check_cast,
    check_like,
    check_placed,
    check_state,
    drawn_by,
    filters_drift,
    output_for,
    scale_of,
    transformed,
)
from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.preconditioner import Preconditioner, of_size


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
    n, n_tensor = scale_of("scale", scale, out)
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

    >>> M = tdas_ops.Preconditioner.radial(lambda k: 1 / (1 + 8 * k), (3, 32, 32), method="pds")
    >>> z = tdas_ops.NoiseStream(seed=0)
    >>> x = tdas_ops.noise(M, (8, 3, 32, 32), z, scale=10.0)
    >>> x = tdas_ops.step(x, -x / 10.0**2, M, 0.1, noise=z, out=x)

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
