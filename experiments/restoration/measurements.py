"""What happened to a photograph: measurements `y = H x + sigma z`, H a blur or a mask of known pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

LAST = 5 / 255  # the lowest noise level at which FFDNet's score is good
BLUR = 1.6  # standard deviation in pixels
KNOWN = 0.3  # share of the pixels


@dataclass(frozen=True)
class Measurement:
    """A linear measurement.

    Attributes:
        sigma: standard deviation of its noise, images in [0, 1].
        sigma_max: the noise level at which restoring begins: it has to drown the errors of `start`.
        power: float64, `|H|^2` over the half spectrum `[H, W // 2 + 1]` where H is a convolution (periodic), or over
            the pixels `[H, W]` where H is a mask.
        spectral: H is a convolution.
    """

    sigma: float
    sigma_max: float
    power: Tensor
    spectral: bool

    def forward(self, x: Tensor) -> Tensor:
        """H x; H is symmetric in both cases, a Gaussian or a mask of zeros and ones."""
        return _convolved(x, self.power.sqrt()) if self.spectral else x * self.power.to(x.dtype)

    adjoint = forward

    def data_variance(self, s: float) -> float:
        """Variance of y - H x at noise level s, where x carries noise of its own; at the last level sigma^2 alone."""
        return self.sigma**2 + s**2 - LAST**2

    def measure(self, photo: Tensor, seed: int) -> Tensor:
        """y of a photograph `[1, C, H, W]`."""
        z = torch.randn(photo.shape, generator=torch.Generator().manual_seed(seed))
        return self.forward(photo) + self.sigma * (z if self.spectral else self.forward(z))

    def start(self, y: Tensor) -> Tensor:
        """y itself, missing pixels filled from their neighbours."""
        if self.spectral:
            return y
        known, near = self.power.to(y.dtype).expand_as(y), gaussian(y.shape[-2:], 1.5)
        mean, faint = y.sum() / known.sum(), 1e-3
        filled = (_convolved(y, near) + faint * mean) / (_convolved(known, near) + faint)
        return torch.where(known > 0, y, filled)


def gaussian(size: tuple[int, int] | torch.Size, deviation: float) -> Tensor:
    """Half spectrum of a Gaussian blur with a standard deviation in pixels; even, so that it is symmetric."""
    ky, kx = torch.fft.fftfreq(size[0]).double(), torch.fft.rfftfreq(size[1]).double()
    return torch.exp(-2 * (torch.pi * deviation) ** 2 * (ky[:, None] ** 2 + kx[None, :] ** 2))


def _convolved(x: Tensor, gain: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x) * gain.to(x.dtype), s=x.shape[-2:])


def _denoise(size: tuple[int, int]) -> Measurement:
    return Measurement(50 / 255, 50 / 255, torch.ones(size[0], size[1] // 2 + 1, dtype=torch.float64), True)


def _deblur(size: tuple[int, int]) -> Measurement:
    return Measurement(2.55 / 255, 25 / 255, gaussian(size, BLUR) ** 2, True)


def _inpaint(size: tuple[int, int]) -> Measurement:
    known = torch.rand(size, generator=torch.Generator().manual_seed(0)) < KNOWN
    return Measurement(2.55 / 255, 25 / 255, known.double(), False)


TASKS = {"denoise": _denoise, "inpaint": _inpaint, "deblur": _deblur}


def read_photo(file: Path, size: tuple[int, int] | None = None) -> Tensor:
    """A photograph `[1, 3, H, W]` in [0, 1], cropped to the middle and scaled to (H, W), or to even sides."""
    with Image.open(file) as opened:
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    if size is None:
        photo = photo.crop((0, 0, photo.width // 2 * 2, photo.height // 2 * 2))
    else:
        photo = ImageOps.fit(photo, (size[1], size[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255


def level(image: Tensor) -> Tensor:
    """8-bit levels of an image, for a file."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
