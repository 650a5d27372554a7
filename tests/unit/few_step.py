"""What the tests of the samplers on a ladder share: SDEs, and a score with the same samples under all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tdas_ops.sde import VE, VP, Discrete, SubVP

SHAPE = (3, 2, 4, 5)
TABLE = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
SDES = {"VE": VE(0.01, 50.0), "VP": VP(), "sub-VP": SubVP(), "flat VP": VP(8.0, 8.0), "discrete": Discrete(TABLE)}


def denoised(y: Tensor, sigma: float) -> Tensor:
    """Something smooth, nonlinear, and different for every level and pixel."""
    return torch.tanh(y.roll(1, -1) - 0.3 * y) * (1 + 0.2 * math.log(sigma)) + 0.1


def scales(sde, condition: float) -> tuple[float, float]:
    """Mean scale and std of what a network is told, from the definitions of the SDEs."""
    if isinstance(sde, VE):
        return 1.0, condition
    if isinstance(sde, Discrete):
        low = min(int(condition), 998)
        a, b = (math.log((1 - float(TABLE[i])) / float(TABLE[i])) / 2 for i in (low, low + 1))
        sigma = math.exp(a + (condition - low) * (b - a))
        return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    integral = sde.beta_min * condition + (sde.beta_max - sde.beta_min) * condition**2 / 2
    variance = 1 - math.exp(-integral)
    return math.exp(-integral / 2), variance if isinstance(sde, SubVP) else math.sqrt(variance)


def score_of(sde):
    """The score at x, whose denoised image is `denoised(x / mean scale)`: any SDE has the same samples."""

    def score(x: Tensor, condition: Tensor) -> Tensor:
        m, s = scales(sde, float(condition[0]))
        return (m * denoised(x / m, s / m) - x) / s**2

    return score
