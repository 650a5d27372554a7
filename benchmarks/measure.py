"""Times of the contenders of a group on a CPU, taken in turns, as rows."""

from __future__ import annotations

import functools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import tdas_ops
from benchmarks.parity import Oracle, ParityError
from benchmarks.rows import Row, rounded
from benchmarks.turns import in_turns

TINY = os.environ.get("TDAS_OPS_BENCH_TINY") == "1"  # everything once and small: for the tests of the benchmarks
SECONDS = 0.002 if TINY else 0.3  # of samples for each contender
MOST_ROUNDS, FEWEST_ROUNDS = (2, 2) if TINY else (25, 5)


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a group.

    Attributes:
        run: does the work once.
        least_bytes: what it must read and write at least, whatever it does in between.
        setting: entered around each sample, outside its time: a backend, a number of threads.
        check: raises where the result is wrong; called before anything is timed.
        path: what runs, in words.
        calls: how often `run` does the work.
    """

    run: Callable[[], object]
    least_bytes: int
    setting: Callable[[], AbstractContextManager[object]] = nullcontext
    check: Callable[[], None] | None = None
    path: str = "torch"
    calls: int = 1


@dataclass(frozen=True)
class Group:
    """Contenders that do the same work on the same input.

    A contender that cannot run here is the sentence that says why. `labels` say what is measured; those of a row are
    plain values.
    """

    labels: dict[str, Any]
    elements: int
    contenders: dict[str, Contender | str]
    baselines: tuple[str, ...] = ("best torch", "compiled torch", "published")


Build = Callable[[], "Group | list[Row]"]
"""Makes a group ready, or measures what is no time by itself."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def package(oracle: Oracle, least_bytes: int, backend: str, count: int = 1) -> Contender | str:
    """The package as a contender: the call of an oracle on one backend, with a number of threads."""
    missing = tdas_ops.backend_info()["missing"].get(backend)
    if missing is not None:
        return str(missing)
    stream = tdas_ops.NoiseStream(7)

    @contextmanager
    def setting() -> Iterator[None]:
        with threads(count), tdas_ops.use_backend(backend):
            yield

    with setting():
        path = tdas_ops.backend_info()["paths"]["cpu"][oracle.op]
    return Contender(lambda: oracle.call(oracle.x, oracle.v, stream), least_bytes, setting, oracle.check, path)


def _sample(contender: Contender, loops: int) -> float:
    """Seconds of one call."""
    with contender.setting():
        start = time.perf_counter()
        for _ in range(loops):
            contender.run()
        return (time.perf_counter() - start) / loops


def interleaved(contenders: Mapping[str, Contender], seconds: float = SECONDS) -> dict[str, list[float]]:
    """Seconds of one call of `run`: samples of each contender, as many of one as of another.

    A sample is long enough for the clock, and so many calls that the fast contenders get about as much time as the slow
    ones. A contender that fails its check is never timed: the check raises.
    """
    loops = {}
    for name, contender in contenders.items():
        with contender.setting():
            if contender.check is not None:
                try:
                    contender.check()
                except ParityError as error:
                    raise ParityError(f"{name}: {error}") from None
        _sample(contender, 1)  # caches, plans, threads
        loops[name] = max(1, math.ceil(seconds / MOST_ROUNDS / _sample(contender, 1)))
    start = time.perf_counter()

    def enough(taken: int) -> bool:
        return taken >= FEWEST_ROUNDS and time.perf_counter() - start > seconds * len(contenders)

    samplers = {name: partial(_sample, contender, loops[name]) for name, contender in contenders.items()}
    return in_turns(samplers, MOST_ROUNDS, enough)


@functools.cache
def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy of 256 MiB, far more than any cache, on one thread."""
    source = torch.ones(1 << (16 if TINY else 26))
    target = torch.empty_like(source)
    with threads(1):
        samples = interleaved({"copy": Contender(lambda: target.copy_(source), 0)})
    return 2 * source.nbytes / statistics.median(samples["copy"])


def measured(group: Group) -> list[Row]:
    """Times a group: a row for each contender."""
    bandwidth = copy_bandwidth()
    timed = {name: c for name, c in group.contenders.items() if isinstance(c, Contender)}
    with threads(1):
        samples = {name: [t / timed[name].calls for t in times] for name, times in interleaved(timed).items()}
    medians = {name: statistics.median(times) for name, times in samples.items()}
    rows = []
    for name, contender in group.contenders.items():
        row = {**group.labels, "name": name}
        if isinstance(contender, str):
            rows.append(row | {"obstacle": contender})
            continue
        quartiles = statistics.quantiles(samples[name], n=4, method="inclusive")
        row |= {
            "path": contender.path,
            "rounds": len(samples[name]),
            "microseconds": medians[name] * 1e6,
            "ns_per_element": [t / group.elements * 1e9 for t in quartiles],
        }
        if contender.least_bytes:
            speed = contender.least_bytes / medians[name]
            row["least_bytes"] = contender.least_bytes
            row["gb_per_s"], row["share_of_copy"] = speed / 1e9, speed / bandwidth
        others = [other for other in group.baselines if other in medians and other != name]
        row["ratios"] = {other: medians[other] / medians[name] for other in others}
        rows.append(rounded(row, 4))
    return rows
