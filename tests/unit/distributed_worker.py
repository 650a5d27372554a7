"""One process of a run on several, as the tests start it: `python distributed_worker.py FOLDER [WRONG]`.

WRONG is what goes wrong: "raise", "exit", or "theirs": the script initialises torch.distributed itself.

It ends with code 70 where threads of gloo are left when Python ends. One that still holds the tensors of a message
would then abort the process, now and then.
"""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from tdas_ops import NoiseStream, Preconditioner, samplers
from tdas_ops.integrations import distributed
from tdas_ops.sde import VE

SHAPE, COUNT, SDE = (2, 8, 8), 11, VE(0.1, 5.0)


def score(x: Tensor, sigma: Tensor) -> Tensor:
    return (torch.tanh(x.roll(1, -1)) - x) / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


def pds() -> Preconditioner:
    if int(os.environ.get("RANK", "0")):
        raise AssertionError("read in the first process alone")
    return Preconditioner.from_images(torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0)), alpha=60.0)


def run(folder: Path, wrong: str = "") -> None:
    M = distributed.broadcast(pds)

    def draw(noise: NoiseStream, n: int) -> Tensor:
        if noise.first_sample == 4 and wrong in ("raise", "exit"):
            if wrong == "exit":
                os._exit(9)
            raise ArithmeticError("the network is broken")
        return samplers.pc(score, (n, *SHAPE), SDE, M, noise=noise, iterations=4, norm="batch", progress=False)

    assert distributed.world().size == 1 or gloo_threads()
    for kind in ("safetensors", "png"):
        distributed.sample(draw, COUNT, folder / kind, noise=7, batch=2, kind=kind, progress=False)  # type: ignore[arg-type]
    # In each process a generator of its own: rank 0 draws the seed.
    own = torch.Generator().manual_seed(int(os.environ.get("RANK", "0")))
    distributed.sample(lambda noise, n: noise.randn((n, *SHAPE)), 4, folder / "own", noise=own, batch=1, progress=False)

    # One batch over all processes, with the rule of the papers: rank r has every sample from its first on.
    processes = distributed.world()
    bounds = [round(COUNT * r / processes.size) for r in range(processes.size + 1)]
    first, last = bounds[processes.rank : processes.rank + 2]
    stream = NoiseStream(7, first_sample=first)
    settings = {"noise": stream, "iterations": 4, "norm": distributed.langevin_step, "progress": False}
    parts = processes.gathered(samplers.pc(score, (last - first, *SHAPE), SDE, M, **settings))  # type: ignore[arg-type]
    if parts is not None:
        torch.save(torch.cat(parts), folder / "spread.pt")


def gloo_threads() -> int:
    names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith("pt_gloo_runloop") for name in names)


def check_left(expected: int) -> None:
    left = gloo_threads()
    if left != expected:
        print(f"{left} threads of gloo at the end, expected {expected}", file=sys.stderr, flush=True)
        os._exit(70)


if __name__ == "__main__":
    torch.set_num_threads(1)
    wrong = "".join(sys.argv[2:])
    if wrong == "theirs":
        dist.init_process_group("gloo")
    # Only the first process ends what it has begun. The group of the others has two threads, and had no messages.
    weakref.finalize(sys, check_left, 2 if wrong == "theirs" and dist.get_rank() else 0)
    run(Path(sys.argv[1]), wrong)
    if wrong == "theirs" and dist.get_rank() == 0:
        dist.destroy_process_group()
