"""Photographs: half of them for the spectrum, the others to measure against, split as wholes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from experiments.acceleration.pictures import NO_PHOTOGRAPHS, photographs

SIDE = 1024  # the shorter side to which photographs are scaled down: what cameras leave at single pixels is lost
PATCH, PATCHES = 256, 240


def split(folder: Path) -> tuple[list[Path], list[Path]]:
    """Every second photograph in the order of their paths for the spectrum, and all others."""
    files = photographs(folder, NO_PHOTOGRAPHS, SIDE)
    return files[::2], files[1::2]


def read(file: Path) -> Tensor:
    """A photograph `[3, H, W]` uint8, its shorter side `SIDE` pixels."""
    with Image.open(file) as opened:
        opened.draft("RGB", (2 * SIDE, 2 * SIDE))  # JPEG: decodes no more than needed
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    scale = SIDE / min(photo.size)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def read_all(files: Sequence[Path]) -> list[Tensor]:
    return [read(file) for file in tqdm(files, desc="photographs")]


def crops(photos: Sequence[Tensor], size: int, count: int, seed: int) -> Tensor:
    """Random square crops `[count, 3, size, size]` float32 in [0, 1], of every photograph as many."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        photo = photos[i % len(photos)]
        top, left = (int(torch.randint(n - size + 1, (), generator=generator)) for n in photo.shape[1:])
        made.append(photo[:, top : top + size, left : left + size])
    return torch.stack(made).float() / 255


class Reference:
    """What pictures of a size are measured against: crops of the held-out photographs."""

    def __init__(self, photos: Sequence[Tensor]) -> None:
        self.photos = photos

    def __call__(self, size: int) -> Tensor:
        return crops(self.photos, size, {256: 240, 512: 96}.get(size, len(self.photos)), seed=2)
