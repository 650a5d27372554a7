"""Updates with every filter, mask, noise and storage that have a kernel, and what all kernels of planes must do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
import torch
from conftest import make_problem
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner
from tests.kernels.plane_kernels import ELEMENTS, PlaneKernels, Update, kind_bits
from tests.kernels.simt_library import ORDERS, Build, Mistake, Size

DRAW = (3 << 32) + 2


def each_size(build: Callable[[Size], Build], *sizes: Size) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("build", [build(size) for size in sizes], ids=[str(size) for size in sizes])


def strides_of(shape, layout: str) -> tuple[int, ...]:
    batch, channels, height, width = shape
    plane = height * width
    return {
        "plain": (channels * plane, plane, width, 1),
        "last": (channels * plane, 1, channels * width, channels),
        "strided": (2 * channels * plane + 1, 2 * plane, 2 * width, 2),
        "unaligned": (channels * plane, plane, width, 1),
        "turned": (channels * plane, plane, 1, height),
        "swapped": (plane, batch * plane, width, 1),
        "apart": (channels * plane + 4, plane, width, 1),
        "odd": (channels * (plane + 1), plane + 1, width, 1),
    }[layout]


LAYOUTS = ("plain", "last", "strided", "unaligned", "turned", "swapped", "apart", "odd")


def laid_out(t: Tensor, layout: str) -> Tensor:
    """The same values in another storage, NaN everywhere else."""
    strides, first = strides_of(t.shape, layout), 9 if layout == "unaligned" else 8
    elements = sum((n - 1) * stride for n, stride in zip(t.shape, strides, strict=True)) + 1
    memory = torch.full((first + elements + 8,), math.nan, dtype=t.dtype)
    return memory.as_strided(t.shape, strides, first).copy_(t)


def writes_only_its_elements(out: Tensor) -> bool:
    return int(out._base.isnan().sum()) == out._base.numel() - out.numel()


def make_update(size, filter, masks, noise, batch=3, channels=3, seed=0) -> Update:
    """An update with the masks named, and noise of a "stream", of "seeds", of the caller's "z", or None."""
    p = make_problem(batch, (channels, *size), "pds", "R" in masks, "A" in masks, "w" in masks, seed)
    each = torch.linspace(0.5, 1.5, batch)
    if filter in ("M", "Mt", "MMt"):
        return Update(filter, p.M, v=p.v.float(), d=1.0)
    update = Update(filter, p.M, p.x.float(), p.v.float(), d=0.3 * each, n=0.7 * each, draw=DRAW)
    if noise == "z":
        return update._replace(z=torch.randn(p.x.shape, generator=torch.Generator().manual_seed(seed)))
    if noise == "stream":
        return update._replace(seeds=torch.tensor([-5]), first_sample=7)
    return update._replace(seeds=torch.arange(batch) * (1 << 40) + 3 if noise == "seeds" else None)


class Case(NamedTuple):
    filter: str
    masks: str
    noise: str | None
    kinds: tuple[str, ...]  # of kernel
    langevin: bool = False

    def update(self, size: Size, **options) -> Update:
        update = make_update(size, self.filter, self.masks, self.noise, **options)
        return update._replace(n=None) if self.langevin else update


CASES = {
    "drift": Case("drift", "R", "stream", ("drift",)),
    "langevin": Case("drift", "R", "stream", ("drift",), langevin=True),
    "seeds": Case("drift", "R", "seeds", ("drift",)),
    "no noise": Case("drift", "R", None, ("drift",)),
    "MMt": Case("MMt", "R", None, ("drift",)),
    "skew": Case("drift", "Rw", "stream", ("skewed drift",)),
    "noise": Case("noise", "R", "stream", ("noise",)),
    "A": Case("drift", "RA", "stream", ("pixels",)),
    "A, z": Case("drift", "RA", "z", ("pixels",)),
    "A, skew": Case("drift", "RAw", "stream", ("skewed drift", "pixels")),
    "z": Case("drift", "R", "z", ("pixels",)),
    "A, noise": Case("noise", "RA", "seeds", ("pixels",)),
    "A, M": Case("M", "RA", None, ("pixels",)),
    "A, Mt": Case("Mt", "RA", None, ("pixels",)),
    "A, MMt": Case("MMt", "RA", None, ("pixels",)),
}


def results(kernels: PlaneKernels, update: Update, shape, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The output in every order, each in a place of its own: on the base, dense, and as single elements."""
    outs = []
    for order, layout in zip(ORDERS, ("in place", "plain", "strided", "turned"), strict=True):
        monkeypatch.setenv("SIMT_ORDER", order)
        if layout == "in place" and update.base is not None:
            out = update.base.clone()
            outs.append(kernels(update._replace(base=out), out))
        else:
            out = laid_out(torch.full(shape, math.nan), "plain" if layout == "in place" else layout)
            outs.append(kernels(update, out))
    return outs


def noise_of_ones(masks: str, shape, seeds: list[int], draw: int, first_sample: int) -> tuple[Update, NoiseStream]:
    """Pure noise, R and A being ones that must be applied, with the stream that gives it."""
    ones = torch.ones(shape[1:], dtype=torch.float64)
    M = Preconditioner.from_masks(ones, ones if "A" in masks else None)
    stream = (
        NoiseStream(seeds=seeds, draw=draw)
        if len(seeds) > 1
        else NoiseStream(seeds[0], first_sample=first_sample, draw=draw)
    )
    return Update("noise", M, n=1.0, seeds=stream.seeds, draw=draw, first_sample=first_sample), stream


def check_noise(kernels: PlaneKernels, masks: str, shape, draws: list[tuple[list[int], int, int]]) -> None:
    """Every draw (seeds, draw, first sample) is that of the CPU, and no two planes are alike."""
    backend, seen = "cpp" if "cpp" in tdas_ops.backend_info()["available"] else "reference", []
    for seeds, draw, first in draws:
        update, stream = noise_of_ones(masks, shape, seeds, draw, first)
        with tdas_ops.use_backend(backend):
            expected = tdas_ops.noise(update.M, shape, stream)
        seen.append(kernels(update, torch.full(shape, math.nan)))
        assert (seen[-1] - expected).abs().max() < 1e-5, (seeds, draw, first)
    for a, b in itertools.combinations(torch.cat(seen).flatten(0, 1), 2):
        assert (a - b).square().mean() > 1


def check_cast(kernels: PlaneKernels, case: str, size: Size) -> None:
    """x' as it is in every format and storage, beside an output in another."""
    update = CASES[case].update(size, channels=2)
    expected = kernels(update, torch.empty_like(update.v))
    for dtype, layout, of_out in itertools.product(ELEMENTS, ("plain", "last"), ("plain", "strided")):
        cast = laid_out(torch.full(update.v.shape, math.nan, dtype=dtype), layout)
        out = kernels(update, laid_out(torch.full(update.v.shape, math.nan), of_out), cast)
        assert torch.equal(out, expected) and torch.equal(cast, expected.to(dtype)), (dtype, layout, of_out)
        assert writes_only_its_elements(cast)


def in_kernels_of_their_cases(
    mistakes: Iterable[tuple[str, str, Size, str]], build: Callable[..., Build]
) -> list[tuple[Build, Mistake]]:
    return [(build(size, kind_bits(CASES[case].kinds)), (said, says)) for said, says, size, case in mistakes]


def planted(mistakes: Iterable[tuple[str, str, Size, str]], built: list[tuple[Build, int]]) -> list[tuple[object, ...]]:
    """Build, number, size and case of each."""
    return [(*found, *of) for found, (_, _, *of) in zip(built, mistakes, strict=True)]
