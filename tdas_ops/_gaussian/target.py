"""The target: a stationary Gaussian field with the data's power spectrum and mean image, frequency by frequency."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdas_ops import _images
from tdas_ops.reference import column_weights, full_spectrum

Array = NDArray[Any]

_NODES = 384


@dataclass(frozen=True)
class Target:
    """The law that samples should have: a stationary Gaussian field; made by `from_images` and its like.

    Attributes:
        shape: (C, H, W).
        variance: of every frequency, half spectrum.
        mean_power: |F mean|^2 of every frequency with the orthonormal F, half spectrum.
    """

    shape: tuple[int, int, int]
    variance: Tensor
    mean_power: Tensor

    @classmethod
    def from_spectrum(cls, variance: Tensor, mean: Tensor | None = None) -> Target:
        """From a power spectrum.

        Args:
            variance: of every coefficient of the orthonormal DFT, full spectrum `[C, H, W]`, even: v(k) = v(-k).
            mean: mean image `[C, H, W]`, by default 0.

        Raises:
            ValueError: wrong shapes, negative, non-finite or asymmetric variances.
        """
        _check_image("variance", variance)
        variance = variance.detach().to("cpu", torch.float64)
        mean = torch.zeros_like(variance) if mean is None else mean
        _check_image("mean", mean, tuple(variance.shape))
        mirrored = torch.roll(variance.flip(-2, -1), (1, 1), (-2, -1))
        low, high, gap = float(variance.min()), float(variance.max()), float((variance - mirrored).abs().max())
        if low < 0 or high <= 0:
            raise ValueError(f"variance: got values from {low:.4g} to {high:.4g}, expected some above 0, none below")
        if gap > 1e-6 * high:
            raise ValueError(f"variance: got a spectrum that misses v(k) = v(-k) by {gap:.3g}, expected an even one")
        channels, height, width = variance.shape
        spectrum = torch.fft.rfft2(mean.detach().to("cpu", torch.float64), norm="ortho")
        half = (0.5 * (variance + mirrored))[..., : width // 2 + 1].contiguous()
        return cls((channels, height, width), half, spectrum.abs().square())

    @classmethod
    def from_images(cls, images: Tensor | Iterable[Tensor]) -> Target:
        """From images in the units of x, any range: `[N, C, H, W]` or an iterable of such batches, two or more."""
        count, total, power = 0, torch.zeros(()), torch.zeros(())
        for batch in _images.batches(images):
            for part in batch.to("cpu", torch.float64).split(256):
                total = total + part.sum(0)
                power = power + torch.fft.fft2(part, norm="ortho").abs().square().sum(0)
            count += len(batch)
        mean = total / count
        variance = power / count - torch.fft.fft2(mean, norm="ortho").abs().square()
        return cls.from_spectrum(variance.clamp_min(0) * (count / (count - 1)), mean)

    @classmethod
    def from_statistics(cls, freq: Tensor, mean: Tensor | None = None, scale: float = 1.0) -> Target:
        """From the raw statistic f(k) of `Preconditioner.from_images`: `mean |F x|^2 = exp(f) - 1`, F unnormalised.

        Args:
            freq: f(k) of images in [0, 1], full spectrum `[C, H, W]`.
            mean: mean image in [0, 1], `[C, H, W]`. f alone does not tell mean from variance; without it the second
                moment serves as the variance of a field of mean 0.
            scale: x is `scale` times the image, up to a constant: 2 for x in [-1, 1].
        """
        _check_image("freq", freq)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: got {scale}, expected a finite number greater than 0")
        second = torch.expm1(freq.detach().to("cpu", torch.float64)) / math.prod(freq.shape[-2:])
        if mean is None:
            return cls.from_spectrum(scale**2 * second)
        _check_image("mean", mean, tuple(freq.shape))
        mean = mean.detach().to("cpu", torch.float64)
        variance = (second - torch.fft.fft2(mean, norm="ortho").abs().square()).clamp_min(0)
        return cls.from_spectrum(scale**2 * variance, scale * mean)

    @cached_property
    def statistic(self) -> Tensor:
        """f(k) as `Preconditioner.from_statistics` takes it, full spectrum `[C, H, W]`."""
        _, height, width = self.shape
        return full_spectrum(torch.log1p(height * width * (self.variance + self.mean_power)), width)

    @cached_property
    def field(self) -> Field:
        """All frequencies, flat."""
        return spectral_field(self.variance, self.mean_power, self.shape[2])


def _check_image(name: str, value: Tensor, shape: tuple[int, ...] | None = None) -> None:
    wrong = value.dim() != 3 or 0 in value.shape if shape is None else tuple(value.shape) != shape
    if wrong or not value.dtype.is_floating_point or not bool(value.isfinite().all()):
        raise ValueError(
            f"{name}: got {value.dtype} {tuple(value.shape)}, expected finite floating-point {shape or '[C, H, W]'}"
        )


@dataclass(frozen=True)
class Field:
    """Frequencies `[K]`: variance, number of frequencies of the full spectrum, power of the mean in all of these."""

    variance: Array
    weight: Array
    mean_power: Array

    @cached_property
    def has_mean(self) -> bool:
        return bool(self.mean_power.any())

    def condensed(self) -> Nodes:
        """A few hundred variances in place of all frequencies: what becomes of one depends on its variance alone."""
        values = self.variance.clip(1e-14 * self.variance.max())
        nodes = np.unique(values)
        if len(nodes) > _NODES:
            nodes = np.geomspace(nodes[0], nodes[-1], _NODES)
        left = np.searchsorted(nodes, values, side="right").clip(1, max(1, len(nodes) - 1)) - 1
        right = (left + 1).clip(max=len(nodes) - 1)
        gap = np.log(nodes[right] / nodes[left])
        share = np.divide(np.log(values / nodes[left]), gap, out=np.zeros_like(values), where=gap > 0)
        weight, power = (
            np.bincount(left, (1 - share) * amount, len(nodes)) + np.bincount(right, share * amount, len(nodes))
            for amount in (self.weight, self.mean_power)
        )
        return Nodes(nodes, weight, power, left, right, share)


def spectral_field(variance: Tensor, mean_power: Tensor, width: int) -> Field:
    """Of half spectra `[C, H, W // 2 + 1]`."""
    weight = np.broadcast_to(column_weights(width).numpy(), variance.shape).ravel()
    return Field(variance.numpy().ravel(), weight, weight * mean_power.numpy().ravel())


@dataclass(frozen=True)
class Nodes(Field):
    """A condensed field, with the two nodes around each frequency and how far it lies towards the upper one."""

    left: Array
    right: Array
    share: Array

    def interpolated(self, values: Array) -> Array:
        """Positive values at the nodes `[..., nodes]`, at all frequencies `[..., K]`; logarithms are linear between."""
        logs = np.log(values)
        return np.exp((1 - self.share) * logs[..., self.left] + self.share * logs[..., self.right])
