"""`Model`: a score network with everything that is needed to sample from it and to judge the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tdas_ops.calibrate import PC, FewStep, Prior, Target, schedule
from tdas_ops.calibrate.few_step import Sampler
from tdas_ops.models.frechet import Evaluator
from tdas_ops.models.unet import ScoreUNet
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.samplers import Filters
from tdas_ops.sde import VE

Method = Literal["plain", "tdas", "pds", "schedule"]
METHODS: tuple[Method, ...] = get_args(Method)
Start = Literal["none", "mean", "gaussian"]
STARTS: tuple[Start, ...] = get_args(Start)


def method_named(name: object) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none.
    """
    for method in METHODS:
        if method == name:
            return method
    raise ValueError(f"method: got {name!r}, expected one of {', '.join(METHODS)}")


_STRONGEST_PDS = 10.0


def matched_alpha(
    sde: VE, iterations: int, statistics: Sequence[Tensor], method: Literal["tdas", "pds"] = "tdas"
) -> float:
    """The strength of a filter that suits an iteration count.

    Where the data have no energy the score is `-x / sigma^2`. There the reverse diffusion predictor takes a variance
    `kappa sigma_i^2` to `((1 - D g)^2 kappa + r^2 g) sigma_i^2`, with `g = 1 - 1 / rho^2`, rho the ratio of
    neighbouring noise levels, r what the filter makes of the noise and D what it makes of the drift. Plain sampling
    (r = D = 1) settles at kappa = rho^2: more noise than the network was trained on, the more so the fewer iterations.

    "tdas" (D = 1) settles at `kappa = r^2 rho^2`, so r = 1 / rho brings it to 1. "pds" (D = r^2) has its smallest kappa
    at `r^2 = g^(-1/2)`, which nears 1 at few iterations: there a stronger filter adds noise, and then diverges. Alpha
    is chosen so that the masks reach that r where they are furthest from 1, for "pds" not below 10: many iterations
    would ask for more, and were measured to be worse with it. This rule is this package's; the papers fix alpha.

    Args:
        sde: gives the noise levels.
        iterations: of the run.
        statistics: raw statistics of the masks that the filter uses.
        method: "tdas" or "pds".
    """
    rho = (sde.sigma_max / sde.sigma_min) ** (1 / max(1, iterations - 1))
    target = 1 / rho if method == "tdas" else (1 - rho**-2) ** 0.25  # of the product of the minima of the masks m
    lows = [float(raw.min() / raw.max()) for raw in statistics]
    weak, strong = 1e4, 1e-3
    for _ in range(50):
        middle = math.sqrt(weak * strong)  # of alpha - 1, on a logarithmic scale
        if math.prod((low + middle) / (1 + middle) for low in lows) < target:
            strong = middle
        else:
            weak = middle
    return 1 + weak if method == "tdas" else max(_STRONGEST_PDS, 1 + weak)


