"""The part of an update between the transforms, on half spectra: filter, skew part and spectral noise in one pass.

A lane owns the places that one Philox call draws, so that every normal is made once and Y may lie in the memory of V.
Away from column 0 these are (h, w) and (h + H2, w), `H2 = ceil(H / 2)`. The programs of column 0 also own column W / 2,
whose normals those of column 0 carry, and the mirrored rows of both.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor, view_as_real

from tdas_ops.triton_kernels.noise import normal_pair
from tdas_ops.triton_kernels.scales import Drawn, Scale, of_sample

BLOCK = 256


@triton.jit
def _place(out, v, t, freq, skew, base, place, inside, d, n, real, imaginary, POWER: tl.constexpr, DRAWN: tl.constexpr):
    """`Y = d (R^POWER + i w) V + n R Z` at the places of a sample (int32, into `[C, H, W // 2 + 1]`), R^0 left out."""
    pair = tl.arange(0, 2)[None, :]
    where = 2 * (base + place)[:, None] + pair
    both = inside[:, None] & (pair < 2)
    y_real, y_imaginary = real * 0.0, imaginary * 0.0
    if freq is not None:
        mask = tl.load(freq + place, mask=inside, other=0.0)
        if t is not None:
            real, imaginary = tl.split(tl.load(t + where, mask=both, other=0.0))
        if DRAWN or t is not None:
            y_real, y_imaginary = n * mask * real, n * mask * imaginary
    if v is not None:
        v_real, v_imaginary = tl.split(tl.load(v + where, mask=both, other=0.0))
        if POWER > 0:
            factor = d * mask
            if POWER == 2:
                factor = factor * mask
            y_real += factor * v_real
            y_imaginary += factor * v_imaginary
        if skew is not None:
            turn = d * tl.load(skew + place, mask=inside, other=0.0)
            y_real -= turn * v_imaginary
            y_imaginary += turn * v_real
    tl.store(out + where, tl.join(y_real, y_imaginary), mask=both)


@triton.jit(do_not_specialize=["first_sample"])
def spectral_kernel(
    out,
    v,
    t,
    freq,
    skew,
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
    columns,
    width,
    root,
    main_blocks,
    blocks,
    POWER: tl.constexpr,
    DRAWN: tl.constexpr,
    SEED_PER_SAMPLE: tl.constexpr,
    EVEN_HEIGHT: tl.constexpr,
    EVEN_WIDTH: tl.constexpr,
    ROOT_OF_TWO_D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out, v, t: float32 `[samples, C, H, width, 2]`, width = W // 2 + 1; columns = ceil(W / 2); root = sqrt(HW / 2).

    The first `main_blocks` of the `blocks` of a sample take the columns from 1 to columns - 1, the others column 0.
    """
    sample, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    d, n = of_sample(d, d_each, d_stride, n, n_each, n_stride, sample, ROOT_OF_TWO_D)
    edge = block >= main_blocks
    across = tl.where(edge, 1, columns - 1)
    index = tl.where(edge, block - main_blocks, block) * BLOCK + tl.arange(0, BLOCK)
    half = (height + 1) // 2
    row = index // across
    w = index - row * across + tl.where(edge, 0, 1)
    channel = row // half
    h = row - channel * half
    inside = row < channels * half
    real0, imaginary0, real1, imaginary1 = (tl.zeros([BLOCK], tl.float32),) * 4
    if DRAWN:
        real0, imaginary0, real1, imaginary1 = normal_pair(
            seeds, draw, sample, first_sample, row * columns + w, SEED_PER_SAMPLE
        )
        n = n * root
    base = sample.to(tl.int64) * (channels * height * width)
    top = channel * height  # the first row of the channel
    low = h + half
    there = inside & (low < height)
    if edge:
        first = h == 0
        # Row 0, and row H / 2 of an even H, are real: column 0 takes the real part of their normal, W / 2 the other.
        real, imaginary = tl.where(first, 1.4142135623730951 * real0, real0), tl.where(first, 0.0, imaginary0)
        _place(out, v, t, freq, skew, base, (top + h) * width, inside, d, n, real, imaginary, POWER, DRAWN)
        mirrored = tl.where(first, low, height - h)
        real, imaginary = tl.where(first, 1.4142135623730951 * real1, real0), tl.where(first, 0.0, -imaginary0)
        has = inside & (h > 0)
        if EVEN_HEIGHT:
            has = inside
        _place(out, v, t, freq, skew, base, (top + mirrored) * width, has, d, n, real, imaginary, POWER, DRAWN)
        if EVEN_WIDTH:
            last = width - 1
            place, real = top * width + last, 1.4142135623730951 * imaginary0
            _place(out, v, t, freq, skew, base, place, inside & first, d, n, real, imaginary0 * 0.0, POWER, DRAWN)
            has, real, imaginary = there, real1, imaginary1
            if EVEN_HEIGHT:
                has = there & (h > 0)
                real = tl.where(first, 1.4142135623730951 * imaginary1, real1)
                imaginary = tl.where(first, 0.0, imaginary1)
            place = (top + height - low) * width + last
            _place(out, v, t, freq, skew, base, place, there, d, n, real, imaginary, POWER, DRAWN)
            place = (top + low) * width + last
            _place(out, v, t, freq, skew, base, place, has, d, n, real1, -imaginary1, POWER, DRAWN)
    else:
        place = (top + h) * width + w
        _place(out, v, t, freq, skew, base, place, inside, d, n, real0, imaginary0, POWER, DRAWN)
        _place(out, v, t, freq, skew, base, place + half * width, there, d, n, real1, imaginary1, POWER, DRAWN)


