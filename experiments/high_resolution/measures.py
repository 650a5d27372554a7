"""What is measured of pictures `[N, 3, H, H]` in [0, 1]: second moments by ring, and what a Gaussian field has not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.restoration.ffdnet import FFDNet

NOISE = 5 / 255


def ring_numbers(size: int) -> list[int]:
    """Cycles a picture: powers of two up to a quarter of the pixels, and what 100 is at 256."""
    return [2**i for i in range(size.bit_length() - 2)] + [round(100 * size / 256)]


def rings(x: Tensor) -> Tensor:
    """Power of rings of frequencies, over pictures and channels, of windowed pictures without their means."""
    size = x.shape[-1]
    window = torch.hann_window(size, periodic=False)
    window = window[:, None] * window
    away = (x - x.mean((2, 3), keepdim=True)) * (window / window.square().mean().sqrt())
    power = torch.stack([torch.fft.rfft2(part, norm="ortho").abs().square().mean(0) for part in away]).mean(0)
    k = torch.hypot(torch.fft.fftfreq(size)[:, None] * size, torch.fft.rfftfreq(size)[None] * size).round()
    return torch.stack([power[k == number].mean() for number in ring_numbers(size)])


def kurtosis(x: Tensor) -> Tensor:
    """Of brightness between two octaves, finest first: 3 for a Gaussian field, more where there are edges."""
    grey, found = x.mean(1, keepdim=True), []
    for _ in range(4):
        smaller = F.avg_pool2d(grey, 2)
        band = grey - F.interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False)
        fourth, second = band.pow(4).mean((1, 2, 3)), band.square().mean((1, 2, 3))
        found.append((fourth / second.square().clamp_min(1e-20)).mean())
        grey = smaller
    return torch.stack(found)


def saturation(x: Tensor) -> float:
    """Standard deviation of what differs between the channels over that of brightness."""
    grey = x.mean(1, keepdim=True)
    return float((x - grey).std() / grey.std())


@dataclass(frozen=True)
class Data:
    """The held-out photographs, measured."""

    rings: Tensor
    row: dict[str, object]

    @classmethod
    def of(cls, x: Tensor, denoise: FFDNet) -> Data:
        return cls(rings(x), _row(x, denoise))


def _row(x: Tensor, denoise: FFDNet) -> dict[str, object]:
    kept = x.clamp(0, 1)
    few = kept[:8, :, : min(256, x.shape[2]), : min(256, x.shape[3])]
    return {
        "std": float(x.std()),
        "beyond": float((x != kept).float().mean()),
        "kurtosis": kurtosis(kept).tolist(),
        "saturation": saturation(kept),
        "grain": float((denoise(few, NOISE) - few).square().mean().sqrt()) * 255,
    }


def measure(x: Tensor, data: Data, denoise: FFDNet) -> dict[str, object]:
    """Rings as log2 of the power over that of the data; std; share of values beyond [0, 1]; kurtosis of four octaves;
    saturation; grain: levels of 255 that the denoiser takes off at noise of 5."""
    return {"rings": torch.log2(rings(x) / data.rings).tolist(), **_row(x, denoise)}
