"""Benchmarks on one CUDA device, in parts; `benchmarks/gpu.sh` runs them after the tests have passed on the same build.

    python benchmarks/gpu_bench.py PART --parts build/gpu --out folder

A part keeps its rows under --parts. JSON and table under --out hold all parts of this build that are there.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a pool of compilers would run beside the measurement

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import tdas_ops  # noqa: E402
from benchmarks import contenders, gpu_table  # noqa: E402
from benchmarks.circumstances import circumstances, command_output  # noqa: E402
from benchmarks.gpu_table import (  # noqa: E402
    CALL,
    CHUNKS,
    COMPILED,
    GRAPH,
    OPS,
    PACKAGE,
    SCRATCH,
    SNR,
    TICKETS,
    UPDATE,
    WHITE,
)
from benchmarks.parity import Oracle  # noqa: E402

Shape = tuple[int, ...]
Run = Callable[[int], object]  # run(i): one call on the buffers number i
Row = dict[str, Any]

ROUNDS, SAMPLE_SECONDS = 21, 1e-3
COLD_BYTES = 512 << 20  # several times the largest L2
CYCLES_PER_SECOND = 2.1e9  # at most: for how long the device is put to sleep
FFT, COPY = "cuFFT alone", "copy"

LARGE = [(8192, 3, 32, 32), (2048, 3, 64, 64), (512, 3, 128, 128)]  # 300 MB from x, v to x'
IN_PASSES = [(128, 3, 256, 256), (32, 3, 512, 512), (8, 3, 1024, 1024), (2, 3, 2048, 2048)]  # as many bytes
COMPOSED = [(8, 3, 721, 1440), (896, 3, 96, 96), (80, 3, 320, 320)]  # torch.fft and Triton
WITH_TICKETS = [(1, 3, 1024, 1024), (8, 3, 1024, 1024), (32, 3, 1024, 1024)]
# A few samples, and about as many as an H100 holds at once.
COOPERATIVE = [(8, 3, 32, 32), (1400, 3, 32, 32), (8, 3, 64, 64), (350, 3, 64, 64), (8, 3, 128, 128), (88, 3, 128, 128)]
CHUNK_MIB = [8, 16, 32, 64, 128, 256, 1024]
SMALL = [(8, 3, 32, 32), (8, 3, 64, 64), (8, 3, 128, 128)]
KINDS = [("pds", False), ("tdas", False), ("pds", True), ("tdas", True)]
WHITE_SHAPES = [(512, 3, 32, 32), (128, 3, 64, 64), (4, 3, 64, 64), (16, 3, 256, 256), (4, 3, 1024, 1024)]
WHITE_SHAPES += [(4, 3, 1000, 999)]
GRAPH_CALLS = 40
QUEUED_CALLS, CALL_ROUNDS = 10, 51  # few enough for the driver's queue, in which a long one would wait


# Timing


def sleep(seconds: float) -> None:
    """Keeps the device busy, and the host free."""
    torch.cuda._sleep(int(min(seconds, 0.1) * CYCLES_PER_SECOND))


def sample(run: Run, calls: int, host_seconds: float) -> float:
    """Device seconds a call, of `calls` calls one after the other that are enqueued while the device sleeps."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    sleep(1.5 * host_seconds + 1e-4)
    start.record()
    for i in range(calls):
        run(i)
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) * 1e-3 / calls


def in_turns(runs: dict[str, Run], most_calls: int = 20) -> dict[str, float]:
    """Median device seconds a call of each, sampled in turns."""
    plans: dict[str, tuple[int, float]] = {}
    for name, run in runs.items():
        sample(run, 2, 0.0)  # kernels, plans, memory
        calls = max(1, min(most_calls, math.ceil(SAMPLE_SECONDS / sample(run, 2, 0.0))))
        start = time.perf_counter()
        for i in range(calls):
            run(i)
        plans[name] = calls, time.perf_counter() - start
        torch.cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            samples[name].append(sample(run, *plans[name]))
    return {name: statistics.median(times) for name, times in samples.items()}


