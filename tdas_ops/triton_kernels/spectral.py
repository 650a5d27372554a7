"""The part of an update between the transforms, on half spectra: filter, skew part and spectral noise in one pass.

The same pass, with sums in the place of an output, is that of the norms: by Parseval, where column 0 of a half spectrum
and, for even W, W / 2 count once and the others twice.

A lane owns the places that one Philox call draws, so that every normal is made once and Y may lie in the memory of V.
Away from column 0 these are (h, w) and (h + H2, w), `H2 = ceil(H / 2)`. The programs of column 0 also own column W / 2,
whose normals those of column 0 carry, and the mirrored rows of both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, view_as_real

from tdas_ops.triton_kernels.noise import normal_pair
from tdas_ops.triton_kernels.scales import ONE, Drawn, Scale, check_size, of_sample

BLOCK = 256


@triton.jit
def _place(
    out,
    v,
    t,
    freq,
    skew,
    base,
    place,
    inside,
    d,
    n,
    real,
    imaginary,
    drift,
    noise,
    POWER: tl.constexpr,
    DRAWN: tl.constexpr,
):
    """`Y = d (R^POWER + i w) V + n R Z` at the places of a sample (int32, into `[C, H, W // 2 + 1]`).

    A POWER of None leaves R out of the drift. Returns the sums `drift` and `noise` with the squares of both added.
    """
    pair = tl.arange(0, 2)[None, :]
    where = 2 * (base + place)[:, None] + pair
    both = inside[:, None] & (pair < 2)
    n_real, n_imaginary = real * 0.0, imaginary * 0.0
    d_real, d_imaginary = n_real, n_imaginary
    if freq is not None:
        mask = tl.load(freq + place, mask=inside, other=0.0)
        if t is not None:
            real, imaginary = tl.split(tl.load(t + where, mask=both, other=0.0))
        if DRAWN or t is not None:
            n_real, n_imaginary = n * mask * real, n * mask * imaginary
    if v is not None:
        v_real, v_imaginary = tl.split(tl.load(v + where, mask=both, other=0.0))
        if POWER is not None:
            factor = d
            if POWER > 0:
                factor = d * mask
            if POWER == 2:
                factor = factor * mask
            d_real, d_imaginary = factor * v_real, factor * v_imaginary
        if skew is not None:
            turn = d * tl.load(skew + place, mask=inside, other=0.0)
            d_real -= turn * v_imaginary
            d_imaginary += turn * v_real
    if out is not None:
        tl.store(out + where, tl.join(d_real + n_real, d_imaginary + n_imaginary), mask=both)
    # Where nothing is loaded the mask R is 0.
    return drift + (d_real * d_real + d_imaginary * d_imaginary), noise + (n_real * n_real + n_imaginary * n_imaginary)


@triton.jit(do_not_specialize=["first_sample"])
def spectral_kernel(
    out,
    drift_squares,
    noise_squares,
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
    gain,
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

    The first `main_blocks` of the `blocks` of a sample take the columns from 1 to columns - 1, the others column 0. The
    sums of squares of the drift and the noise in Y over a whole spectrum: `[samples, blocks]`, one a program.
    """
    sample, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    d, n = of_sample(d, d_each, d_stride, n, n_each, n_stride, sample, ROOT_OF_TWO_D)
    d, n = d * gain, n * gain
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
    drift, noise = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    if edge:
        first = h == 0
        # Row 0, and row H / 2 of an even H, are real: column 0 takes the real part of their normal, W / 2 the other.
        real, imaginary = tl.where(first, 1.4142135623730951 * real0, real0), tl.where(first, 0.0, imaginary0)
        place = (top + h) * width
        drift, noise = _place(
            out, v, t, freq, skew, base, place, inside, d, n, real, imaginary, drift, noise, POWER, DRAWN
        )
        mirrored = tl.where(first, low, height - h)
        real, imaginary = tl.where(first, 1.4142135623730951 * real1, real0), tl.where(first, 0.0, -imaginary0)
        has = inside & (h > 0)
        if EVEN_HEIGHT:
            has = inside
        place = (top + mirrored) * width
        drift, noise = _place(
            out, v, t, freq, skew, base, place, has, d, n, real, imaginary, drift, noise, POWER, DRAWN
        )
        if EVEN_WIDTH:
            last = width - 1
            place, real, imaginary = top * width + last, 1.4142135623730951 * imaginary0, imaginary0 * 0.0
            has = inside & first
            drift, noise = _place(
                out, v, t, freq, skew, base, place, has, d, n, real, imaginary, drift, noise, POWER, DRAWN
            )
            has, real, imaginary = there, real1, imaginary1
            if EVEN_HEIGHT:
                has = there & (h > 0)
                real = tl.where(first, 1.4142135623730951 * imaginary1, real1)
                imaginary = tl.where(first, 0.0, imaginary1)
            place = (top + height - low) * width + last
            drift, noise = _place(
                out, v, t, freq, skew, base, place, there, d, n, real, imaginary, drift, noise, POWER, DRAWN
            )
            place = (top + low) * width + last
            drift, noise = _place(
                out, v, t, freq, skew, base, place, has, d, n, real1, -imaginary1, drift, noise, POWER, DRAWN
            )
    else:
        place = (top + h) * width + w
        drift, noise = _place(
            out, v, t, freq, skew, base, place, inside, d, n, real0, imaginary0, drift, noise, POWER, DRAWN
        )
        place += half * width
        drift, noise = _place(
            out, v, t, freq, skew, base, place, there, d, n, real1, imaginary1, drift, noise, POWER, DRAWN
        )
    weight = tl.where(edge, 1.0, 2.0)
    if drift_squares is not None:
        tl.store(drift_squares + tl.program_id(0), weight * tl.sum(drift))
    if noise_squares is not None:
        tl.store(noise_squares + tl.program_id(0), weight * tl.sum(noise))


