"""Samples of a seed in batches, and the first of them as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tdas_ops import NoiseStream
from tdas_ops._pictures import picture

SHOWN = 16


def in_batches(
    sample: Callable[[int, NoiseStream], Tensor],
    count: int,
    batch: int,
    seed: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """`count` samples `[count, C, H, W]` on the CPU; `sample(n, noise)` makes n of them on the device, whose noise does
    not depend on the division."""
    parts = []
    for first in range(0, count, batch):
        noise = NoiseStream(seed, first_sample=first, device=device)
        parts.append(sample(min(batch, count - first), noise).cpu())
    return torch.cat(parts)


def save_strip(samples: Tensor, path: Path) -> None:
    """The first samples `[N, C, H, W]`, images in [0, 1], side by side as a PNG file."""
    levels = (samples[:SHOWN].nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(torch.cat(list(F.pad(levels, (0, 2)).unbind()), dim=-1)).save(path)
