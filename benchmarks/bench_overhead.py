"""What a call costs above its kernel's work, and a sampler above its ops. On one thread.

"dispatch alone" calls the public function with an overload of the same schema that does nothing, so its time is the
overhead itself: checks, dispatch and the output's allocation (goal: at most 10 microseconds on 1x1x32x32).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

import tdas_ops
from benchmarks import contenders, measure
from benchmarks.measure import Contender, Group
from benchmarks.parity import Oracle
from benchmarks.sizes import SIZES
from tdas_ops import _backends, _schema

SMALL = (1, 1, 32, 32)
ITERATIONS = 20
DISPATCH, NEW, IN_PLACE = "dispatch alone", "step, new output", "step, in place"
SAMPLER, OPS = "samplers.pc, one iteration", "its ops, langevin_step and step"

_library = torch.library.Library("tdas_ops_nothing", "DEF")
_library.define("step" + _schema.SCHEMAS["step"])
_library.impl("step", lambda *arguments: None, "CPU")


@contextmanager
def nothing() -> Iterator[None]:
    """Puts a kernel that does nothing in the place of the CPU's."""
    _, table = _backends.current()
    before = table["step"]["cpu"]
    table["step"]["cpu"] = torch.ops.tdas_ops_nothing.step.default
    try:
        yield
    finally:
        table["step"]["cpu"] = before


def calls(shape: tuple[int, ...]) -> Group:
    """A step into a new tensor and in place; at the smallest size also the call without its kernel."""
    x, v = torch.randn(shape), torch.randn(shape)
    M, stream = contenders.masks(shape, "pds", False).M, tdas_ops.NoiseStream(7)
    path = tdas_ops.backend_info()["paths"]["cpu"]["step"]
    oracle = Oracle("step", M, x, v)
    new = lambda: tdas_ops.step(x, v, M, contenders.STEP_SIZE, noise=stream)
    state = x.clone()
    # A step so small that the state stays where it is, however often it is updated.
    in_place = lambda: tdas_ops.step(state, v, M, 1e-12, noise=stream, out=state)

    def into_x(x: torch.Tensor, v: torch.Tensor, noise: tdas_ops.NoiseStream | torch.Tensor) -> torch.Tensor:
        y = x.clone()
        return tdas_ops.step(y, v, M, contenders.STEP_SIZE, noise=noise, out=y)

    who: dict[str, Contender | str] = {
        NEW: Contender(new, 3 * x.nbytes, check=oracle.check, path=path),
        IN_PLACE: Contender(in_place, 3 * x.nbytes, check=lambda: oracle.check(into_x), path=path),
    }
    if shape == SMALL:
        who[DISPATCH] = Contender(new, 0, nothing, path="nothing")
    labels = {"bench": "overhead", "op": "step", "shape": list(shape), "threads": 1}
    return Group(labels, x.numel(), who, baselines=(NEW,))


def sampler(shape: tuple[int, ...]) -> Group:
    """A sampler whose network takes no time, against the two ops of each of its iterations."""
    x, v = torch.randn(shape), torch.randn(shape)
    M, stream = contenders.masks(shape, "pds", False).M, tdas_ops.NoiseStream(7)
    oracles = [Oracle(op, M, x, v) for op in ("langevin_step", "step")]
    sde, state = tdas_ops.sde.VE(), x.clone()

    def run() -> None:
        tdas_ops.samplers.pc(
            lambda x, sigma: v, shape, sde, M, noise=stream, iterations=ITERATIONS, start=x, progress=False
        )

    def ops() -> None:
        tdas_ops.langevin_step(state, v, M, contenders.SNR, noise=stream, out=state)
        tdas_ops.step(state, v, M, contenders.STEP_SIZE, noise=stream, out=state, return_mean=True)

    def check() -> None:
        for oracle in oracles:
            oracle.check()

    path = tdas_ops.backend_info()["paths"]["cpu"]["step"]
    moved = 7 * x.nbytes  # x and score read and x' written, twice, and x_mean once
    who: dict[str, Contender | str] = {
        SAMPLER: Contender(run, moved, check=check, path=path, calls=ITERATIONS),
        OPS: Contender(ops, moved, check=check, path=path),
    }
    labels = {"bench": "overhead", "op": "samplers.pc", "shape": list(shape), "threads": 1}
    return Group(labels, x.numel(), who, baselines=(OPS,))


def groups() -> Iterator[tuple[str, measure.Build]]:
    for shape in (SMALL, SIZES["CIFAR-10"], SIZES["FFHQ"]):
        yield f"overhead of a call {'x'.join(map(str, shape))}", partial(calls, shape)
    for shape in (SMALL, SIZES["CIFAR-10"], SIZES["LSUN"]):
        yield f"overhead of a sampler {'x'.join(map(str, shape))}", partial(sampler, shape)
