"""What pictures are measured by: power in rings, patches at several scales, edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.high_resolution.measures import kurtosis, rings
from experiments.photographs.data import Photographs
from experiments.photographs.network import PATCH
from tdas_ops.calibrate import Likeness

SCALES = (1, 2, 4)
REFERENCES = {64: 2_000, 256: 480, 1024: 52}
PATCHES = 400


def patches(x: Tensor, scale: int) -> Tensor:
    """Pictures scaled down, cut into patches of 64 pixels that do not overlap."""
    small = F.avg_pool2d(x, scale)
    cut = small.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
    return cut.reshape(-1, *cut.shape[3:])


class Judge:
    """Measures pictures of one size against held-out photographs.

    Patches of a scale are compared with the same held-out ones whatever the size of the picture that they were cut
    from: all pictures show the same world at one scale.
    """

    def __init__(self, size: int, held_out: Callable[[int, int], Tensor], likeness: dict[int, Likeness]) -> None:
        self.size, self._held_out, self._likeness = size, held_out, likeness

    @classmethod
    def of(cls, size: int, photos: Photographs) -> Judge:
        seen = {scale: Likeness(F.avg_pool2d(photos.held_out(scale * PATCH, PATCHES), scale)) for scale in SCALES}
        return cls(size, photos.held_out, seen)

    @cached_property
    def _reference(self) -> tuple[Tensor, Tensor]:
        x = self._held_out(self.size, REFERENCES[self.size])
        return rings(x), kurtosis(x)

    def __call__(self, x: Tensor) -> dict[str, Any]:
        """Of pictures `[N, 3, size, size]`, not clamped: `rings`, log2 of their power over that of photographs;
        `spectrum`, RMS over rings; `likeness` of patches by scale; `patches`, their mean; `kurtosis` of brightness
        between octaves, finest first, log2 over that of photographs."""
        if not bool(x.isfinite().all()):
            return {"finite": False, "spectrum": None, "patches": None}
        power, edges = self._reference
        ratio = (rings(x) / power).log2()
        scales = [scale for scale in SCALES if self.size >= scale * PATCH]
        found = [self._likeness[scale].distance(patches(x, scale)) for scale in scales]
        return {
            "finite": True,
            "rings": ratio.tolist(),
            "spectrum": float(ratio.square().mean().sqrt()),
            "likeness": found,
            "patches": sum(found) / len(found),
            "kurtosis": (kurtosis(x.clamp(0, 1)) / edges).log2().tolist(),
            "std": float(x.std()),
            "beyond": float((x != x.clamp(0, 1)).float().mean()),
        }


def finite(value: Any) -> float:
    """A figure of a row, infinite where there is none."""
    return math.inf if value is None else float(value)
