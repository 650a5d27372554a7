"""White normals against torch.randn, and what any update costs at least: one addition, one copy. On one thread."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import tdas_ops
from benchmarks import measure
from benchmarks.measure import Contender, Group
from benchmarks.parity import Oracle
from benchmarks.sizes import SIZES

WHITE = "tdas_ops.noise, A = 1"  # a space mask of ones: pixel noise, nothing to filter


def group(size: str) -> Group:
    shape = SIZES[size]
    x, v, out = (torch.randn(shape) for _ in range(3))
    M = tdas_ops.Preconditioner.from_masks(space=torch.ones(shape[1:]), method=None)
    who: dict[str, Contender | str] = {
        WHITE: measure.package(Oracle("noise", M, x, v), x.nbytes, "cpp"),
        "torch.randn": Contender(lambda: torch.randn(shape), x.nbytes),
        "torch.add": Contender(lambda: torch.add(x, v, out=out), 3 * x.nbytes),
        "copy": Contender(lambda: out.copy_(x), 2 * x.nbytes),
    }
    labels = {"bench": "floor", "op": "white noise and memory", "size": size, "shape": list(shape), "threads": 1}
    return Group(labels, x.numel(), who, baselines=("torch.randn",))


def groups() -> Iterator[tuple[str, measure.Build]]:
    yield from ((f"floor {size}", partial(group, size)) for size in SIZES)
