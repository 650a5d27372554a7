"""A denoiser for aligned pictures: the exact one of a normal law on their principal components, and a U-Net that adds
what a linear denoiser cannot know.

A small U-Net tells places apart by its zero padding alone, and learns only in long training that eyes lie above mouths.
Principal components of aligned faces say so from the start, for a projection of the picture a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tdas_ops.models.unet import UNet


class PrincipalDenoiser(nn.Module):
    """Told log sigma, it puts out sigma * score, as the U-Net of "ncsnpp" does.

    `D(x, sigma) = L(x, sigma) + e(sigma) F((x - L) / sqrt(sigma^2 + e^2), L, log sigma)`. L is the denoiser of the
    normal law with the mean, the leading components and their variances of the training images, and one variance for
    all other directions. e is its RMS error a pixel for data of that law. F is a U-Net; untrained it puts out 0.

    Args:
        channels, size: of images, size (H, W).
        components: K, at most the number of training images.
        widths, embedding, fold, skip: of the `UNet`.

    Source: the law is that of Tipping and Bishop, Probabilistic principal component analysis (1999).
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(self, channels: int, size: Sequence[int], components: int, **unet: Any) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "size": list(size), "components": components}
        self.unet = UNet(channels, inputs=2 * channels, **unet)
        own = ("channels", "inputs")
        self.config |= {name: value for name, value in self.unet.config.items() if name not in own}
        self.register_buffer("mean", torch.zeros(channels, *size))
        self.register_buffer("basis", torch.zeros(self.mean.numel(), components))
        self.register_buffer("variances", torch.ones(components))
        self.register_buffer("rest", torch.ones(()))  # variance along each of the other directions

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Takes the law from images `[N, C, H, W]`."""
        self.mean.copy_(images.mean(dim=0))
        centred = (images - self.mean).flatten(1)
        _, singular, basis = torch.svd_lowrank(centred, q=len(self.variances))
        self.basis.copy_(basis)
        self.variances.copy_(singular.square() / len(images))
        self.rest.copy_((centred.square().sum() / len(images) - self.variances.sum()) / self._others)

    @property
    def _others(self) -> int:
        """Directions besides the components."""
        return self.mean.numel() - len(self.variances)

    def _gains(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What the linear denoiser keeps of the components, `[B, K]`, and of the other directions, `[B, 1]`."""
        noise = sigma.square()[:, None]
        return self.variances / (self.variances + noise), self.rest / (self.rest + noise)

    def error_scale(self, sigma: Tensor) -> Tensor:
        """e: the RMS error a pixel of the linear denoiser, `[B]` for noise levels `[B]`."""
        gains, of_rest = self._gains(sigma)
        return sigma * ((gains.sum(dim=1) + self._others * of_rest[:, 0]) / self.mean.numel()).sqrt()

    def linear(self, x: Tensor, sigma: Tensor) -> Tensor:
        """L: the linear denoiser."""
        with torch.autocast(x.device.type, enabled=False):  # noise of sigma 90 in half precision drowns the picture
            gains, of_rest = self._gains(sigma)
            centred = (x - self.mean).flatten(1)
            kept = of_rest * centred + ((gains - of_rest) * (centred @ self.basis)) @ self.basis.T
            return self.mean + kept.reshape(x.shape)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D: an estimate of the clean image."""
        linear, error = self.linear(x, sigma), self.error_scale(sigma).reshape(-1, 1, 1, 1)
        removed = (x - linear) * (sigma.reshape(-1, 1, 1, 1).square() + error.square()).rsqrt()
        answer: Tensor = self.unet(torch.cat([removed, linear - self.mean], dim=1), sigma.log())
        return linear + error * answer

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        sigma = label.exp()
        return (self.denoise(x, sigma) - x) / sigma.reshape(-1, 1, 1, 1)
