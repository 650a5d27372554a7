"""Starts, and the samplers that go on from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from experiments.restoration.ffdnet import FFDNet
from tdas_ops import NoiseStream, Preconditioner, Spectrum, noise, samplers
from tdas_ops.sde import VE

TOP, LOWEST = 0.58, 5 / 255  # of what FFDNet knows: 150 / 255, and below 5 / 255 its score is a small difference
STARTS = ("white", "mean", "channels", "colour")


class Painter:
    """Pictures of any size from a denoiser and the spectrum of photographs.

    Args:
        denoise: D(x, s), x `[B, C, H, W]` in [0, 1].
        spectrum: of patches.
        errors: spectrum of `x - D(x + s z, s)` at a noise level, of the same patches.
    """

    def __init__(
        self,
        denoise: FFDNet,
        spectrum: Spectrum,
        errors: Callable[[float], Spectrum] | None = None,
        lowest: float = LOWEST,
    ) -> None:
        self.denoise, self.spectrum, self.errors, self.lowest = denoise, spectrum, errors, lowest
        self.sde = VE(min(lowest, LOWEST), TOP)

    def score(self, x: Tensor, s: Tensor) -> Tensor:
        sigma = float(s.flatten()[0])
        return (self.denoise(x, sigma) - x) / sigma**2

    def start(self, kind: str, shape: Sequence[int], stream: NoiseStream) -> Tensor:
        """At the top level: white noise on grey or on the mean colour, or the spectrum, channels apart or together."""
        if kind == "colour":
            return self.spectrum.start(TOP, shape, stream)
        if kind == "channels":
            own = torch.diag_embed(torch.diagonal(self.spectrum.matrices, dim1=-2, dim2=-1))
            return Spectrum(self.spectrum.shape, self.spectrum.mean, own, self.spectrum.slope).start(TOP, shape, stream)
        mean = self.spectrum.mean.float()[:, None, None] if kind == "mean" else 0.5
        return mean + noise(Preconditioner.identity(tuple(shape[1:]), None), shape, stream, TOP)

    def ladder(self, evaluations: int) -> list[float]:
        return [*self.sde.ladder(evaluations, "karras", sigma_min=self.lowest), 0.0]

    def error_filters(self, ladder: Sequence[float], size: int) -> list[Preconditioner]:
        """Filters whose noise has, besides that of an ancestral step, the covariance of what the denoiser missed:
        `t^2 (1 - c) + (1 - c)^2 E`, c = (t / s)^2, over the former."""
        assert self.errors is not None
        made = []
        for s, t in pairwise(ladder):
            if t == 0:
                break
            spectrum, c = self.errors(s).resize(size, size), (t / s) ** 2
            weight = (1 - c) / t**2
            made.append(spectrum.filter(lambda E, weight=weight: 1 + weight * E))
        return [*made, made[-1]]

    def paint(self, method: str, start: str, evaluations: int, size: int, count: int, seed: int) -> Tensor:
        """Pictures `[count, 3, size, size]`; what the methods are stands in README.md."""
        shape, stream, ladder = (count, 3, size, size), NoiseStream(seed), self.ladder(evaluations)
        x = self.start(start, shape, stream)
        if method == "none":
            return x
        name, *settings = method.split()
        options = dict(item.split("=") for item in settings)
        kind, eta = options.get("covariance"), float(options.get("eta", "0" if name == "dpmpp" else "1"))
        if kind == "error":
            M = self.error_filters(ladder, size)
        elif kind is not None:
            M = self.spectrum.resize(size, size).posterior(ladder, eta=eta, share=float(kind))
        else:
            M = None
        sampler = {"dpmpp": samplers.dpmpp, "ancestral": samplers.ancestral}[name]
        s_noise = float(options.get("noise", 1))
        return sampler(
            self.score,
            shape,
            self.sde,
            M,
            noise=stream,
            ladder=ladder,
            start=x,
            eta=eta,
            s_noise=s_noise,
            progress=False,
        )
