"""`Model`: a score network with everything that is needed to sample from it and to judge the samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from tdas_ops.models.frechet import Evaluator
from tdas_ops.models.unet import ScoreUNet
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.sde import VE

Method = Literal["plain", "tdas", "pds"]
METHODS: tuple[Method, ...] = ("plain", "tdas", "pds")


@dataclass(frozen=True)
class Filter:
    """How the masks of a method are made from a model's statistics: strength alpha, and which masks are used."""

    alpha: float
    freq: bool = True
    space: bool = True


@dataclass(frozen=True)
class Model:
    """A score network, its SDE and its data's statistics.

    Attributes:
        name: what `tdas_ops.models.load` calls it.
        network: the score network, on `device`.
        sde: the variance-exploding SDE it was trained for, with its native iteration count.
        shape: (C, H, W) of a sample; values of the data are in [0, 1].
        snr: signal-to-noise ratio of the corrector that suits it.
        filters: the default filter of the methods "tdas" and "pds".
        statistics: raw f(k) and a(p) of the training images, `[C, H, W]` float64.
        evaluator: Frechet distance of samples to held-out images.
        device: where the network lives.
    """

    name: str
    network: ScoreUNet
    sde: VE
    shape: tuple[int, int, int]
    snr: float
    filters: dict[str, Filter]
    statistics: tuple[Tensor, Tensor]
    evaluator: Evaluator
    device: torch.device

    @torch.no_grad()
    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score `[B, C, H, W]` at x `[B, C, H, W]`, float32, and noise levels sigma `[B]`; channels_last inside."""
        return self.network(x.contiguous(memory_format=torch.channels_last), sigma)

    def preconditioner(
        self,
        method: Method,
        alpha: float | None = None,
        *,
        freq: bool | None = None,
        space: bool | None = None,
    ) -> Preconditioner:
        """The filter of a method, on the model's device.

        Args:
            method: "plain" (no filter), "tdas" or "pds".
            alpha: strength, greater than 1; by default what was measured to be best for this model.
            freq, space: which masks to use; by default what was measured to be best.

        Raises:
            ValueError: an unknown method, alpha that is not greater than 1, or neither mask.
        """
        if method not in METHODS:
            raise ValueError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
        if method == "plain":
            return Preconditioner.identity(self.shape, method="pds").to(self.device)
        given = {"alpha": alpha, "freq": freq, "space": space}
        chosen = replace(self.filters[method], **{name: value for name, value in given.items() if value is not None})
        masks = [raw if used else None for raw, used in zip(self.statistics, (chosen.freq, chosen.space), strict=True)]
        about = {"source": f"model {self.name}"}
        return Preconditioner.from_statistics(*masks, chosen.alpha, method, about).to(self.device)

    def pictures(self, samples: Tensor) -> Tensor:
        """Samples as 8-bit grey levels `[B, C, H, W]` on the CPU: clamped to [0, 1], rounded to 1/255."""
        return (samples.clamp(0, 1) * 255).round().to("cpu", torch.uint8)

