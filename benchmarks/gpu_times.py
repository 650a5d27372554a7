"""Device times of the ops, a row a case, each beside a copy of the machine's own, in turns.

    python benchmarks/gpu_times.py headline | compiled | chunks | small | turns FILE...

Started by benchmarks/gpu.sh; see gpu_device.py. `turns` measures further builds of the extension beside the package's:
a process a build, which wait for each other. A row gives microseconds a call; `share`: the bandwidth of the least bytes
an op moves (`WORDS`), over that of the copy; `ratio`: of the time of others to ours. What is kept is not measured
again; nothing is timed whose result is wrong.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_device  # first: it chooses which extension is loaded

# isort: split
import torch

import tdas_ops
from benchmarks import contenders
from benchmarks.gpu_device import DEVICE, ON_GPU, WORDS, Run, first_line, keep, late, rounded
from benchmarks.rows import Row
from benchmarks.turns import Worker, serve

KINDS = {"pds": ("pds", False), "tdas": ("tdas", False), "both": ("pds", True)}
ELEMENTS = 24 << 20 if ON_GPU else 1 << 16  # of a batch: 300 MB from x, v to x'
TEN = 10  # times as many: 3 GB
LARGE = (256, 512, 1024, 2048)
OWN, TORCH, FFT, COMPILED, COPY = "tdas_ops", "torch", "fft", "compiled", "copy"
GRAPH_CALLS = 40
ROUNDS_OF_TURNS = 2


class Case(NamedTuple):
    op: str
    size: int
    kind: str  # of KINDS
    batches: float = 1  # of ELEMENTS elements

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return max(1, round(self.batches * ELEMENTS / (3 * self.size**2))), 3, self.size, self.size

    def __str__(self) -> str:
        return f"{self.op} {self.size} {self.kind} {'x'.join(map(str, self.shape))}"


STEPS = [Case("step", size, kind) for kind in KINDS for size in (64, 128, 32, 1024)]
HEADLINE = [
    *STEPS,
    *(Case("step", size, kind, TEN) for size in (64, 128, 1024) for kind in ("pds", "tdas")),
    *(Case("step", size, kind) for size in (256, 512, 2048) for kind in KINDS),
    *(Case("langevin_step", size, kind) for size in (64, 128, 1024, 32) for kind in ("pds", "both")),
    *(Case("step", size, kind, TEN) for size, kind in ((32, "pds"), (64, "both"), (256, "pds"), (2048, "pds"))),
    *(Case(op, size, "pds") for op in ("noise", "precondition") for size in (64, 1024)),
]
OF_TURNS = [*STEPS, *(Case("step", size, "pds", TEN) for size in (64, 128)), Case("step", 256, "pds")]
OF_TURNS += [Case("langevin_step", size, "pds") for size in (64, 1024)]
OF_COMPILED = [Case("step", *of) for of in ((64, "pds"), (1024, "pds"), (128, "pds"), (32, "pds"), (64, "both"))]
# Some samples, and about as many as an H100 holds at once, which langevin_step takes in one launch.
HELD = {32: 1400, 64: 350, 128: 88}
SMALL = [
    Case("langevin_step", size, "pds", samples * 3 * size**2 / ELEMENTS)
    for size, most in HELD.items()
    for samples in (8, most)
]
SMALL += [Case("step", size, kind, 8 * 3 * size**2 / ELEMENTS) for size in HELD for kind in KINDS]
OF_CHUNKS = [Case(op, size, kind) for op in ("step", "langevin_step") for size in LARGE for kind in KINDS]


def row_of(case: Case, seconds: dict[str, float], calls: int = 1) -> Row:
    """What is kept of a case, from seconds of each contender for so many calls."""
    each = {name: time_each / calls for name, time_each in seconds.items()}
    row: Row = {}
    if COPY in seconds:
        each.pop(COPY)
        bandwidth = 8 * gpu_device.COPY_WORDS / seconds[COPY]
        least = 4 * WORDS[case.op] * math.prod(case.shape)
        row["copy_tb_s"] = rounded(bandwidth * 1e-12)
        row["share"] = {n: round(least / s / bandwidth, 3) for n, s in each.items() if n not in (TORCH, FFT, COMPILED)}
    row["us"] = {name: rounded(s * 1e6) for name, s in each.items()}
    if OWN in each:
        row["ratio"] = {n: round(s / each[OWN], 2) for n, s in each.items() if n in (TORCH, FFT, COMPILED)}
    return row


def limited(own: Run, mib: int) -> Run:
    """With so much scratch for planes in passes; 0: as much as the package chooses."""
    limit = tdas_ops._extension.load().limit_scratch

    def run(i: int) -> None:
        limit(mib << 20)
        try:
            own(i)
        finally:
            limit(0)

    return run


class Measured:
    """A case with its buffers and the package as a contender, whose results were checked."""

    def __init__(self, case: Case, cold: bool = True) -> None:
        self.case = case
        self.masks = contenders.masks(case.shape, *KINDS[case.kind], DEVICE)
        gpu_device.check(case.op, self.masks, case.shape)
        self.buffers = gpu_device.Buffers(case.shape, cold)
        self.runs: dict[str, Run] = {OWN: self.buffers.own(case.op, self.masks.M)}

    def add_torch(self) -> None:
        self.runs[TORCH] = self.buffers.of(contenders.baselines(self.case.op, self.masks)["best torch"])
        if self.case.op == "step":
            self.runs[FFT] = self.buffers.filter_alone

    def add_scratch(self, mebibytes: list[int]) -> None:
        if hasattr(tdas_ops._extension.load(), "limit_scratch"):
            self.runs |= {f"{mib} MiB": limited(self.runs[OWN], mib) for mib in mebibytes}

    def add_compiled(self) -> None:
        compiled = self.buffers.of(contenders.compiled(self.masks, self.case.op))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # inductor says that it leaves the FFTs to torch
            compiled(0)
        self.runs[COMPILED] = compiled


Prepare = Callable[[Measured], None]


def headline(measured: Measured) -> None:
    measured.add_torch()
    if measured.case.op == "step" and measured.case.size in LARGE and measured.case.batches == 1:
        measured.add_scratch([16, 24, 64])


def compiled(measured: Measured) -> None:
    measured.add_compiled()


def chunks(measured: Measured) -> None:
    measured.add_scratch([8, 16, 24, 32, 64, 128, 256, 1024])


def measure(cases: list[Case], prepare: Prepare, copy: Run | None, host: bool = False) -> int:
    """A row a case; returns how many failed.

    Beside the copy, or without one small batches, whose data stay in the cache: times in the replay of a graph of many
    calls; with `host` also the host's time of one.
    """
    failed = 0
    for case in cases:
        if gpu_device.kept(str(case)):
            continue
        if late(str(case)):
            return failed + 1
        measured = None
        try:
            measured = Measured(case, cold=copy is not None)
            prepare(measured)
            row: Row = {}
            if host:
                row["host_us"] = {n: rounded(s * 1e6) for n, s in gpu_device.host_seconds(measured.runs).items()}
            if copy is not None:
                runs, calls = {**measured.runs, COPY: copy}, 1
            else:
                runs = {name: gpu_device.captured(run, GRAPH_CALLS) for name, run in measured.runs.items()}
                calls = GRAPH_CALLS
            keep(case=str(case), **row_of(case, gpu_device.in_turns(runs), calls), **row)
        except Exception as error:
            failed += 1
            keep(case=str(case), ok=False, why=first_line(error))
            if gpu_device.lost(error):
                break
        del measured
        empty_cache()
    return failed


def empty_cache() -> None:
    if ON_GPU:
        torch.cuda.empty_cache()


def small(measured: Measured) -> None:
    measured.add_torch()
    x, v, out = (tensors[0] for tensors in (measured.buffers.xs, measured.buffers.vs, measured.buffers.outs))
    measured.runs["torch.add alone"] = lambda i: torch.add(x, v, out=out)


# Builds in turns


class Server(Worker):
    """A process that measures cases with one build of the extension."""

    answer_seconds = 20 if ON_GPU else 60

    def __init__(self, name: str, extension: str | None) -> None:
        own = {"GPU_ROWS": os.devnull} | ({"GPU_EXTENSION": extension} if extension else {})
        super().__init__(name, [sys.executable, __file__, "serve"], {**os.environ, **own})


def answering() -> Callable[..., Row]:
    """Seconds of the package and of the copy, nothing of a case that is made ready."""
    copy, measured = gpu_device.copying(), None

    def answer(*order: Any) -> Row:
        nonlocal measured
        case, timed = Case(*order[:-1]), order[-1]
        try:
            if gpu_device.identity()["lib"] == gpu_device.NO_KERNELS:
                raise RuntimeError(tdas_ops._extension.reason() or "it has no CUDA kernels")
            if measured is None or measured.case != case:
                measured = None
                empty_cache()
                measured = Measured(case)
            return gpu_device.in_turns({**measured.runs, COPY: copy}) if timed else {}
        except Exception as error:
            return {"why": first_line(error)}

    return answer


def turns(extensions: list[str]) -> int:
    """Every case by every build: made ready side by side, then timed in turns, the first twice."""
    servers = [Server("main", None), *(Server(Path(path).parent.name, path) for path in extensions)]
    failed = 0
    try:
        for case in OF_TURNS:
            if late(str(case)):
                return failed + 1
            for server in servers:
                server.again()
                server.order(*case, False)
            wrong = {s: row["why"] for s in servers if "why" in (row := s.answer())}
            found: dict[str, list[Row]] = {}
            for _ in range(ROUNDS_OF_TURNS):
                for server, name in [*((s, s.name) for s in servers), (servers[0], f"{servers[0].name} again")]:
                    if server not in wrong:
                        server.order(*case, True)
                        row = server.answer()
                        found.setdefault(name, []).append(row)
                        if "why" in row:
                            wrong[server] = row["why"]
            right = {name: rows for name, rows in found.items() if not any("why" in row for row in rows)}
            seconds = {name: statistics.median(row[OWN] for row in rows) for name, rows in right.items()}
            if right:
                copy = statistics.median(row[COPY] for rows in right.values() for row in rows)
                keep(case=str(case), **row_of(case, {**seconds, COPY: copy}))
            if wrong:
                failed += 1
                keep(case=str(case), ok=False, why="; ".join(f"{s.name}: {why}" for s, why in wrong.items()))
    finally:
        for server in servers:
            server.end()
    return failed


class Part(NamedTuple):
    cases: list[Case]
    prepare: Prepare
    in_graphs: bool = False
    host: bool = False


PARTS = {
    "headline": Part(HEADLINE, headline),
    "compiled": Part(OF_COMPILED, compiled),
    "chunks": Part(OF_CHUNKS, chunks),
    "small": Part(SMALL, small, in_graphs=True, host=True),
}


def main() -> int:
    torch.set_grad_enabled(False)
    what, *rest = sys.argv[1:]
    if what == "turns":
        return bool(turns(rest))
    if what == "serve":
        return serve(answering(), lambda row: gpu_device.lost(RuntimeError(row.get("why", ""))))
    part = PARTS[what]
    copy = None if part.in_graphs else gpu_device.copying()
    return bool(measure(part.cases, part.prepare, copy, part.host))


if __name__ == "__main__":
    sys.exit(main())
