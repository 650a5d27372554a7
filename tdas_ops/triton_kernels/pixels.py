"""The part of an update in pixels: drift, pixel noise, what the inverse transforms gave, and x, in one pass.

A lane takes the four pixels whose noise one Philox call draws, as two pairs that lie side by side.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tdas_ops.triton_kernels.noise import normal_pair
from tdas_ops.triton_kernels.scales import ONE, Drawn, Scale, check_size, of_sample

BLOCK = 256


@triton.jit
def _offset(sample, channel, h, w, s0, s1, s2, s3):
    """Where the pixels `[BLOCK, 2]` of these channels and rows `[BLOCK, 1]` lie in a tensor of these strides."""
    return sample.to(tl.int64) * s0 + channel.to(tl.int64) * s1 + h.to(tl.int64) * s2 + w.to(tl.int64) * s3


@triton.jit(do_not_specialize=["first_sample"])
def pixel_kernel(
    out,
    mean,
    cast,
    drift_squares,
    noise_squares,
    x,
    v,
    z,
    y,
    more,
    space,
    d,
    d_each,
    d_stride,
    n,
    n_each,
    n_stride,
    seeds,
    draw,
    first_sample,
    channels,
    height,
    width,
    blocks,
    out0,
    out1,
    out2,
    out3,
    mean0,
    mean1,
    mean2,
    mean3,
    cast0,
    cast1,
    cast2,
    cast3,
    x0,
    x1,
    x2,
    x3,
    v0,
    v1,
    v2,
    v3,
    z0,
    z1,
    z2,
    z3,
    FILTER_DRIFT: tl.constexpr,
    DRAWN: tl.constexpr,
    SEED_PER_SAMPLE: tl.constexpr,
    ROOT_OF_TWO_D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Tensors `[samples, C, H, W]` of the strides given; y, more and space are contiguous; absent ones are None.

    The sums of squares of `d D v` and `n A z`: `[samples, blocks]`, one a program.
    """
    sample = tl.program_id(0) // blocks
    quad = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    d, n = of_sample(d, d_each, d_stride, n, n_each, n_stride, sample, ROOT_OF_TWO_D)
    quarter = ((width + 1) // 2 + 1) // 2
    row = quad // quarter
    column = quad - row * quarter
    real0, imaginary0, real1, imaginary1 = (tl.zeros([BLOCK], tl.float32),) * 4
    if DRAWN:
        real0, imaginary0, real1, imaginary1 = normal_pair(seeds, draw, sample, first_sample, quad, SEED_PER_SAMPLE)
    row = row[:, None]
    channel = row // height
    h = row - channel * height
    drift_sum, noise_sum = tl.zeros([BLOCK, 2], tl.float32), tl.zeros([BLOCK, 2], tl.float32)
    for second in tl.static_range(2):
        left = column
        if second:
            left = column + quarter
        w = 2 * left[:, None] + tl.arange(0, 2)[None, :]
        # An odd count of normals in a row leaves the last of them to nobody, as an odd W does its last part.
        inside = (row < channels * height) & (w < width)
        within = row * width + w
        plain = sample.to(tl.int64) * (channels * height * width) + within
        mask = tl.full([BLOCK, 2], 1.0, tl.float32)
        if space is not None:
            mask = tl.load(space + within, mask=inside, other=0.0)
        clean = tl.zeros([BLOCK, 2], tl.float32)
        if x is not None:
            clean += tl.load(x + _offset(sample, channel, h, w, x0, x1, x2, x3), mask=inside, other=0.0)
        if v is not None:
            drift = tl.load(v + _offset(sample, channel, h, w, v0, v1, v2, v3), mask=inside, other=0.0).to(tl.float32)
            if FILTER_DRIFT:
                drift = mask * (mask * drift)
            drift = d * drift
            drift_sum += drift * drift
            clean += drift
        if y is not None:
            clean += tl.load(y + plain, mask=inside, other=0.0)
        if mean is not None:
            tl.store(mean + _offset(sample, channel, h, w, mean0, mean1, mean2, mean3), clean, mask=inside)
        if z is not None:
            noise = tl.load(z + _offset(sample, channel, h, w, z0, z1, z2, z3), mask=inside, other=0.0).to(tl.float32)
            noise = n * (mask * noise)
            noise_sum += noise * noise
            clean += noise
        if DRAWN:
            noise = tl.join(real0, imaginary0)
            if second:
                noise = tl.join(real1, imaginary1)
            noise = n * (mask * noise)
            noise_sum += tl.where(inside, noise * noise, 0.0)
            clean += noise
        if more is not None:
            clean += tl.load(more + plain, mask=inside, other=0.0)
        if out is not None:
            tl.store(out + _offset(sample, channel, h, w, out0, out1, out2, out3), clean, mask=inside)
        if cast is not None:
            tl.store(cast + _offset(sample, channel, h, w, cast0, cast1, cast2, cast3), clean, mask=inside)
    if drift_squares is not None:
        tl.store(drift_squares + tl.program_id(0), tl.sum(drift_sum))
    if noise_squares is not None:
        tl.store(noise_squares + tl.program_id(0), tl.sum(noise_sum))


def _blocks(shape: tuple[int, ...]) -> int:
    """Programs of a sample."""
    _, channels, height, width = shape
    return triton.cdiv(channels * height * (((width + 1) // 2 + 1) // 2), BLOCK)


def pixels(
    out: Tensor | None,
    mean: Tensor | None = None,
    x: Tensor | None = None,
    v: Tensor | None = None,
    z: Tensor | None = None,
    y: Tensor | None = None,
    more: Tensor | None = None,
    space: Tensor | None = None,
    filter_drift: bool = True,
    d: Scale = ONE,
    n: Scale = ONE,
    drawn: Drawn | None = None,
    cast: Tensor | None = None,
    drift_squares: Tensor | None = None,
    noise_squares: Tensor | None = None,
) -> None:
    """`mean = x + d D v + y`, `out = cast = mean + n A z + more`, with D = A^2 or, without `filter_drift`, D = 1.

    Args:
        out, mean, cast, x, v, z: `[B, C, H, W]` of any strides, each may be absent, not both out and v; out, cast, v
            and z may be in bfloat16 or float16. out may be x, v or z itself.
        y, more: float32 `[B, C, H, W]`, contiguous, or None; out may be one of them.
        space: A, float32 `[C, H, W]`, or None for 1.
        d, n: scales.
        drawn: the noise stream that z is drawn from by the noise contract (docs/design.md), which is not advanced.
        drift_squares, noise_squares: float32 `[B, _blocks(shape)]`, written: sums of squares of `d D v` and `n A z`.

    Source: TDAS, arXiv 2206.04029; PDS, arXiv 2207.02196; identity 1 of docs/design.md for `d A u + n z`.
    """
    like = v if out is None else out
    assert like is not None
    samples, channels, height, width = shape = tuple(like.shape)
    check_size(shape)
    blocks = _blocks(shape)
    later = cast if cast is not None and cast.dtype is torch.bfloat16 and not cast.is_cuda else None
    cast = None if later is not None else cast
    strides = [stride for t in (out, mean, cast, x, v, z) for stride in ((0, 0, 0, 0) if t is None else t.stride())]
    pixel_kernel[(samples * blocks,)](
        out,
        mean,
        cast,
        drift_squares,
        noise_squares,
        x,
        v,
        z,
        y,
        more,
        None if space is None else space.contiguous(),
        *d.arguments(),
        *n.arguments(),
        None if drawn is None else drawn.seeds,
        None if drawn is None else drawn.draw,
        0 if drawn is None else drawn.first_sample,
        channels,
        height,
        width,
        blocks,
        *strides,
        FILTER_DRIFT=filter_drift and space is not None,
        DRAWN=drawn is not None,
        SEED_PER_SAMPLE=drawn is not None and drawn.seeds.numel() > 1,
        ROOT_OF_TWO_D=n.root_of_two_d,
        BLOCK=BLOCK,
    )
    if later is not None and out is not None:
        later.copy_(out)  # Triton's interpreter does not round to bfloat16 but cuts it off


def pixel_squares(
    v: Tensor,
    space: Tensor | None = None,
    filter_drift: bool = False,
    z: Tensor | None = None,
    drawn: Drawn | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums of squares of D v and of A z, float32 `[B, blocks]`, to be summed over the blocks; 0 without noise."""
    drift, noise = torch.empty((2, v.shape[0], _blocks(tuple(v.shape))), device=v.device)
    squares = {"drift_squares": drift, "noise_squares": noise}
    pixels(None, v=v, z=z, space=space, filter_drift=filter_drift, drawn=drawn, **squares)
    return drift, noise
