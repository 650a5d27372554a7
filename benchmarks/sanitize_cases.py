"""Small launches of every CUDA kernel, for compute-sanitizer: every size and kind, last blocks partly empty, odd
strides, narrow scores. No torch.fft: what cuFFT does is not ours to check. Tensors are made on the CPU and moved, so
that hardly a kernel runs besides those of the package. `tickets` or `cooperative` as argument:
kernels whose blocks wait for each other, alone."""

import itertools
import math
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, _backends, _extension

BATCH, CHANNELS = 3, 3  # nine planes: one more than blocks of eight, four or two hold
PLANES = tuple(itertools.product((32, 64, 128), repeat=2))
# In passes: every width and every height, as thin as they may be.
IN_PASSES = [(32, 2048), (32, 1024), (32, 512), (64, 256), (128, 256), (256, 128), (512, 64), (1024, 32), (2048, 32)]


def preconditioner(height: int, width: int, masks: str, method: str) -> Preconditioner:
    """With those of the masks R, A and w that are named."""
    frequencies = [2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width)]
    down, across = frequencies[0][:, None], frequencies[1][None]
    shape = (CHANNELS, height, width)
    if not masks:
        return Preconditioner.identity(shape, method).to("cuda")
    R = 1 + 0.2 * (down.cos() + across.cos()) if "R" in masks else None
    w = 0.3 * (down.sin() + across.sin()) if "w" in masks else None
    A = torch.rand(height, width, generator=torch.Generator().manual_seed(1)) + 0.5 if "A" in masks else None
    return Preconditioner.from_masks(R, A, w, shape=shape, method=method).to("cuda")


def finite(*results: Tensor) -> None:
    assert all(result.cpu().isfinite().all() for result in results)


def updates(height: int, width: int, masks: str, method: str) -> None:
    """Every kind of launch that steps, coloured noise and a filter come down to."""
    M = preconditioner(height, width, masks, method)
    x, v, z = (torch.randn(BATCH, CHANNELS, height, width) for _ in range(3))
    last = x.contiguous(memory_format=torch.channels_last).cuda()
    x, v, z, narrow = x.cuda(), v.cuda(), z.cuda(), v.bfloat16().cuda()
    each = torch.full((BATCH,), 0.1).cuda()
    seeds = NoiseStream(seeds=[4, 5, 6], device="cuda")
    finite(
        tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(7)),
        tdas_ops.step(x, v, M, 0.1, noise_scale=0.0),
        tdas_ops.step(x, v, M, each, noise=z),
        *tdas_ops.step(last, narrow, M, each, noise=seeds, noise_scale=each, return_mean=True),
    )
    cast = torch.empty_like(narrow, memory_format=torch.channels_last)
    finite(tdas_ops.step(x, v.half(), M, 0.1, noise=NoiseStream(7), out=x, cast=cast), cast)
    if masks != "RAw":
        finite(
            tdas_ops.langevin_step(x, v, M, 0.16, noise=NoiseStream(7)),
            *tdas_ops.langevin_step(last, narrow, M, 0.16, noise=z, alpha=each, norm="sample", return_mean=True),
        )
    if "w" not in masks:
        finite(
            tdas_ops.noise(M, x.shape, NoiseStream(7), each),
            tdas_ops.noise(M, x.shape, z, memory_format=torch.channels_last),
            *(tdas_ops.precondition(t, M, which) for t, which in ((v, "M"), (v, "Mt"), (v, "MMt"), (narrow, "MMt"))),
        )


def normals() -> None:
    """Odd sizes, both kinds of noise, one seed for all and one a sample."""
    draw = torch.tensor([3]).cuda()
    for samples, channels, height, width in ((3, 2, 5, 8), (1, 3, 7, 33), (2, 2, 4, 1), (2, 1, 3, 129)):
        for count, spectral in itertools.product({1, samples}, (False, True)):
            out = torch.empty(samples, channels, height, width, dtype=torch.complex64, device="cuda")
            torch.ops.tdas_ops.normals.cuda(out, torch.arange(count).cuda(), draw, 0, spectral)


def tickets() -> None:
    """More planes than the ring has, and fewer."""
    _backends.choose_large("ticket")
    for masks, method in (("R", "pds"), ("R", "tdas"), ("Rw", "pds")):
        M = preconditioner(1024, 1024, masks, method)
        for batch in (1, BATCH):
            x, v = (torch.randn(batch, CHANNELS, 1024, 1024).cuda() for _ in range(2))
            finite(
                *tdas_ops.step(x, v.bfloat16(), M, 0.1, noise=NoiseStream(7), return_mean=True),
                tdas_ops.langevin_step(x, v, M, 0.16, noise=NoiseStream(7), out=x),
            )
        if masks == "R":
            finite(tdas_ops.noise(M, x.shape, NoiseStream(7)), tdas_ops.precondition(v, M, "MMt"))


def cooperative() -> None:
    """Samples across blocks, many in one, and one plane a sample."""
    _backends.choose_snr("cooperative")
    for size, method, channels, norm in itertools.product(
        (32, 64, 128), ("pds", "tdas"), (1, CHANNELS), ("batch", "sample")
    ):
        M = (
            preconditioner(size, size, "R", method)
            if channels == CHANNELS
            else Preconditioner.from_masks(torch.ones(1, size, size), method=method).to("cuda")
        )
        x, v = (torch.randn(2 * BATCH, channels, size, size).cuda() for _ in range(2))
        narrow, cast = v.bfloat16(), torch.empty_like(v, dtype=torch.float16, memory_format=torch.channels_last)
        finite(
            tdas_ops.langevin_step(x, narrow, M, 0.16, noise=NoiseStream(7), norm=norm, cast=cast),
            cast,
            tdas_ops.langevin_step(x, v, M, 0.16, noise=NoiseStream(7), norm=norm, out=x),
        )


def launches() -> None:
    """Those of every kernel whose blocks do not wait for each other."""
    normals()
    for height, width in PLANES:
        for masks, method in (("R", "pds"), ("R", "tdas"), ("RA", "pds"), ("RA", "tdas"), ("Rw", "pds")):
            updates(height, width, masks, method)
        updates(height, width, "RAw", "pds")
    limit = _extension.load().limit_scratch
    for height, width in IN_PASSES:
        for chunk, masks, method in zip(
            itertools.cycle((1, 16 * (height + 1) * width, 0)),  # one plane, four, all of them
            ("R", "R", "RA", "RA", "Rw", "RAw"),
            ("pds", "tdas", "pds", "tdas", "pds", "pds"),
            strict=False,
        ):
            limit(chunk)
            updates(height, width, masks, method)
    limit(0)
    for height, width in ((5, 7), (1, 1), (33, 34), (64, 64)):
        for masks, method in itertools.product(("A", ""), ("pds", "tdas")):
            updates(height, width, masks, method)


def main() -> None:
    torch.manual_seed(0)
    with tdas_ops.use_backend("cuda"):
        {"tickets": tickets, "cooperative": cooperative}.get("".join(sys.argv[1:]), launches)()
    torch.cuda.synchronize()
    print("sanitize_cases: every launch is done")


if __name__ == "__main__":
    main()