def host_seconds(runs: dict[str, Run]) -> dict[str, float]:
    """Median seconds of the calling thread a call of each, sampled in turns behind a sleeping device."""
    for run in runs.values():
        for i in range(QUEUED_CALLS):
            run(i)
    torch.cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    gc.disable()
    try:
        for _ in range(CALL_ROUNDS):
            for name, run in runs.items():
                sleep(0.01)
                start = time.perf_counter()
                for i in range(QUEUED_CALLS):
                    run(i)
                samples[name].append((time.perf_counter() - start) / QUEUED_CALLS)
                torch.cuda.synchronize()
    finally:
        gc.enable()
    return {name: statistics.median(times) for name, times in samples.items()}


def captured(run: Run, calls: int) -> Run:
    """The replay of a graph of so many calls."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(3):
            run(i)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            run(i)
    return lambda i: graph.replay()


def scratch_bytes(run: Run, returned: int) -> int:
    """Peak of torch's memory in one call above what was held before it and what it returns."""
    result = run(0)
    del result
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(0)
    return max(0, torch.cuda.max_memory_allocated() - before - returned)


# Parity


class DeviceOracle(Oracle):
    """The reference's answers on the CPU, held against what runs on the device; its noise is the device generator's."""

    def _torch_noise(self) -> Tensor:
        torch.manual_seed(3)
        return torch.randn(self.x.shape, device="cuda").cpu()


