"""Small launches of every CUDA kernel, for compute-sanitizer: odd sizes, both kinds of noise, one seed for all and
one a sample."""

import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tdas_ops  # noqa: F401

draw = torch.tensor([3], device="cuda")
for samples, channels, height, width in ((3, 2, 5, 8), (1, 3, 7, 33), (2, 2, 4, 1), (2, 1, 3, 129)):
    for count, spectral in itertools.product({1, samples}, (False, True)):
        out = torch.empty(samples, channels, height, width, dtype=torch.complex64, device="cuda")
        torch.ops.tdas_ops.normals.cuda(out, torch.arange(count, device="cuda"), draw, 0, spectral)
torch.cuda.synchronize()