class Spectrum(NamedTuple):
    """`d (R^power + i w) V + n R Z`, half spectra of an update, d and n left open.

    Fields:
        shape: (B, C, H, W) of the planes.
        freq, skew: R and w, float32 `[C, H, W // 2 + 1]`, or None for nothing.
        v: V, the half spectra of the drift, complex64 `[B, C, H, W // 2 + 1]`, contiguous; or None.
        power: 0, 1, 2, or None where V has no part without w.
        t: Z, like V; where it is None drawn from `drawn` by the noise contract (docs/design.md).
        drawn: the noise stream, which is not advanced; None for no noise, or for that of t.
    """

    shape: tuple[int, ...]
    freq: Tensor | None
    skew: Tensor | None = None
    v: Tensor | None = None
    power: int | None = None
    t: Tensor | None = None
    drawn: Drawn | None = None

    @property
    def size(self) -> int:
        """HW, the numbers of a plane."""
        return self.shape[-2] * self.shape[-1]

    @property
    def noisy(self) -> bool:
        return self.t is not None or self.drawn is not None

    def blocks(self) -> tuple[int, int]:
        """Programs of a sample: for the columns from 1 to ceil(W / 2) - 1, and all."""
        _, channels, height, width = self.shape
        rows = channels * ((height + 1) // 2)
        main = triton.cdiv(rows * ((width + 1) // 2 - 1), BLOCK)
        return main, main + triton.cdiv(rows, BLOCK)


def filtered(
    spectrum: Spectrum,
    out: Tensor | None,
    d: Scale = ONE,
    n: Scale = ONE,
    gain: float = 1.0,
    drift_squares: Tensor | None = None,
    noise_squares: Tensor | None = None,
) -> None:
    """`Y = gain (d (R^power + i w) V + n R Z)`.

    Args:
        spectrum: V, Z and the masks.
        out: Y, like V; may be V or Z itself.
        d, n: scales.
        drift_squares, noise_squares: float32 `[B, blocks]`, written: sums of squares of the two terms of Y.

    Source: PDS, arXiv 2207.02196; identity 2 of docs/design.md.
    """
    check_size(spectrum.shape)
    samples, channels, height, full = spectrum.shape
    main_blocks, blocks = spectrum.blocks()
    drawn = spectrum.drawn
    y, v, t = (None if s is None else view_as_real(s) for s in (out, spectrum.v, spectrum.t))
    spectral_kernel[(samples * blocks,)](
        y,
        drift_squares,
        noise_squares,
        v,
        t,
        None if spectrum.freq is None else spectrum.freq.contiguous(),
        None if spectrum.skew is None else spectrum.skew.contiguous(),
        *d.arguments(),
        *n.arguments(),
        gain,
        None if drawn is None else drawn.seeds,
        None if drawn is None else drawn.draw,
        0 if drawn is None else drawn.first_sample,
        channels,
        height,
        (full + 1) // 2,
        full // 2 + 1,
        math.sqrt(spectrum.size / 2),
        main_blocks,
        blocks,
        POWER=spectrum.power,
        DRAWN=drawn is not None,
        SEED_PER_SAMPLE=drawn is not None and drawn.seeds.numel() > 1,
        EVEN_HEIGHT=height % 2 == 0,
        EVEN_WIDTH=full % 2 == 0,
        ROOT_OF_TWO_D=n.root_of_two_d,
        BLOCK=BLOCK,
    )


def spectral_squares(spectrum: Spectrum, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sums of squares, in pixels, of F^-1 of `(R^power + i w) V` and `R Z`: by Parseval those of the spectra over HW.

    float32 `[B, blocks]`, to be summed over the blocks; 0 for what is not there.
    """
    drift, noise = torch.empty((2, spectrum.shape[0], spectrum.blocks()[1]), device=device)
    filtered(spectrum, None, gain=1 / math.sqrt(spectrum.size), drift_squares=drift, noise_squares=noise)
    return drift, noise
