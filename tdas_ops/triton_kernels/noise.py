"""The unit complex normals g of the noise contract: one Philox call makes the elements e and e + half of a row."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, view_as_real

BLOCK = 512


@triton.jit
def _sincos(theta):
    """sin and cos for |theta| <= pi to 1e-7; those of the library carry a path for huge angles that costs registers."""
    turns = tl.floor(theta * 0.6366197723675814 + 0.5)  # quarters, from -2 to 2; pi / 2 is taken off in three parts
    r = ((theta - turns * 1.5703125) - turns * 4.837512969970703e-4) - turns * 7.549789954891882e-8
    z = r * r
    # Polynomials of the Cephes library for |r| <= pi / 4.
    s = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 + z * -1.9515295891e-4))
    c = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5))
    quarter = turns.to(tl.int32)
    odd = (quarter & 1) != 0
    sine, cosine = tl.where(odd, c, s), tl.where(odd, s, c)
    return tl.where((quarter & 2) != 0, -sine, sine), tl.where(((quarter + 1) & 2) != 0, -cosine, cosine)


@triton.jit
def _box_muller(ra, rb):
    """Two 32-bit words to one complex normal; near u = 1, where float32 cannot hold 1 - u, by a series in v = 1 - u."""
    # The products with 2^-32 are exact, so multiply and add round once, like the fused operation of the contract.
    u = ra.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    v = (ra ^ 0xFFFFFFFF).to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    series = v * (2.0 + v * (1.0 + v * (0.6666666666666666 + v * 0.5)))
    rho = tl.sqrt(tl.where(v < 0.03125, series, -2.0 * tl.log(u)))
    theta = rb.to(tl.int32, bitcast=True).to(tl.float32) * 1.4629180792671596e-09  # 2 pi 2^-32
    sine, cosine = _sincos(theta)
    return rho * cosine, rho * sine


@triton.jit
def normal_pair(seeds, draw, sample, first_sample, quad, SEED_PER_SAMPLE: tl.constexpr):
    """Real and imaginary parts of the two normals that each quad (int32, of one sample) of this draw makes."""
    if SEED_PER_SAMPLE:
        seed, index = tl.load(seeds + sample), quad * 0
    else:
        seed, index = tl.load(seeds), quad * 0 + (first_sample + sample)
    count = tl.load(draw) + quad.to(tl.int64) * 0
    low, high = (count & 0xFFFFFFFF).to(tl.uint32), ((count >> 32) & 0xFFFFFFFF).to(tl.uint32)
    r0, r1, r2, r3 = tl.philox(seed, quad.to(tl.uint32), index.to(tl.uint32), low, high)
    real0, imaginary0 = _box_muller(r0, r1)
    real1, imaginary1 = _box_muller(r2, r3)
    return real0, imaginary0, real1, imaginary1


@triton.jit
def normals_kernel(
    out, seeds, draw, blocks, quads, half, width, size, first_sample, SEED_PER_SAMPLE: tl.constexpr, BLOCK: tl.constexpr
):
    """out: float32 `[samples, size, 2]`, real and imaginary part; one program for each of the `blocks` of a sample."""
    sample = tl.program_id(0) // blocks
    quad = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    real0, imaginary0, real1, imaginary1 = normal_pair(seeds, draw, sample, first_sample, quad, SEED_PER_SAMPLE)
    row, column = quad // half, quad % half
    left = (sample.to(tl.int64) * size + row * width + column) * 2
    inside = quad < quads
    tl.store(out + left, real0, mask=inside)
    tl.store(out + left + 1, imaginary0, mask=inside)
    inside = inside & (column + half < width)
    tl.store(out + left + 2 * half, real1, mask=inside)
    tl.store(out + left + 2 * half + 1, imaginary1, mask=inside)


def normals(out: Tensor, seeds: Tensor, draw: Tensor, first_sample: int, spectral: bool) -> None:
    """The op `normals` of `_schema.py`; out: complex64, contiguous `[B, C, H, ceil(W / 2)]`."""
    samples, channels, height, columns = out.shape
    if spectral:
        rows, width, half = channels, height * columns, (height + 1) // 2 * columns
    else:
        rows, width, half = channels * height, columns, (columns + 1) // 2
    quads = rows * half
    if out.numel() == 0:
        return
    blocks = triton.cdiv(quads, BLOCK)
    sizes = (blocks, quads, half, width, rows * width, first_sample)
    normals_kernel[(samples * blocks,)](
        view_as_real(out), seeds, draw, *sizes, SEED_PER_SAMPLE=seeds.numel() > 1, BLOCK=BLOCK
    )
