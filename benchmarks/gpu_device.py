"""What the programs that `benchmarks/gpu.sh` starts share: which build of the kernels they load, rows that are kept the
moment they are known, device times, and the check before anything is timed.

Environment: DEVICE (cuda, or cpu for a rehearsal), GPU_ROWS (the file that rows are appended to), GPU_STAGE (their
stage), GPU_UNTIL (seconds since 1970 until which something new may be begun), GPU_EXTENSION (a build of tdas_ops._C,
which is named after its folder), TDAS_OPS_COMMIT (that of the tree).
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a pool of compilers would run beside the measurement

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

DEVICE = os.environ.get("DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
EXTENSION = os.environ.get("GPU_EXTENSION")
NO_KERNELS = "no kernels"  # in the place of a build's name, where the package goes without
DEADLINE = float(os.environ.get("GPU_UNTIL", "inf"))


class _Elsewhere(MetaPathFinder):
    """Finds tdas_ops._C outside of the package."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "tdas_ops._C" or EXTENSION is None:
            return None
        return importlib.util.spec_from_file_location(fullname, EXTENSION)


if EXTENSION is not None:
    sys.meta_path.insert(0, _Elsewhere())

import tdas_ops  # noqa: E402
from benchmarks import contenders, rows, turns  # noqa: E402
from benchmarks.circumstances import circumstances  # noqa: E402
from benchmarks.parity import Oracle, ParityError  # noqa: E402
from benchmarks.rows import Row  # noqa: E402

Shape = tuple[int, ...]
Run = Callable[[int], object]  # run(i): one call on the buffers number i

ROUNDS, SAMPLE_SECONDS = 9, 1.5e-3
COLD_BYTES = 512 << 20  # several times the largest L2
COPY_WORDS = 1 << (28 if ON_GPU else 16)
CYCLES_PER_SECOND = 2.1e9  # at most: for how long the device is put to sleep
QUEUED_CALLS, CALL_ROUNDS = 10, 51  # few enough for the driver's queue, in which a long one would wait


# Rows


def identity() -> Row:
    """Of whom a row is: rows of another build, commit or device say nothing about this one."""
    return {"stage": os.environ.get("GPU_STAGE", ""), **_place()}


@functools.cache
def _place() -> Row:
    lib = Path(EXTENSION).parent.name if EXTENSION else "main"
    if tdas_ops._backends._missing("cuda" if ON_GPU else "cpp"):
        lib = NO_KERNELS
    device = torch.cuda.get_device_name(0) if ON_GPU else "cpu"
    return {"lib": lib, "device": device, "commit": os.environ.get("TDAS_OPS_COMMIT")}


def keep(**row: Any) -> None:
    """Prints a row and appends it to the file of rows."""
    row = {**identity(), **row}
    print(json.dumps(row), flush=True)
    if "GPU_ROWS" in os.environ:
        rows.append(Path(os.environ["GPU_ROWS"]), row)


def kept(case: str) -> bool:
    """Whether the case was measured before, with the same build, commit and device."""
    found = rows.read(Path(os.environ.get("GPU_ROWS", os.devnull)))
    return any("why" not in row for row in rows.select(found, **identity(), case=case))


def late(what: str) -> bool:
    """Whether the stage's time is over; said once, where it is asked."""
    if time.time() < DEADLINE:
        return False
    keep(why=f"out of time before {what}")
    return True


def lost(error: Exception) -> bool:
    """Whether the device can do nothing more for this process."""
    return "CUDA error" in str(error) or "launch failed" in str(error)


def first_line(error: Exception) -> str:
    """Of an error, for a row; where it came from goes to the log."""
    traceback.print_exception(error, limit=-6)
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text}"[:300]


rounded = partial(rows.rounded, digits=4)


# Inputs


def preconditioner(shape: Shape, masks: str, method: str, device: str | None = None) -> tdas_ops.Preconditioner:
    """With random masks of `(C, H, W)`, those of R, A and w that are named."""
    device = device or DEVICE
    if not masks:
        return tdas_ops.Preconditioner.identity(shape, method=method).to(device)
    generator = torch.Generator().manual_seed(0)
    mirrored = lambda mask: torch.roll(torch.flip(mask, (-2, -1)), (1, 1), (-2, -1))
    R, A, w = (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5 for _ in range(3))
    given = {"R": 0.5 * (R + mirrored(R)), "A": A, "w": 0.5 * (w - mirrored(w))}
    chosen = [given[name] if name in masks else None for name in "RAw"]
    return tdas_ops.Preconditioner.from_masks(*chosen, shape=shape, method=method).to(device)


