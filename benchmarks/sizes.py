"""The sizes of the literature, `(B, C, H, W)`."""

from __future__ import annotations

from benchmarks.measure import TINY

SIZES: dict[str, tuple[int, int, int, int]] = {
    "CIFAR-10": (128, 3, 32, 32),
    "CelebA": (64, 3, 64, 64),
    "latents": (8, 16, 128, 128),
    "LSUN": (8, 3, 256, 256),
    "weather": (4, 1, 720, 1440),
    "FFHQ": (2, 3, 1024, 1024),
}
if TINY:
    SIZES = {name: (2, 1, 8 + 4 * i, 8 + 4 * i) for i, name in enumerate(SIZES)}
