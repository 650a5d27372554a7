"""`Model`: a score network with everything that is needed to sample from it and to judge the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from tdas_ops.models.frechet import Evaluator
from tdas_ops.models.unet import ScoreUNet
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.sde import VE

Method = Literal["plain", "tdas", "pds"]
METHODS: tuple[Method, ...] = get_args(Method)


def method_named(name: object) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none.
    """
    for method in METHODS:
        if method == name:
            return method
    raise ValueError(f"method: got {name!r}, expected one of {', '.join(METHODS)}")


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
        score: Tensor = self.network(x.contiguous(memory_format=torch.channels_last), sigma)
        return score

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
            method: "plain" (M = 1), "tdas" or "pds". Where the default filters have space masks, that of "plain" is
                all ones: noise then enters in the same place, and one seed means the same noise for every method.
            alpha: strength, greater than 1; by default what was measured to be best for this model.
            freq, space: which masks to use; by default what was measured to be best.

        Raises:
            ValueError: an unknown method, alpha that is not greater than 1, or neither mask.
        """
        method = method_named(method)
        if method == "plain":
            ones = torch.ones(self.shape) if all(f.space for f in self.filters.values()) else None
            about = {"source": "identity"}
            return Preconditioner(self.shape, space=ones, method="pds", provenance=about, device=self.device)
        default = self.filters[method]
        raw_freq, raw_space = self.statistics
        made = Preconditioner.from_statistics(
            raw_freq if (default.freq if freq is None else freq) else None,
            raw_space if (default.space if space is None else space) else None,
            default.alpha if alpha is None else alpha,
            method,
            {"source": f"model {self.name}"},
        )
        return made.to(self.device)

    def pictures(self, samples: Tensor) -> Tensor:
        """Samples as 8-bit grey levels `[B, C, H, W]` on the CPU: clamped to [0, 1], rounded to 1/255."""
        return (samples.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