class Buffers:
    """As many states, scores and outputs of a shape as together exceed the cache, or one of each."""

    def __init__(self, shape: Shape, cold: bool = True) -> None:
        self.count = max(1, min(32, -(-COLD_BYTES // (12 * math.prod(shape))))) if cold else 1
        self.xs, self.vs, self.outs = ([torch.randn(shape, device=DEVICE) for _ in range(self.count)] for _ in range(3))

    def of(self, update: contenders.Update) -> Run:
        return lambda i: update(self.xs[i % self.count], self.vs[i % self.count])

    def filter_alone(self, i: int) -> Tensor:
        return contenders.transforms(self.vs[i % self.count])

    def own(self, op: str, M: tdas_ops.Preconditioner) -> Run:
        """An op of the package that writes into a buffer."""
        noise = tdas_ops.NoiseStream(7, device=DEVICE)
        calls: dict[str, Callable[..., Tensor]] = {
            "step": lambda x, v, out: tdas_ops.step(x, v, M, contenders.STEP_SIZE, noise=noise, out=out),
            "langevin_step": lambda x, v, out: tdas_ops.langevin_step(x, v, M, contenders.SNR, noise=noise, out=out),
            "noise": lambda x, v, out: tdas_ops.noise(M, x.shape, noise, out=out),
            "precondition": lambda x, v, out: tdas_ops.precondition(v, M, "MMt", out=out),
        }
        call = calls[op]
        return lambda i: call(self.xs[i % self.count], self.vs[i % self.count], self.outs[i % self.count])


# Floats that an op reads and writes at least, an element.
WORDS = {"step": 3, "langevin_step": 3, "noise": 1, "precondition": 2}


def check(op: str, m: contenders.Masks, shape: Shape) -> None:
    """Refuses to time a wrong result: package and baselines on a few samples, against float64 on the device itself.

    Raises:
        ParityError: one of them is wrong.
    """
    few = (max(1, min(4, (1 << 19) // math.prod(shape[1:]))), *shape[1:])
    oracle = Oracle(op, m.M, *(torch.randn(few, device=DEVICE) for _ in range(2)))
    checks: dict[str, Callable[[], None]] = {"tdas_ops": oracle.check}
    checks |= {name: partial(oracle.check_baseline, it) for name, it in contenders.baselines(op, m).items()}
    for name, checked in checks.items():
        try:
            checked()
        except ParityError as error:
            raise ParityError(f"{op}, {name}: {error}") from None


# Time


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def copying() -> Run:
    source, target = (torch.empty(COPY_WORDS, device=DEVICE).normal_() for _ in range(2))
    return lambda i: target.copy_(source)


def sleep(seconds: float) -> None:
    """Keeps the device busy, and the host free."""
    torch.cuda._sleep(int(min(seconds, 0.1) * CYCLES_PER_SECOND))


def sample(run: Run, calls: int, host_seconds: float) -> float:
    """Device seconds a call, of `calls` calls one after the other that are enqueued while the device sleeps."""
    if not ON_GPU:
        start = time.perf_counter()
        for i in range(calls):
            run(i)
        return (time.perf_counter() - start) / calls
    start_event, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    sleep(1.5 * host_seconds + 1e-4)
    start_event.record()
    for i in range(calls):
        run(i)
    stop.record()
    stop.synchronize()
    return start_event.elapsed_time(stop) * 1e-3 / calls


def in_turns(runs: dict[str, Run], most_calls: int = 20) -> dict[str, float]:
    """Median device seconds a call of each, sampled in turns; on a CPU, for rehearsals, the better of two."""
    if not ON_GPU:
        return {name: min(sample(run, 1, 0.0) for _ in range(2)) for name, run in runs.items()}
    plans: dict[str, tuple[int, float]] = {}
    for name, run in runs.items():
        sample(run, 2, 0.0)  # kernels, plans, memory
        calls = max(1, min(most_calls, math.ceil(SAMPLE_SECONDS / sample(run, 2, 0.0))))
        start = time.perf_counter()
        for i in range(calls):
            run(i)
        plans[name] = calls, time.perf_counter() - start
        torch.cuda.synchronize()
    samples = turns.in_turns({name: partial(sample, run, *plans[name]) for name, run in runs.items()}, ROUNDS)
    return {name: statistics.median(times) for name, times in samples.items()}


def host_seconds(runs: dict[str, Run]) -> dict[str, float]:
    """Median seconds of the calling thread a call of each, sampled in turns behind a sleeping device."""
    for run in runs.values():
        for i in range(QUEUED_CALLS):
            run(i)

    def of(run: Run) -> float:
        synchronize()
        if ON_GPU:
            sleep(0.01)
        start = time.perf_counter()
        for i in range(QUEUED_CALLS):
            run(i)
        return (time.perf_counter() - start) / QUEUED_CALLS

    samples = turns.in_turns({name: partial(of, run) for name, run in runs.items()}, CALL_ROUNDS if ON_GPU else 1)
    synchronize()
    return {name: statistics.median(times) for name, times in samples.items()}


def captured(run: Run, calls: int) -> Run:
    """The replay of a graph of so many calls."""
    if not ON_GPU:
        raise RuntimeError("CUDA graphs need a CUDA device")
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


def device_circumstances() -> Row:
    machine = tdas_ops.machine_info()
    about = circumstances() | {"build": machine["build"], "torch_cuda": machine["cuda"]}
    if not ON_GPU:
        return about
    own, paths = dict(machine["gpus"][0]), machine["backends"]["paths"]["cuda"]
    about |= {"device": own.pop("name"), **own, "paths": paths}
    return about | {name: machine[name] for name in ("driver", "triton")}
