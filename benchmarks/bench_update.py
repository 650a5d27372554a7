"""The four ops at the sizes of the literature, every backend of the CPU against the baselines, on one thread."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import product

import torch

from benchmarks import contenders, measure
from benchmarks.measure import Contender, Group
from benchmarks.parity import Oracle
from benchmarks.sizes import SIZES

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a pool of compilers would run beside the measurement

MASKS = ("frequency", "both")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def compiled(m: contenders.Masks, x: torch.Tensor, v: torch.Tensor, least_bytes: int) -> Contender | str:
    """torch.compile of the best composition, or why it is not there."""
    if measure.TINY:
        return "left out of tiny runs, since compiling takes seconds"
    update = contenders.compiled(m)
    run = lambda: update(x, v.float())
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


def ops(size: str, masks: str) -> Group:
    """The corrector beside the plain step, since its snr rule needs two norms before it can write anything."""
    x, v = torch.randn(SIZES[size]), torch.randn(SIZES[size])
    M = contenders.masks(SIZES[size], "pds", masks == "both").M
    who = {op: measure.package(Oracle(op, M, x, v), 3 * x.nbytes, "cpp") for op in ("step", "langevin_step")}
    labels = {"bench": "corrector", "method": "pds", "masks": masks, "size": size, "shape": list(x.shape), "threads": 1}
    return Group(labels, x.numel(), who, baselines=("step",))


def groups() -> Iterator[tuple[str, measure.Build]]:
    """Steps first; narrow: scores as a network under autocast gives them, which the package reads as they are."""
    for op, size, method, masks in product(("step", "langevin_step"), SIZES, ("pds", "tdas"), MASKS):
        yield f"update {op} {method} {masks} {size}", partial(group, op, size, masks, method)
    for size, op, masks in product(SIZES, ("noise", "precondition"), MASKS):
        yield f"update {op} {masks} {size}", partial(group, op, size, masks)
    for size, score in product(("CelebA", "LSUN"), ("bfloat16", "float16")):
        yield f"narrow step pds frequency {size} {score}", partial(group, "step", size, "frequency", "pds", score)
    yield from ((f"corrector pds {masks} {size}", partial(ops, size, masks)) for size, masks in product(SIZES, MASKS))