def check(shape: Shape, op: str, method: str, space: bool) -> None:
    """Refuses to time a wrong result: the package and the eager baselines, on a few samples of the shape."""
    few = (max(1, min(4, (1 << 19) // math.prod(shape[1:]))), *shape[1:])
    here, there = (contenders.masks(few, method, space, device) for device in ("cpu", "cuda"))
    generator = torch.Generator().manual_seed(0)
    oracle = DeviceOracle(op, here.M, *(torch.randn(few, generator=generator) for _ in range(2)))
    own = contenders.package(op, there.M)
    moved = lambda noise: noise.cuda() if isinstance(noise, Tensor) else noise
    oracle.check(lambda x, v, noise: own(x.cuda(), v.cuda(), moved(noise)).cpu())
    for baseline in contenders.baselines(op, there).values():
        oracle.check_baseline(lambda x, v, baseline=baseline: baseline(x.cuda(), v.cuda()).cpu())


# Contenders


class Buffers:
    """As many states, scores and outputs of a shape as together exceed the cache, or one of each."""

    def __init__(self, shape: Shape, cold: bool) -> None:
        bytes_each = 12 * math.prod(shape)
        self.count = max(2, min(32, -(-COLD_BYTES // bytes_each))) if cold else 1
        self.xs, self.vs, self.outs = ([torch.randn(shape, device="cuda") for _ in range(self.count)] for _ in range(3))

    def of(self, update: contenders.Update) -> Run:
        return lambda i: update(self.xs[i % self.count], self.vs[i % self.count])

    def filter_alone(self, i: int) -> Tensor:
        return contenders.transforms(self.vs[i % self.count])


def copying() -> Run:
    source, target = (torch.empty(1 << 28, device="cuda").normal_() for _ in range(2))
    return lambda i: target.copy_(source)


def own_run(op: str, M: tdas_ops.Preconditioner, buffers: Buffers) -> Run:
    """A step or langevin_step of the package."""
    stream = tdas_ops.NoiseStream(7, device="cuda")

    def own(i: int) -> Tensor:
        i %= buffers.count
        x, v, out = buffers.xs[i], buffers.vs[i], buffers.outs[i]
        if op == "step":
            return tdas_ops.step(x, v, M, contenders.STEP_SIZE, noise=stream, out=out)
        return tdas_ops.langevin_step(x, v, M, contenders.SNR, noise=stream, out=out)

    return own


def update_runs(
    op: str, shape: Shape, method: str, space: bool, buffers: Buffers
) -> tuple[dict[str, Run], dict[str, str]]:
    """The contenders of a step or langevin_step, and why others cannot take part."""
    m = contenders.masks(shape, method, space, "cuda")
    baselines = {name: buffers.of(update) for name, update in contenders.baselines(op, m).items()}
    runs = {PACKAGE: own_run(op, m.M, buffers), gpu_table.TORCH: baselines.pop(gpu_table.TORCH)}
    obstacles = {}
    compiled = buffers.of(contenders.compiled(m, op))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # inductor says that it leaves the FFTs to torch
            compiled(0)
        runs[COMPILED] = compiled
    except Exception as error:
        obstacles[COMPILED] = f"torch.compile fails here: {first_line(error)}"
    return {**runs, **baselines, FFT: buffers.filter_alone}, obstacles


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def rows_of(
    labels: Row, seconds: dict[str, float], obstacles: dict[str, str], least_bytes: int | None = None, calls: int = 1
) -> list[Row]:
    """One row for each contender; with bytes, also bandwidths, of which the copy gives the measure."""
    medians = {name: time / calls for name, time in seconds.items()}
    bandwidth = 2 * (4 << 28) / medians.pop(COPY) if COPY in medians else None
    rows = []
    for name, time_each in medians.items():
        row = {**labels, "name": name, "microseconds": rounded(time_each * 1e6)}
        if least_bytes and name != FFT:
            row |= {"least_bytes": least_bytes, "gb_per_s": rounded(least_bytes / time_each * 1e-9)}
            if bandwidth:
                row["share_of_copy"] = rounded(least_bytes / time_each / bandwidth)
                row["copy_gb_per_s"] = rounded(bandwidth * 1e-9)
        if name == PACKAGE:
            row["ratios"] = gpu_table.ratios(medians)
        rows.append(row)
    return rows + [{**labels, "name": name, "obstacle": why} for name, why in obstacles.items()]


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def labelled(section: str, case: str, shape: Shape) -> Row:
    print(f"gpu_bench: {section}, {case}, {'x'.join(map(str, shape))}", flush=True)
    return {"section": section, "case": case, "shape": list(shape), "dtype": "float32"}


def case_of(method: str, space: bool) -> str:
    return f"{method}, {'both masks' if space else 'frequency mask'}"


# Parts


def updates(op: str, shapes: list[Shape], kinds: list[tuple[str, bool]]) -> list[Row]:
    """Times of large batches, and the memory they take."""
    copy = copying()
    rows = []
    for shape in shapes:
        buffers = Buffers(shape, cold=True)
        for method, space in kinds:
            check(shape, op, method, space)
            runs, obstacles = update_runs(op, shape, method, space, buffers)
            case = case_of(method, space) if op == "step" else f"{op}, {case_of(method, space)}"
            labels, elements = labelled(UPDATE if op == "step" else OPS, case, shape), math.prod(shape)
            rows += rows_of(labels, in_turns({**runs, COPY: copy}), obstacles, 12 * elements)
            labels = {**labels, "section": SCRATCH}
            for name, run in runs.items():
                used = scratch_bytes(run, 0 if name == PACKAGE else 4 * elements)
                rows.append({**labels, "name": name, "mib": rounded(used / (1 << 20)), "bytes": used})
        del buffers, runs
        torch.cuda.empty_cache()
    return rows


def update_part() -> list[Row]:
    """Steps of planes on chip."""
    return updates("step", LARGE, KINDS)


def planes_part() -> list[Row]:
    """Steps of planes in passes, and of those that torch.fft transforms."""
    return updates("step", IN_PASSES + COMPOSED, KINDS[:3])


def snr_part() -> list[Row]:
    """The snr rule of the same planes."""
    return updates("langevin_step", IN_PASSES + COMPOSED, KINDS[::2])


def chunks_part() -> list[Row]:
    """Planes in passes with more or less scratch: as the package chooses, and as told."""
    copy, limit = copying(), tdas_ops._extension.load().limit_scratch
    rows = []

    def limited(own: Run, mib: int) -> Run:
        def run(i: int) -> object:
            limit(mib << 20)
            return own(i)

        return run

    try:
        for shape in IN_PASSES[::2]:
            buffers = Buffers(shape, cold=True)
            for op, (method, space) in itertools.product(("step", "langevin_step"), KINDS[:3]):
                if (op, method) == ("langevin_step", "tdas"):
                    continue
                limit(0)
                check(shape, op, method, space)
                own = own_run(op, contenders.masks(shape, method, space, "cuda").M, buffers)
                runs = {PACKAGE: limited(own, 0)} | {f"{mib} MiB": limited(own, mib) for mib in CHUNK_MIB}
                labels = labelled(CHUNKS, f"{op}, {case_of(method, space)}", shape)
                rows += rows_of(labels, in_turns({**runs, COPY: copy}), {}, 12 * math.prod(shape))
            del buffers, own, runs
            torch.cuda.empty_cache()
    finally:
        limit(0)
    return rows


def tickets_part() -> list[Row]:
    """The passes over planes in launches of their own, and as tickets of one."""
    copy, choose = copying(), tdas_ops._backends.choose_large
    rows = []

    def chosen(choice: str, own: Run) -> Run:
        def run(i: int) -> object:
            choose(choice)
            return own(i)

        return run

    try:
        for shape in WITH_TICKETS:
            buffers = Buffers(shape, cold=True)
            for op, (method, space) in (("step", KINDS[0]), ("step", KINDS[1]), ("langevin_step", KINDS[0])):
                for choice in ("passes", "ticket"):
                    choose(choice)
                    check(shape, op, method, space)
                own = own_run(op, contenders.masks(shape, method, space, "cuda").M, buffers)
                runs = {PACKAGE: chosen("passes", own), "tickets": chosen("ticket", own)}
                labels = labelled(TICKETS, f"{op}, {case_of(method, space)}", shape)
                rows += rows_of(labels, in_turns({**runs, COPY: copy}), {}, 12 * math.prod(shape))
            del buffers, own, runs
            torch.cuda.empty_cache()
    finally:
        choose("passes")
    return rows


def cooperative_part() -> list[Row]:
    """langevin_step of planes on chip in three launches, and in one."""
    choose = tdas_ops._backends.choose_snr
    rows = []
    try:
        for shape in COOPERATIVE:
            buffers = Buffers(shape, cold=True)
            for method, space in KINDS[:2]:
                graphs = {}
                for name, choice in ((PACKAGE, "launches"), ("cooperative", "cooperative")):
                    choose(choice)
                    check(shape, "langevin_step", method, space)
                    own = own_run("langevin_step", contenders.masks(shape, method, space, "cuda").M, buffers)
                    graphs[name] = captured(own, GRAPH_CALLS)
                labels = labelled(SNR, case_of(method, space), shape)
                rows += rows_of(labels, in_turns(graphs), {}, 12 * math.prod(shape), GRAPH_CALLS)
            del buffers, own, graphs
            torch.cuda.empty_cache()
    finally:
        choose("launches")
    return rows


def small_part() -> list[Row]:
    """Steps of small batches: in a graph, and called from Python."""
    rows = []
    for shape in SMALL:
        buffers = Buffers(shape, cold=False)
        for method, space in KINDS:
            check(shape, "step", method, space)
            runs, obstacles = update_runs("step", shape, method, space, buffers)
            graphs, stuck = {}, dict(obstacles)
            for name, run in runs.items():
                try:
                    graphs[name] = captured(run, GRAPH_CALLS)
                except RuntimeError as error:
                    stuck[name] = f"{name} cannot be captured here: {first_line(error)}"
                    torch.cuda.synchronize()
            labels = labelled(GRAPH, case_of(method, space), shape)
            rows += rows_of(labels, in_turns(graphs), stuck, calls=GRAPH_CALLS)
            x, v, out = buffers.xs[0], buffers.vs[0], buffers.outs[0]
            runs["torch.add alone"] = lambda i, x=x, v=v, out=out: torch.add(x, v, out=out)
            rows += rows_of({**labels, "section": CALL}, host_seconds(runs), obstacles)
            del graphs
    return rows


def noise_part() -> list[Row]:
    """Coloured noise, the filter alone, the snr rule, and white noise."""
    copy = copying()
    rows = []
    stream = tdas_ops.NoiseStream(7, device="cuda")
    for shape in LARGE:
        buffers = Buffers(shape, cold=True)
        for op, words, space in (
            ("noise", 1, False),
            ("noise", 1, True),
            ("precondition", 2, False),
            ("langevin_step", 3, False),
            ("langevin_step", 3, True),
        ):
            check(shape, op, "pds", space)
            m = contenders.masks(shape, "pds", space, "cuda")
            calls = {
                "noise": lambda i, m=m, b=buffers: tdas_ops.noise(m.M, b.xs[0].shape, stream, out=b.outs[i % b.count]),
                "precondition": lambda i, m=m, b=buffers: tdas_ops.precondition(
                    b.vs[i % b.count], m.M, "MMt", out=b.outs[i % b.count]
                ),
                "langevin_step": lambda i, m=m, b=buffers: tdas_ops.langevin_step(
                    b.xs[i % b.count], b.vs[i % b.count], m.M, contenders.SNR, noise=stream, out=b.outs[i % b.count]
                ),
            }
            runs: dict[str, Run] = {PACKAGE: calls[op]}
            runs |= {name: buffers.of(update) for name, update in contenders.baselines(op, m).items()}
            what = "M M^T" if op == "precondition" else op
            labels = labelled(OPS, f"{what}, {'both masks' if space else 'frequency mask'}", shape)
            seconds = in_turns({**runs, FFT: buffers.filter_alone, COPY: copy})
            rows += rows_of(labels, seconds, {}, 4 * words * math.prod(shape))
        del buffers, runs, calls
        torch.cuda.empty_cache()
    normals = torch.ops.tdas_ops.normals
    seeds, draw = (torch.tensor([n], device="cuda") for n in (7, 3))
    for shape in WHITE_SHAPES:
        least = 8 * math.prod(shape)
        count = max(2, min(32, -(-COLD_BYTES // least)))
        outs = [torch.empty(shape, dtype=torch.complex64, device="cuda") for _ in range(count)]
        seconds = in_turns(
            {
                PACKAGE: lambda i, o=outs: normals.cuda(o[i % len(o)], seeds, draw, 0, False),
                "triton": lambda i, o=outs: normals.triton(o[i % len(o)], seeds, draw, 0, False),
                "torch.randn": lambda i, o=outs: torch.view_as_real(o[i % len(o)]).normal_(),
                COPY: copy,
            }
        )
        rows += rows_of(labelled(WHITE, "normals", shape) | {"dtype": "complex64"}, seconds, {}, least)
    return rows


PARTS = {"update": update_part, "planes": planes_part, "snr": snr_part, "chunks": chunks_part}
PARTS |= {"small": small_part, "noise": noise_part, "tickets": tickets_part, "cooperative": cooperative_part}


def device_circumstances() -> dict[str, Any]:
    import triton

    driver = command_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    properties = torch.cuda.get_device_properties(0)
    return circumstances() | {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "driver": driver.splitlines()[0] if driver else None,
        "torch_cuda": torch.version.cuda,
        "triton": triton.__version__,
        "build": tdas_ops._extension.load().build_info(),
        "paths": tdas_ops.backend_info()["paths"]["cuda"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--parts", type=Path, default=ROOT / "build" / "gpu", help="where the parts keep their rows")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu_bench: torch finds no CUDA device")
    for backend in ("cuda", "triton"):
        if backend in tdas_ops.backend_info()["missing"]:
            raise SystemExit(f"gpu_bench: {tdas_ops.backend_info()['missing'][backend]}")
    about = device_circumstances()
    rows = PARTS[arguments.part]()
    arguments.parts.mkdir(parents=True, exist_ok=True)
    kept = arguments.parts / f"bench-{arguments.part}.json"
    kept.write_text(json.dumps({"circumstances": about, "rows": rows}, indent=1) + "\n")
    table = gpu_table.write(gpu_table.merge(arguments.parts, arguments.part), arguments.out)
    print(table.read_text())


if __name__ == "__main__":
    with torch.no_grad():
        main()
