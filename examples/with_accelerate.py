"""What with_torchrun.py does, under accelerate (1.15), whose processes are taken as they are.

pip install . accelerate
accelerate launch --num-processes 8 examples/with_accelerate.py samples
"""

import sys

from accelerate import PartialState

from tdas_ops import models
from tdas_ops.integrations import distributed


def sample(folder, count=4096, batch=64):
    model = models.load("digits", PartialState().device)
    run = model.few_step(8, start="gaussian")
    draw = lambda noise, n: run.sample(model.score, (n, *model.shape), noise, progress=False)
    return distributed.sample(draw, count, folder, noise=0, batch=batch, kind="png")


if __name__ == "__main__":
    len(sys.argv) == 2 or sys.exit(__doc__)
    sample(sys.argv[1])
