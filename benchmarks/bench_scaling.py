"""How an update scales: with threads, with the batch, and how much memory it takes beside its inputs and its output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch

from benchmarks import contenders, measure
from benchmarks.measure import Contender, Group
from benchmarks.parity import Oracle
from benchmarks.rows import Row
from benchmarks.sizes import SIZES

ROOT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = {f", {n} thread{'s' * (n > 1)}": n for n in sorted({min(2**i, CORES) for i in range(CORES.bit_length() + 1)})}
BATCHES = [1, 2] if measure.TINY else [1, 2, 8, 32]
WHO = ["cpp", "best torch"]


def updates(labels: dict[str, object], shape: tuple[int, ...], masks: str, counts: dict[str, int]) -> Group:
    """The pds step of the package and of the best composition; `counts` are numbers of threads by the name they add."""
    torch.manual_seed(0)
    x, v = torch.randn(shape), torch.randn(shape)
    m = contenders.masks(shape, "pds", masks == "both")
    oracle = Oracle("step", m.M, x, v)
    best = contenders.baselines("step", m)["best torch"]
    moved = 3 * x.nbytes
    who: dict[str, Contender | str] = {}
    for suffix, count in counts.items():
        who["cpp" + suffix] = measure.package(oracle, moved, "cpp", count)
        who["best torch" + suffix] = Contender(
            lambda: best(x, v),
            moved,
            setting=lambda count=count: measure.threads(count),
            check=lambda: oracle.check_baseline(best),
        )
    labels = {**labels, "op": "step", "method": "pds", "masks": masks, "shape": list(shape)}
    return Group(
        labels, x.numel(), who, tuple(name + suffix for name in WHO for suffix, count in counts.items() if count == 1)
    )


def at_threads(size: str, masks: str) -> Group:
    return updates({"bench": "threads", "size": size}, SIZES[size], masks, THREADS)


def at_batch(batch: int, size: str, masks: str) -> Group:
    return updates({"bench": "batch", "size": size, "threads": 1}, (batch, *SIZES[size][1:]), masks, {"": 1})


def memory(size: str, masks: str) -> list[Row]:
    """In a process of its own: what an allocator holds back from earlier work would hide what the call takes."""
    command = [sys.executable, "-m", "benchmarks.peak_memory", masks, *map(str, SIZES[size])]
    # Every larger block comes from the kernel and goes back to it, so that memory used before is not used again unseen.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    labels = {"bench": "memory", "op": "step", "method": "pds", "masks": masks, "size": size}
    return [{**labels, "shape": list(SIZES[size]), "threads": 1, **row} for row in json.loads(said)]


def groups() -> Iterator[tuple[str, measure.Build]]:
    few = list(product(("CIFAR-10", "LSUN", "FFHQ"), ("frequency", "both")))
    yield from ((f"threads step pds {masks} {size}", partial(at_threads, size, masks)) for size, masks in few)
    for size, batch, masks in product(("CelebA", "LSUN"), BATCHES, ("frequency", "both")):
        yield f"batch {batch} step pds {masks} {size}", partial(at_batch, batch, size, masks)
    if Path("/proc/self/clear_refs").exists():  # which Linux alone has
        yield from ((f"memory step pds {masks} {size}", partial(memory, size, masks)) for size, masks in few)
