"""What pictures are measured by: power in rings, patches at several scales, edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from experiments.high_resolution.measures import kurtosis, rings
from experiments.photographs.data import Photographs
from experiments.photographs.network import PATCH
from tdas_ops.calibrate import Likeness

SCALES = (1, 2, 4)
REFERENCES = {64: 2_000, 256: 480, 1024: 52}
PATCHES = 400
Crops = Callable[[int, int], Tensor]


def patches(x: Tensor, scale: int) -> Tensor:
    """Pictures scaled down, cut into patches of 64 pixels that do not overlap."""
    small = F.avg_pool2d(x, scale)
    cut = small.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
    return cut.reshape(-1, *cut.shape[3:])


class Judge:
    """Measures pictures of one size against photographs.

    Power and kurtosis are compared with the photographs that training saw: power is that of the few pictures that have
    most of it, and two sets of a dozen differ by more than any samplers do. Patches are compared with held-out ones of
    their scale, the same whatever the size of the picture: all pictures show the same world at one scale.

    Args:
        size: of pictures.
        seen, held_out: `(size, count) -> crops` in [0, 1].
        likeness: of held-out patches, by scale.
    """

    def __init__(self, size: int, seen: Crops, held_out: Crops, likeness: dict[int, Likeness]) -> None:
        self.size, self._seen, self._held_out, self._likeness = size, seen, held_out, likeness

    @classmethod
    def of(cls, size: int, photos: Photographs) -> Judge:
        own = {scale: Likeness(F.avg_pool2d(photos.held_out(scale * PATCH, PATCHES), scale)) for scale in SCALES}
        return cls(size, photos.train, photos.held_out, own)

    @cached_property
    def _reference(self) -> tuple[Tensor, Tensor, Tensor]:
        seen = self._seen(self.size, REFERENCES[self.size])
        edges, power = kurtosis(seen), rings(seen)
        del seen
        return power, rings(self._held_out(self.size, REFERENCES[self.size])), edges

    def __call__(self, x: Tensor) -> dict[str, Any]:
        """Of pictures `[N, 3, size, size]`, not clamped.

        Returns: `rings`, log2 of their power over that of photographs; `spectrum`, RMS over rings; `held_out`, the same
            against held-out ones; `likeness` of patches by scale; `patches`, their mean; `kurtosis` of brightness
            between octaves, finest first, log2 over that of photographs; `std`; the share `beyond` [0, 1].
        """
        if not bool(x.isfinite().all()):
            return {"finite": False, "spectrum": None, "held_out": None, "patches": None}
        seen, unseen, edges = self._reference
        power = rings(x)
        scales = [scale for scale in SCALES if self.size >= scale * PATCH]
        found = [self._likeness[scale].distance(patches(x, scale)) for scale in scales]
        return {
            "finite": True,
            "rings": (power / seen).log2().tolist(),
            "spectrum": _rms((power / seen).log2()),
            "held_out": _rms((power / unseen).log2()),
            "likeness": found,
            "patches": sum(found) / len(found),
            "kurtosis": (kurtosis(x.clamp(0, 1)) / edges).log2().tolist(),
            "std": float(x.std()),
            "beyond": float((x != x.clamp(0, 1)).float().mean()),
        }


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def finite(value: Any) -> float:
    """A figure of a row, infinite where there is none."""
    return math.inf if value is None else float(value)
