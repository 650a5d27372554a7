"""Samples on as many processes as torchrun starts, into files by index; started again, it goes on where it was.

torchrun --nproc-per-node 8 examples/with_torchrun.py samples
tdas-ops sample does the same for the embedded models: torchrun --nproc-per-node 8 -m tdas_ops sample --samples 4096
"""

import sys

from tdas_ops import models
from tdas_ops.integrations import distributed


def sample(folder, count=4096, batch=64):
    model = models.load("digits", distributed.world().device)
    run = model.few_step(8, start="gaussian")
    draw = lambda noise, n: run.sample(model.score, (n, *model.shape), noise, progress=False)
    return distributed.sample(draw, count, folder, noise=0, batch=batch, kind="png")


if __name__ == "__main__":
    len(sys.argv) == 2 or sys.exit(__doc__)
    sample(sys.argv[1])
