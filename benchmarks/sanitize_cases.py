"""Small launches of every CUDA kernel, for compute-sanitizer: every size and kind, last blocks partly empty, odd
strides, narrow scores. No torch.fft: what cuFFT does is not ours to check. Tensors are made on the CPU and moved, so
that hardly a kernel runs besides those of the package. Started by benchmarks/gpu.sh; a row for each case that is over.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_device  # first: it chooses which extension is loaded

# isort: split
import torch
from torch import Tensor

import tdas_ops
from benchmarks.gpu_device import DEVICE, ON_GPU, keep, late
from tdas_ops import NoiseStream, Preconditioner, _extension

BATCH, CHANNELS = 3, 3  # nine planes: one more than blocks of eight, four or two hold
BY_WARPS = [(32, 32), (32, 64), (64, 32)]  # planes that wait with __syncwarp, of which racecheck has most to say
BY_BLOCKS = [(64, 64), (128, 128), (64, 128), (128, 64), (32, 128), (128, 32)]
# In passes: every width and every height, as thin as they may be.
IN_PASSES = [(128, 256), (256, 128), (32, 2048), (32, 1024), (32, 512), (64, 256), (512, 64), (1024, 32), (2048, 32)]
PIXELS = [(5, 7), (1, 1), (33, 34), (64, 64)]
KINDS = [("R", "pds"), ("R", "tdas"), ("RA", "pds"), ("RA", "tdas"), ("Rw", "pds"), ("RAw", "pds")]

Case = tuple[str, Callable[[], None]]


def preconditioner(height: int, width: int, masks: str, method: str, channels: int = CHANNELS) -> Preconditioner:
    return gpu_device.preconditioner((channels, height, width), masks, method)


def finite(*results: Tensor) -> None:
    assert all(result.cpu().isfinite().all() for result in results)


def updates(height: int, width: int, masks: str, method: str, chunk: int = 0) -> None:
    """Every kind of launch that steps, coloured noise and a filter come down to; `chunk`: bytes of scratch at once."""
    if ON_GPU:
        _extension.load().limit_scratch(chunk)
    M = preconditioner(height, width, masks, method)
    x, v, z = (torch.randn(BATCH, CHANNELS, height, width) for _ in range(3))
    last = x.contiguous(memory_format=torch.channels_last).to(DEVICE)
    x, v, z, narrow = x.to(DEVICE), v.to(DEVICE), z.to(DEVICE), v.bfloat16().to(DEVICE)
    each = torch.full((BATCH,), 0.1).to(DEVICE)
    seeds = NoiseStream(seeds=[4, 5, 6], device=DEVICE)
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
    draw, overloads = torch.tensor([3]).to(DEVICE), torch.ops.tdas_ops.normals
    for samples, channels, height, width in ((3, 2, 5, 8), (1, 3, 7, 33), (2, 2, 4, 1), (2, 1, 3, 129)):
        for count, spectral in itertools.product({1, samples}, (False, True)):
            out = torch.empty(samples, channels, height, width, dtype=torch.complex64, device=DEVICE)
            kernel = overloads.cuda if ON_GPU else overloads.cpp
            kernel(out, torch.arange(count).to(DEVICE), draw, 0, spectral)


def cooperative(size: int, method: str, channels: int, norm: str) -> None:
    """Samples across blocks, many in one, and one plane a sample."""
    M = preconditioner(size, size, "R", method, channels)
    x, v = (torch.randn(2 * BATCH, channels, size, size).to(DEVICE) for _ in range(2))
    narrow, cast = v.bfloat16(), torch.empty_like(v, dtype=torch.float16, memory_format=torch.channels_last)
    finite(
        tdas_ops.langevin_step(x, narrow, M, 0.16, noise=NoiseStream(7), norm=norm, cast=cast),
        cast,
        tdas_ops.langevin_step(x, v, M, 0.16, noise=NoiseStream(7), norm=norm, out=x),
    )


def named(function: Callable[..., None], *arguments: object) -> Case:
    return " ".join(map(str, (function.__name__, *arguments))), partial(function, *arguments)


def cases() -> list[Case]:
    every = itertools.product((32, 64, 128), ("pds", "tdas"), (1, CHANNELS), ("batch", "sample"))
    in_one_launch = [named(cooperative, *case) for case in every]
    on_chip = [[named(updates, *plane, *kind) for kind in KINDS] for plane in (*BY_BLOCKS, *BY_WARPS)]
    chunks = itertools.cycle((1, 4, 0))  # planes at once; 0: all of them
    passes = [
        named(updates, height, width, *kind, planes * 4 * (height + 1) * width)
        for height, width in IN_PASSES
        for kind, planes in zip(KINDS, chunks, strict=False)
    ]
    pixels = [named(updates, *p, masks, method) for p in PIXELS for masks in ("A", "") for method in ("pds", "tdas")]
    # First what racecheck has not come to on a GPU yet: these, the narrow planes, most of the passes from the last on.
    groups = [in_one_launch, *on_chip[len(BY_BLOCKS) :], passes[::-1], *on_chip[: len(BY_BLOCKS)], pixels]
    return [*itertools.chain(*groups), named(normals)]


def main() -> int:
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    with tdas_ops.use_backend("cuda") if ON_GPU else contextlib.nullcontext():
        for name, run in cases():
            if late(name):
                return 1
            run()
            gpu_device.synchronize()
            keep(case=name, ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