class Statistics(NamedTuple):
    """Of the training images, in [0, 1]: raw f(k) and a(p), and the mean image; `[C, H, W]` float64 each."""

    freq: Tensor
    space: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Model:
    """A score network, its SDE and its data's statistics.

    Attributes:
        name: what `tdas_ops.models.load` calls it.
        network: the score network, on `device`.
        sde: the variance-exploding SDE it was trained for, with its native iteration count.
        shape: (C, H, W) of a sample; values of the data are in [0, 1].
        snr: signal-to-noise ratio of the corrector that suits it.
        start_sigma: noise level that suits a start with what is known of the data.
        statistics: of the training images; every filter is made from them.
        evaluator: Frechet distance of samples to held-out images.
        device: where the network lives.
    """

    name: str
    network: ScoreUNet
    sde: VE
    shape: tuple[int, int, int]
    snr: float
    start_sigma: float
    statistics: Statistics
    evaluator: Evaluator
    device: torch.device

    @torch.no_grad()
    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The score `[B, C, H, W]` at x `[B, C, H, W]`, float32, and noise levels sigma `[B]`; channels_last inside."""
        score: Tensor = self.network(x.contiguous(memory_format=torch.channels_last), sigma)
        return score

    @cached_property
    def target(self) -> Target:
        """The data as `tdas_ops.calibrate` takes them."""
        return Target.from_statistics(self.statistics.freq, self.statistics.mean)

    def prior(self, start: Start) -> Prior | None:
        """The law of the data that a run begins with: for "gaussian" mean image and power spectrum, a stationary field;
        for "mean" the mean image alone, around which the noise is white; none for "none".

        Raises:
            ValueError: another start.
        """
        if start not in STARTS:
            raise ValueError(f"start: got {start!r}, expected one of {', '.join(STARTS)}")
        if start == "none":
            return None
        mean = self.statistics.mean
        made = Prior(mean, basis="mean") if start == "mean" else Prior.from_spectrum(self.target.variance, mean)
        return made.to(self.device)

    def few_step(
        self,
        evaluations: int,
        sampler: Sampler = "dpmpp",
        *,
        start: Start = "none",
        sigma: float | None = None,
        **settings: Any,
    ) -> FewStep:
        """A run of few steps: `model.few_step(8).sample(model.score, (64, *model.shape), noise)`.

        Args:
            evaluations: calls of the network.
            sampler: as in `calibrate.FewStep`.
            start: "none", or what `prior` makes.
            sigma: level that the run begins at, by default `start_sigma` with a start and else the highest.
            settings: further fields of `calibrate.FewStep`.

        Raises:
            ValueError: settings that do not fit one another.
        """
        sigma = self.start_sigma if sigma is None and start != "none" else sigma
        return FewStep(self.sde, evaluations, sampler, start=self.prior(start), sigma=sigma, **settings)

    def filters(
        self, method: Method, iterations: int | None = None, alpha: float | None = None, snr: float | None = None
    ) -> Filters:
        """The argument M of `samplers.pc` for a method: `preconditioner(method, ...)`, or for "schedule" the filters of
        `calibrate.schedule`, one an iteration.

        All of them have a space mask, of ones where the method has none: noise then enters in the same place, and one
        seed means the same noise for every method.

        Args:
            method: "plain", "tdas", "pds" or "schedule".
            iterations: of the run, by default the native count.
            alpha: strength of "tdas" and "pds".
            snr: of the run, by default the model's.
        """
        count = self.sde.native_iterations if iterations is None else iterations
        if method != "schedule":
            return self.preconditioner(method, alpha, iterations=count)
        scheduled = schedule(self.target, PC(self.sde, count, self.snr if snr is None else snr))
        ones = torch.ones(self.shape)
        return [
            Preconditioner(M.shape, M.freq, ones, method=M.method, provenance=M.provenance, device=self.device)
            for M in scheduled
        ]

    def preconditioner(
        self,
        method: Method,
        alpha: float | None = None,
        *,
        iterations: int | None = None,
        freq: bool = True,
        space: bool = True,
    ) -> Preconditioner:
        """The filter of a method, on the model's device.

        Args:
            method: "plain" (M = 1), "tdas" or "pds". "plain" has a space mask of ones: noise then enters in the same
                place as with the other two, and one seed means the same noise for every method.
            alpha: strength, greater than 1; by default `matched_alpha` of the iterations.
            iterations: of the run that the filter is for, by default the native count.
            freq, space: which masks to use.

        Raises:
            ValueError: an unknown method, alpha that is not greater than 1, or neither mask.
        """
        method = method_named(method)
        if method == "schedule":
            raise ValueError("method: got 'schedule', expected plain, tdas or pds (Model.filters makes a schedule)")
        if method == "plain":
            ones = torch.ones(self.shape)
            about = {"source": "identity"}
            return Preconditioner(self.shape, space=ones, method="pds", provenance=about, device=self.device)
        raw_freq = self.statistics[0] if freq else None
        raw_space = self.statistics[1] if space else None
        if alpha is None:
            used = [raw for raw in (raw_freq, raw_space) if raw is not None]
            count = self.sde.native_iterations if iterations is None else iterations
            alpha = round(matched_alpha(self.sde, count, used, method), 3)
        source = {"source": f"model {self.name}"}
        return Preconditioner.from_statistics(raw_freq, raw_space, alpha, method, source).to(self.device)

    def pictures(self, samples: Tensor) -> Tensor:
        """Samples as 8-bit grey levels `[B, C, H, W]` on the CPU: clamped to [0, 1], rounded to 1/255."""
        return (samples.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
