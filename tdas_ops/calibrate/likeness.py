"""How like held-out images samples are, by more than second moments; nothing trained, in the units of x."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_COMPONENTS = 32
_FILTERS = 16
_SCALES = 3


class Likeness:
    """Distances of samples to images that nothing else was made from.

    Features of an image: its coefficients along the 32 leading principal components of the images, and mean and
    standard deviation over the picture of 16 rectified random 5x5 convolutions at three scales, which the phases of
    edges reach as much as the power spectrum does.

    Args:
        images: `[N >= 2, C, H, W]`, finite.
    """

    def __init__(self, images: Tensor) -> None:
        images = images.detach().to("cpu", torch.float64)
        self._mean, centred = images.mean(0), images - images.mean(0)
        self._scale = centred.square().mean().sqrt().clamp_min(1e-30)
        _, _, vectors = torch.linalg.svd(centred.flatten(1), full_matrices=False)
        self._vectors = vectors[: min(_COMPONENTS, len(images) - 1)]
        weight = torch.randn(_FILTERS, images.shape[1], 5, 5, generator=torch.Generator().manual_seed(0)).double()
        weight -= weight.mean(dim=(2, 3), keepdim=True)
        self._weight = weight / weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        self._real = [part.sort(dim=0).values for part in self._features(images)]
        self._power = radial_power(images)

    def _features(self, x: Tensor) -> list[Tensor]:
        """Components `[N, K]` and textures `[N, K']`."""
        x = x.detach().to("cpu", torch.float64)
        textures, here = [], (x - self._mean.mean()) / self._scale
        for _ in range(_SCALES):
            response = F.relu(F.conv2d(here, self._weight, padding=2))
            textures += [response.mean(dim=(2, 3)), response.std(dim=(2, 3), correction=0)]
            if min(here.shape[-2:]) < 8:
                break
            here = F.avg_pool2d(here, 2)
        return [(x - self._mean).flatten(1) @ self._vectors.T, torch.cat(textures, dim=1)]

    def distance(self, x: Tensor) -> float:
        """The one-dimensional Wasserstein distance to the images along each feature, over their standard deviation;
        averaged over the components, over the textures, and over both. Infinite for samples that are not finite."""
        if not bool(x.isfinite().all()):
            return math.inf
        parts = []
        for got, real in zip(self._features(x), self._real, strict=True):
            spread = real.std(0, correction=0)
            kept = spread > 1e-9 * spread.max()
            at = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
            gap = (torch.quantile(got, at, dim=0) - torch.quantile(real, at, dim=0)).abs().mean(0)
            parts.append(float((gap / spread)[kept].mean()) if bool(kept.any()) else 0.0)
        return sum(parts) / len(parts)

    def spectrum_error(self, x: Tensor) -> float:
        """RMS over rings of |k|, whole cycles an image, of log2(power over that of the images): octaves."""
        if not bool(x.isfinite().all()):
            return math.inf
        tiny = 1e-12 * self._power.max()
        ratio = (radial_power(x.detach().cpu()) + tiny) / (self._power + tiny)
        return float(ratio.log2().square().mean().sqrt())


def radial_power(images: Tensor) -> Tensor:
    """Power spectrum averaged over images, channels and rings of `|k|` rounded to whole cycles an image.

    Args:
        images: `[N, C, H, W]`.

    Returns: `[K]` float64, `mean |F x|^2 / (H W)` on the ring k = 0, 1, ..., the corner of the spectrum last.
    """
    height, width = images.shape[-2:]
    parts = (torch.fft.fft2(part.double(), norm="ortho").abs().square().sum(dim=0) for part in images.split(256))
    power = torch.stack([part.mean(dim=0) for part in parts]).sum(dim=0) / len(images)
    ky, kx = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in (height, width))
    ring = torch.hypot(ky[:, None], kx[None, :]).round().long().flatten()
    total = torch.zeros(int(ring.max()) + 1, dtype=torch.float64).index_add_(0, ring, power.flatten())
    return total / torch.bincount(ring)
