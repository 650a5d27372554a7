"""The four ops at the sizes of the literature, every backend of the CPU against the baselines, on one thread."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from benchmarks import best_torch, contenders, measure
from benchmarks.measure import Contender, Group
from benchmarks.parity import Oracle
from benchmarks.sizes import SIZES

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a pool of compilers would run beside the measurement

WHO = ["cpp", "reference", "best torch", "compiled torch", "published"]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
each_size = pytest.mark.parametrize("size", SIZES)
each_masks = pytest.mark.parametrize("masks", ["frequency", "both"])
each_method = pytest.mark.parametrize("method", ["pds", "tdas"])


def compiled(m: contenders.Masks, x: torch.Tensor, v: torch.Tensor, least_bytes: int) -> Contender | str:
    """torch.compile of the best composition, or why it is not there."""
    if measure.TINY:
        return "left out of tiny runs, since compiling takes seconds"
    torch.compiler.reset()  # or the limit on recompilations would quietly leave the later groups uncompiled
    compose = torch.compile(getattr(best_torch, m.M.method or "pds"), dynamic=False)
    n = (2 * contenders.STEP_SIZE) ** 0.5
    run = lambda: compose(x, v.float(), m.half, m.A, contenders.STEP_SIZE, n)
    try:
        with warnings.catch_warnings(action="ignore"):  # inductor says that it leaves the FFTs to torch
            run()
    except Exception as error:
        return f"torch.compile fails here: {str(error).strip().splitlines()[0]}"
    return Contender(run, least_bytes, path="torch.compile")


def group(op: str, size: str, masks: str, method: str = "pds", score: str = "float32") -> Group:
    shape = SIZES[size]
    torch.manual_seed(0)
    x, v = torch.randn(shape), torch.randn(shape).to(DTYPES[score])
    m = contenders.masks(shape, method, masks == "both")
    oracle = Oracle(op, m.M, x, v)
    moved = {"noise": x.nbytes, "precondition": 2 * v.nbytes}.get(op, 2 * x.nbytes + v.nbytes)
    who: dict[str, Contender | str] = {name: measure.package(oracle, moved, name) for name in ("cpp", "reference")}
    for name, update in contenders.baselines(op, m).items():
        who[name] = Contender(
            lambda update=update: update(x, v), moved, check=lambda update=update: oracle.check_baseline(update)
        )
    if op == "step":
        who["compiled torch"] = compiled(m, x, v, moved)
    labels = {"bench": "update", "op": op, "method": method, "masks": masks, "size": size, "shape": list(shape)}
    return Group(labels | {"score": score, "threads": 1}, x.numel(), who)


@pytest.mark.parametrize("who", WHO)
@each_masks
@each_method
@each_size
def test_step(row, size, method, masks, who):
    row(who, group, "step", size, masks, method)


@pytest.mark.parametrize("who", [w for w in WHO if w != "compiled torch"])
@each_masks
@each_method
@each_size
def test_langevin_step(row, size, method, masks, who):
    row(who, group, "langevin_step", size, masks, method)


@pytest.mark.parametrize("who", [w for w in WHO if w != "compiled torch"])
@each_masks
@pytest.mark.parametrize("op", ["noise", "precondition"])
@each_size
def test_filter(row, size, op, masks, who):
    row(who, group, op, size, masks)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("score", ["bfloat16", "float16"])
@pytest.mark.parametrize("size", ["CelebA", "LSUN"])
def test_score_dtype(row, size, score, who):
    """Scores as a network under autocast gives them: the package reads them as they are, torch's FFTs need a copy."""
    row(who, group, "step", size, "frequency", "pds", score)


def ops(size: str, masks: str) -> Group:
    """The corrector beside the plain step, since its snr rule needs two norms before it can write anything."""
    x, v = torch.randn(SIZES[size]), torch.randn(SIZES[size])
    M = contenders.masks(SIZES[size], "pds", masks == "both").M
    who = {op: measure.package(Oracle(op, M, x, v), 3 * x.nbytes, "cpp") for op in ("step", "langevin_step")}
    labels = {"bench": "corrector", "method": "pds", "masks": masks, "size": size, "shape": list(x.shape), "threads": 1}
    return Group(labels, x.numel(), who, baselines=("step",))


@pytest.mark.parametrize("who", ["step", "langevin_step"])
@each_masks
@each_size
def test_corrector(row, size, masks, who):
    row(who, ops, size, masks)
