"""One process of a run on several, as the tests start it: `python distributed_worker.py FOLDER [what goes wrong]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
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
        if noise.first_sample == 4 and wrong:
            if wrong == "exit":
                os._exit(9)
            raise ArithmeticError("the network is broken")
        return samplers.pc(score, (n, *SHAPE), SDE, M, noise=noise, iterations=4, norm="batch", progress=False)

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


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), *sys.argv[2:])
