"""A small NCSN++-type score network for the variance-exploding SDE.

The parts are those of Song et al. (arXiv 2011.13456, appendix H): Fourier features of log sigma, residual
blocks rescaled by 1/sqrt(2), self-attention at one resolution, a variance-exploding score. Two things differ, to make
it run on a CPU: pixels are folded 2x2 into channels before the first convolution (a 32x32 image is a 16x16 one with
four times the channels inside), and the network is wrapped in the denoiser scaling of Karras et al. (arXiv 2206.00364,
table 1), so that it sees unit-variance inputs at every noise level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_RESCALE = 1 / math.sqrt(2)


def _groups(channels: int) -> int:
    return math.gcd(8, channels)


class FourierFeatures(nn.Module):
    """sin and cos of `2 pi f log(sigma) / 4` for fixed random frequencies f: `[B] -> [B, 2 * features]`."""

    frequencies: Tensor

    def __init__(self, features: int, scale: float = 2.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(features) * scale)

    def forward(self, log_sigma: Tensor) -> Tensor:
        phase = (0.25 * 2 * math.pi) * log_sigma[:, None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class ResidualBlock(nn.Module):
    """`(skip(x) + conv(silu(norm(conv(silu(norm(x))) + W emb)))) / sqrt(2)`."""

    def __init__(self, channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(channels), channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding, out_channels)
        self.norm2 = nn.GroupNorm(_groups(out_channels), out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.embed(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        rescaled: Tensor = (self.skip(x) + h) * _RESCALE
        return rescaled


class SelfAttention(nn.Module):
    """Single-head attention over the pixels of one resolution, added to its input and rescaled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, c, h * w).transpose(2, 3).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, c, h, w)
        rescaled: Tensor = (x + self.out(y)) * _RESCALE
        return rescaled


class UNet(nn.Module):
    """The network without any scaling.

    Args:
        channels: image channels C.
        widths: channels at resolutions H/fold, H/(2 fold), H/(4 fold), ...; attention sits at the second one.
        embedding: width of the noise-level embedding.
        fold: squares of this many pixels a side become channels before the first convolution.
        skip: the input is added to the output, each of its `fold**2 * channels` folded channels with a factor that
            depends on the noise level alone. A network with fewer channels than that needs it: what it puts out
            contains the noise of every pixel.
        inputs: channels of the input where it has more than the output, whose C come first.

    `forward(x, label)`: x `[B, inputs, H, W]`, `H` and `W` divisible by `fold * 2 ** (len(widths) - 1)`; label `[B]`
    float32, log sigma or what spans as much, or nothing for a network that is not told; returns `[B, C, H, W]`.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 128),
        embedding: int = 128,
        fold: int = 2,
        skip: bool = False,
        inputs: int | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "widths": list(widths), "embedding": embedding}
        self.config |= {"fold": fold, "skip": skip} | ({} if inputs is None else {"inputs": inputs})
        self.fold = fold
        self.embedding = nn.Sequential(
            FourierFeatures(embedding // 2),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )
        self.stem = nn.Conv2d(fold**2 * (inputs or channels), widths[0], 3, padding=1)
        shallower = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(ResidualBlock(a, b, embedding) for a, b in zip(shallower, widths, strict=True))
        self.attend = SelfAttention(widths[1])
        self.middle = ResidualBlock(widths[-1], widths[-1], embedding)
        self.up = nn.ModuleList(ResidualBlock(2 * b, a, embedding) for a, b in zip(shallower, widths, strict=True))
        self.norm = nn.GroupNorm(_groups(widths[0]), widths[0])
        self.head = nn.Conv2d(widths[0], fold**2 * channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        self.skip = nn.Linear(embedding, fold**2 * channels) if skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        e = self.embedding(x.new_zeros(len(x)) if label is None else label)
        with torch.autocast(x.device.type, enabled=False):  # in half precision x would gain noise, 0.2 % of itself
            folded = F.pixel_unshuffle(x.to(self.stem.weight.dtype), self.fold)
            h = self.stem(folded)
        skips = []
        for level, block in enumerate(self.down):
            h = block(h if level == 0 else F.avg_pool2d(h, 2), e)
            if level == 1:
                h = self.attend(h)
            skips.append(h)
        h = self.middle(h, e)
        for level in reversed(range(len(self.up))):
            h = self.up[level](torch.cat([h, skips[level]], dim=1), e)
            if level > 0:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        h = self.head(F.silu(self.norm(h)))
        if self.skip is not None:
            h = h + self.skip(e)[:, :, None, None] * folded[:, : h.shape[1]]
        return F.pixel_shuffle(h, self.fold)


class ScoreUNet(UNet):
    """The score `s(x, sigma) = (D(x, sigma) - x) / sigma^2` of a U-Net denoiser D.

    Args:
        channels, widths, embedding, fold, skip: of the `UNet`, F of Karras et al.
        sigma_data: standard deviation of the data, for the scaling of Karras et al.

    `forward(x, sigma)`: x `[B, C, H, W]` float, `H` and `W` divisible by `fold * 2 ** (len(widths) - 1)`; sigma `[B]`,
    in the units of x; returns the score `[B, C, H, W]` in x's dtype.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (40, 64, 96),
        embedding: int = 128,
        sigma_data: float = 0.5,
        fold: int = 2,
        skip: bool = False,
    ) -> None:
        super().__init__(channels, widths, embedding, fold, skip)
        self.config["sigma_data"] = self.sigma_data = sigma_data

    def error_scale(self, sigma: Tensor) -> Tensor:
        """The RMS error a pixel of the best denoiser for normal data of that deviation (c_out of Karras et al.)."""
        return sigma * self.sigma_data * (sigma.square() + self.sigma_data**2).rsqrt()

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoiser `D(x, sigma)`, an estimate of the clean image (Karras et al., equation 7)."""
        s = sigma.to(x.dtype).reshape(-1, 1, 1, 1)
        total = s.square() + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        return c_skip * x + self.error_scale(s) * super().forward(x * total.rsqrt(), s.flatten().log())

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        s = sigma.to(x.dtype).reshape(-1, 1, 1, 1)
        return (self.denoise(x, sigma) - x) / s.square()
