"""Crops of photographs, all at one scale: a larger picture shows more of the world, not the same in more detail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.acceleration.pictures import NO_PHOTOGRAPHS, photographs
from experiments.high_resolution.data import SIDE, crops, read_all
from tdas_ops import Spectrum
from tdas_ops._files import write_whole

SIZES = (64, 256, 1024)
EVERY = 3  # each third photograph is held out: with 37 of them, fewer would be no reference
# Power falls with the square of frequency: so do crops of 1024 pixels, whose lowest rings crops of 256 have not. These,
# whose lower rings are steeper, would have the mean colour of a large picture all but fixed.
SPECTRUM_SIZE, SPECTRUM_CROPS, SLOPE = 256, 480, 2.0


@dataclass(frozen=True)
class Photographs:
    """Photographs `[3, H, W]` uint8 whose shorter side is `SIDE` pixels: for training, and held out."""

    seen: list[Tensor]
    unseen: list[Tensor]

    @classmethod
    def read(cls, folder: Path, cache: Path) -> Photographs:
        """Those below a folder; decoded once, and kept in a file."""
        if not cache.exists():
            files = photographs(folder, NO_PHOTOGRAPHS, SIDE)
            seen = [file for i, file in enumerate(files) if i % EVERY]
            read = {"seen": read_all(seen), "unseen": read_all(files[::EVERY])}
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_whole(cache, lambda partial: torch.save(read, partial))
        return cls(**torch.load(cache, weights_only=True))

    def from_other(self, first: int) -> Photographs:
        """The same, in an order that begins elsewhere: of few crops, others are then of other photographs."""
        return Photographs(*(own[first % len(own) :] + own[: first % len(own)] for own in (self.seen, self.unseen)))

    def train(self, size: int, count: int, seed: int = 1) -> Tensor:
        """Crops in [0, 1] of what training sees, every second one mirrored."""
        made = crops(self.seen, size, count, seed)
        made[len(self.seen) :][::2] = made[len(self.seen) :][::2].flip(3)
        return made

    def held_out(self, size: int, count: int, seed: int = 2) -> Tensor:
        return crops(self.unseen, size, count, seed)

    def spectrum(self) -> Spectrum:
        """What the denoiser and the starts know of photographs."""
        return Spectrum.from_images(self.train(SPECTRUM_SIZE, SPECTRUM_CROPS, seed=3), slope=SLOPE)