def filtered(
    shape: tuple[int, ...],
    v: Tensor | None,
    t: Tensor | None,
    freq: Tensor | None,
    skew: Tensor | None,
    power: int,
    d: Scale,
    n: Scale,
    drawn: Drawn | None,
    out: Tensor,
) -> Tensor:
    """`Y = d (R^power + i w) V + n R Z`, where R^0 stands for nothing.

    Args:
        shape: (B, C, H, W) of the planes.
        v: V, the half spectra of the drift, complex64 `[B, C, H, W // 2 + 1]`, contiguous; or None.
        t: Z, like V; drawn from `drawn` by the noise contract (docs/design.md) where it is None.
        freq, skew: R and w, float32 `[C, H, W // 2 + 1]`, or None.
        power: 0, 1 or 2.
        d, n: scales.
        drawn: the noise stream, which is not advanced; None for no noise.
        out: Y, like V; may be V or Z itself.

    Source: PDS, arXiv 2207.02196; identity 2 of docs/design.md.
    """
    samples, channels, height, full = shape
    columns, width, half = (full + 1) // 2, full // 2 + 1, (height + 1) // 2
    main_blocks = triton.cdiv(channels * half * (columns - 1), BLOCK)
    blocks = main_blocks + triton.cdiv(channels * half, BLOCK)
    pairs = [None if s is None else view_as_real(s) for s in (out, v, t)]
    spectral_kernel[(samples * blocks,)](
        *pairs,
        None if freq is None else freq.contiguous(),
        None if skew is None else skew.contiguous(),
        *d.arguments(),
        *n.arguments(),
        None if drawn is None else drawn.seeds,
        None if drawn is None else drawn.draw,
        0 if drawn is None else drawn.first_sample,
        channels,
        height,
        columns,
        width,
        math.sqrt(height * full / 2),
        main_blocks,
        blocks,
        POWER=power,
        DRAWN=drawn is not None,
        SEED_PER_SAMPLE=drawn is not None and drawn.seeds.numel() > 1,
        EVEN_HEIGHT=height % 2 == 0,
        EVEN_WIDTH=full % 2 == 0,
        ROOT_OF_TWO_D=n.root_of_two_d,
        BLOCK=BLOCK,
    )
    return out
