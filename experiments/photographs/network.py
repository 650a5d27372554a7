"""A denoiser for pictures of any size: the exact one of a stationary Gaussian field, and a convolutional network that
adds what a linear denoiser cannot know.

The linear part is told how far it may see. "local" it works on tiles of the size of the training patches, and the whole
denoiser then knows nothing of what is further apart; with "whole" it uses the spectrum at the size of the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from tdas_ops import Spectrum
from tdas_ops.models.unet import FourierFeatures

PATCH = 64
Sight = Literal["local", "whole"]


class Wiener:
    """`mean + S (S + s^2)^-1 (x - mean)` on the cosines of pictures of one size, S the cross-spectrum of the channels.

    Cosines have no seam at the borders, where the waves of a Fourier series would join what does not fit.
    """

    def __init__(self, spectrum: Spectrum, height: int, width: int) -> None:
        # Cosines of a picture are waves of it and its mirror images: twice as many, each way.
        matrices = spectrum.resize(2 * height, 2 * width).matrices.real[:, :width]
        rows = torch.arange(height)
        own = 0.5 * (matrices[rows] + matrices[-rows % (2 * height)])
        own[0, 0] = spectrum.resize(height, width).matrices[0, 0].real
        values, vectors = torch.linalg.eigh(own)
        self.values = values.clamp_min(0).permute(2, 0, 1).float().contiguous()  # [C, H, W]
        self.vectors = vectors.permute(2, 3, 0, 1).float().contiguous()  # [C, C, H, W], the second over the values
        self.mean = spectrum.mean.float()[:, None, None]
        self.rows, self.columns = _cosines(height), _cosines(width)

    def gains(self, sigma: Tensor) -> Tensor:
        """What is kept, `[B, C, H, W]` for noise levels `[B]`."""
        return self.values / (self.values + sigma.square().reshape(-1, 1, 1, 1))

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        z = self.rows @ (x - self.mean) @ self.columns.T
        z = self.gains(sigma) * _applied(self.vectors.transpose(0, 1), z)
        return self.mean + self.rows.T @ _applied(self.vectors, z) @ self.columns


def _applied(matrices: Tensor, z: Tensor) -> Tensor:
    """A matrix `[C, C]` at each place `[H, W]`, to `[B, C, H, W]`; so small that a sum over planes is faster."""
    made = matrices[:, 0] * z[:, :1]
    for channel in range(1, z.shape[1]):
        made.addcmul_(matrices[:, channel], z[:, channel : channel + 1])
    return made


def _cosines(count: int) -> Tensor:
    """The orthonormal cosine transform, `[K, N]`."""
    n = torch.arange(count, dtype=torch.float64)
    made = (math.pi / count * n[:, None] * (n + 0.5)).cos() * math.sqrt(2 / count)
    made[0] *= math.sqrt(0.5)
    return made.float()


class Block(nn.Module):
    """`skip(x) + conv(silu(a conv(silu(x)) + b))`, a and b of the noise level; borders are mirrored."""

    def __init__(self, channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        shared = {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}
        self.conv1 = nn.Conv2d(channels, out_channels, **shared)  # type: ignore[arg-type]
        self.told = nn.Linear(embedding, 2 * out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, **shared)  # type: ignore[arg-type]
        nn.init.zeros_(self.conv2.weight)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        a, b = self.told(embedding)[:, :, None, None].chunk(2, dim=1)
        answer: Tensor = self.skip(x) + self.conv2(F.silu(torch.addcmul(b, 1 + a, self.conv1(F.silu(x)))))
        return answer


class Convolutional(nn.Module):
    """A U-Net in which no pixel sees further than its convolutions: no attention, no statistics of the whole picture.

    `forward(x, label)`: x `[B, inputs, H, W]`, H and W multiples of `2 ** len(widths)`; label `[B]`, log sigma; returns
    `[B, channels, H, W]`, 0 when untrained.
    """

    def __init__(self, channels: int, inputs: int, widths: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.embedding = nn.Sequential(
            FourierFeatures(embedding // 2, scale=0.5),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )
        shallower = (widths[0], *widths[:-1])
        self.stem = nn.Conv2d(4 * inputs, widths[0], 3, padding=1, padding_mode="reflect")
        self.down = nn.ModuleList(Block(a, b, embedding) for a, b in zip(shallower, widths, strict=True))
        self.middle = Block(widths[-1], widths[-1], embedding)
        self.up = nn.ModuleList(Block(2 * b, a, embedding) for a, b in zip(shallower, widths, strict=True))
        self.head = nn.Conv2d(widths[0], 4 * channels, 3, padding=1, padding_mode="reflect")
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        e = self.embedding(label)
        h, skips = self.stem(F.pixel_unshuffle(x, 2)), []
        for level, block in enumerate(self.down):
            h = block(h if level == 0 else F.avg_pool2d(h, 2), e)
            skips.append(h)
        h = self.middle(h, e)
        for level in reversed(range(len(self.up))):
            h = self.up[level](torch.cat([h, skips[level]], dim=1), e)
            if level > 0:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        return F.pixel_shuffle(self.head(F.silu(h)), 2)


class Denoiser(nn.Module):
    """Told log sigma, it puts out sigma * score, as the networks of "ncsnpp" do.

    `D(x, s) = L(x, s) + e(s) F((x - L) / sqrt(s^2 + e^2), (L - mean) / deviation, log s)`; L is the linear denoiser, e
    its RMS error a pixel on patches of a Gaussian field of that spectrum, F the convolutional network.

    Args:
        shape: (C, H, W) of the spectrum.
        slope: of its power law.
        widths, embedding: of F.
        largest: the noise level above which F is told this one.

    `forward(x, label)`: x `[B, C, H, W]`, H and W multiples of 32 from 64 on.

    Source: Karras et al., arXiv 2206.00364, for the scaling.
    """

    mean: Tensor
    roots: Tensor  # of the matrices of the spectrum, which half precision holds better

    def __init__(
        self,
        shape: Sequence[int] = (3, 256, 256),
        slope: float = 2.0,
        widths: Sequence[int] = (32, 64, 96),
        embedding: int = 96,
        largest: float = 20.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"shape": list(shape), "slope": slope, "widths": list(widths)}
        self.config |= {"embedding": embedding, "largest": largest}
        channels, height, width = shape
        self.largest, self.sight = largest, "local"
        self.unet = Convolutional(channels, 2 * channels, widths, embedding)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("roots", torch.eye(channels).expand(height, width // 2 + 1, -1, -1).clone())

    @torch.no_grad()
    def fit(self, spectrum: Spectrum) -> None:
        """Takes the linear part from a spectrum of `shape` and `slope`."""
        values, vectors = torch.linalg.eigh(spectrum.matrices.real)
        self.mean.copy_(spectrum.mean)
        self.roots.copy_(vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.mT)

    @property
    def spectrum(self) -> Spectrum:
        shape, slope = self.config["shape"], self.config["slope"]
        roots = self.roots.double().cpu()
        matrices = roots @ roots
        return Spectrum(shape, self.mean.double(), 0.5 * (matrices + matrices.mT), slope)

    @cache  # noqa: B019  (a network lives as long as the process)
    def wiener(self, height: int, width: int) -> Wiener:
        return Wiener(self.spectrum, height, width)

    def error_scale(self, sigma: Tensor) -> Tensor:
        """e: `[B]` for noise levels `[B]`."""
        return sigma * self.wiener(PATCH, PATCH).gains(sigma).mean((1, 2, 3)).sqrt()

    def linear(self, x: Tensor, sigma: Tensor) -> Tensor:
        """L: on the whole picture, or on tiles of the size of a patch that overlap by half, blended."""
        height, width = x.shape[2:]
        if self.sight == "whole" or (height, width) == (PATCH, PATCH):
            return self.wiener(height, width)(x, sigma)
        half = PATCH // 2
        parts = x.unfold(2, PATCH, half).unfold(3, PATCH, half)  # [B, C, rows, columns, PATCH, PATCH]
        channels, rows, columns = parts.shape[1:4]
        tiles = parts.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, PATCH, PATCH)
        tiles = self.wiener(PATCH, PATCH)(tiles, sigma.repeat_interleave(rows * columns))
        window = ((torch.arange(PATCH) + 0.5) * (math.pi / PATCH)).sin().square()
        window = window[:, None] * window

        def put_together(tiles: Tensor) -> Tensor:
            flat = tiles.reshape(-1, rows * columns, tiles.shape[1] * PATCH * PATCH).transpose(1, 2)
            return F.fold(flat, (height, width), PATCH, stride=half)

        return put_together(tiles * window) / put_together(window.expand(rows * columns, 1, -1, -1))

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D: an estimate of the clean picture."""
        with torch.autocast(x.device.type, enabled=False):  # noise in half precision drowns the picture
            linear, error = self.linear(x, sigma), self.error_scale(sigma).reshape(-1, 1, 1, 1)
            removed = (x - linear) * (sigma.reshape(-1, 1, 1, 1).square() + error.square()).rsqrt()
            deviation = self.wiener(PATCH, PATCH).values.mean().sqrt()
            inputs = torch.cat([removed, (linear - self.mean[:, None, None]) / deviation], dim=1)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        return linear + error * self.unet(inputs, sigma.clamp_max(self.largest).log())

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        sigma = label.exp()
        return (self.denoise(x, sigma) - x) / sigma.reshape(-1, 1, 1, 1)


def load(path: Path, sight: Sight = "local") -> Denoiser:
    """A denoiser from the weights that `train` wrote, for sampling."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    network = Denoiser(**json.loads(about["config"]))
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    network.sight = sight
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
