"""What the tests of a CUDA device have in common: the sizes with kernels, problems on the device, bounds of errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import make_problem
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream

missing = tdas_ops.backend_info()["missing"]
reason = missing.get("cuda", "")
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(bool(reason), reason=reason)]

DEVICES = torch.cuda.device_count()
MEMORY = 0 if reason else torch.cuda.mem_get_info()[1]  # bytes

PLANES = list(itertools.product((32, 64, 128), repeat=2))  # those with a kernel from pixels to pixels
COMPOSED = [(2, 6, 5), (1, 48, 40), (2, 9, 10)]
BATCH, CHANNELS = 3, 3  # nine planes: one more than blocks of eight, four or two hold
FUSED = [(CHANNELS, height, width) for height, width in PLANES]
# Planes that pass through memory: every width and every height once.
LARGE = [(CHANNELS, 65536 // width, width) for width in (32, 64, 128, 256, 512, 1024, 2048)]
SOME = [(3, 32, 32), (3, 64, 64), (3, 128, 128), (2, 256, 256), (2, 48, 40)]  # of every path
MASKS = ["R", "RA", "Rw", "RAw", "A", "Aw", "w", ""]
CASES = [(method, masks) for method in ("pds", "tdas") for masks in MASKS if method == "pds" or "w" not in masks]
# Drawn noise comes from the special function unit, whose last bits are not those of float64.
GIVEN, DRAWN = 1e-6, 2e-6


def only_where(possible: bool) -> Callable[[Any], Any]:
    """Leaves a test out on a machine that cannot run it. A skip would say that something is missing."""
    return lambda test: test if possible else None


def counters(value: int | list[int]) -> Tensor:
    return torch.tensor(value if isinstance(value, list) else [value], dtype=torch.int64, device="cuda")


def problem(shape, method="pds", masks="RA", batch=BATCH):
    return make_problem(batch, shape, method, "R" in masks, "A" in masks, "w" in masks)


def single(shape, masks="RA", batch=BATCH, method="pds"):
    """M, x and v on the device, float32."""
    p = problem(shape, method, masks, batch)
    return p.M.to("cuda"), p.x.float().cuda(), p.v.float().cuda()


def stream(device=None) -> NoiseStream:
    return NoiseStream(5, first_sample=7, draw=2, device=device)


UPDATES = {
    "step": lambda x, v, M, noise, **o: tdas_ops.step(x, v, M, 0.1, noise=noise, **o),
    "langevin_step": lambda x, v, M, noise, **o: tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, **o),
}
each_update = pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES.keys())


def crowd(shape: tuple[int, int, int]) -> int:
    """A batch whose blocks fill the machine more than four times, and the last of which are not full."""
    of_once = 2 * torch.cuda.get_device_properties(0).multi_processor_count * 256 * 64  # elements
    return 4 * of_once // math.prod(shape) + 3
