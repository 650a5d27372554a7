"""The runs: what a sampler does with its settings, as a list of updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from tdas_ops.sde import SDE

PREDICTORS = {"reverse_diffusion": "reverse", "euler_maruyama": "euler", "ancestral": "ancestral"}


@dataclass(frozen=True)
class Update:
    """`x_mean = x + D (a x + b score)`, `x = x_mean + n M z`, with the score of the law `mean_scale x(0) + std z`.

    Attributes:
        iteration: the iteration it belongs to.
        snr: None, or what the snr rule sets b = eta and n = sqrt(2 eta) from, with alpha its alpha_t.
        filtered: whether D is that of the method, or 1.
    """

    iteration: int
    mean_scale: float
    std: float
    a: float = 0.0
    b: float = 0.0
    n: float = 0.0
    snr: float | None = None
    alpha: float = 1.0
    filtered: bool = True


class Run(Protocol):
    """A sampler with its settings: `PC` or `AnnealedLangevin`.

    Attributes:
        start_scale: noise scale of the start point.
        updates: what it does, in order.
        denoise: whether the sample is the last x_mean, or the last x.
        count: number of iterations.
    """

    @property
    def start_scale(self) -> float: ...
    @property
    def updates(self) -> list[Update]: ...
    @property
    def denoise(self) -> bool | None: ...
    @property
    def count(self) -> int: ...


@dataclass(frozen=True)
class PC:
    """A run of `samplers.pc`; every field is its argument of that name."""

    sde: SDE
    iterations: int
    snr: float = 0.16
    predictor: Literal["reverse_diffusion", "euler_maruyama", "ancestral"] | None = "reverse_diffusion"
    corrector_steps: int = 1
    end_time: float | None = None
    denoise: bool = True
    corrector: Literal["langevin", "ald"] = "langevin"

    def __post_init__(self) -> None:
        if not 0 < self.snr < math.inf:
            raise ValueError(f"snr: got {self.snr}, expected a finite number greater than 0")
        if self.predictor is not None and self.predictor not in PREDICTORS:
            expected = ", ".join(map(repr, PREDICTORS))
            raise ValueError(f"predictor: got {self.predictor!r}, expected {expected} or None")
        if self.corrector not in ("langevin", "ald"):
            raise ValueError(f"corrector: got {self.corrector!r}, expected 'langevin' or 'ald'")
        if self.corrector_steps < 0 or (self.predictor is None and self.corrector_steps == 0):
            got = f"{self.corrector_steps} with predictor {self.predictor!r}"
            raise ValueError(f"corrector_steps: got {got}, expected at least one step")
        levels = self.sde.levels(self.iterations, self.end_time)
        if self.predictor == "ancestral" and any(level.ancestral is None for level in levels):
            raise ValueError(f"predictor: got 'ancestral' with {type(self.sde).__name__}, which has none")

    @property
    def count(self) -> int:
        return self.iterations

    @property
    def start_scale(self) -> float:
        return self.sde.start_scale

    @cached_property
    def updates(self) -> list[Update]:
        made = []
        for i, level in enumerate(self.sde.levels(self.iterations, self.end_time)):
            marginal = (i, level.mean_scale, level.std)
            if self.corrector == "ald":
                eta = 2 * level.alpha * (self.snr * level.std) ** 2
                made += [Update(*marginal, b=eta, n=math.sqrt(2 * eta))] * self.corrector_steps
            else:
                made += [Update(*marginal, snr=self.snr, alpha=level.alpha)] * self.corrector_steps
            if self.predictor is not None:
                made.append(Update(*marginal, *getattr(level, PREDICTORS[self.predictor])))
        return made


@dataclass(frozen=True)
class AnnealedLangevin:
    """A run of `samplers.annealed_langevin`; every field is its argument of that name.

    `samplers.ncsnv2_step_size(sigmas, steps)` is the step size that the sampler takes by itself.
    """

    sigmas: Sequence[float]
    step_size: float
    steps: int = 5
    rule: Literal["ncsn", "ncsnv2"] = "ncsnv2"
    denoise: bool | None = None

    def __post_init__(self) -> None:
        falling = zip([*self.sigmas[:1], *self.sigmas], self.sigmas, strict=False)
        if len(self.sigmas) == 0 or any(not 0 < b <= a < math.inf for a, b in falling):
            raise ValueError("sigmas: got a sequence that is empty, not positive or rising, expected large to small")
        if self.rule not in ("ncsn", "ncsnv2"):
            raise ValueError(f"rule: got {self.rule!r}, expected 'ncsn' or 'ncsnv2'")
        if self.steps < 1:
            raise ValueError(f"steps: got {self.steps}, expected at least 1")
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size: got {self.step_size}, expected a finite number greater than 0")
        if self.denoise is None:
            object.__setattr__(self, "denoise", self.rule == "ncsnv2")

    @property
    def count(self) -> int:
        return len(self.sigmas)

    @property
    def start_scale(self) -> float:
        return self.sigmas[0]

    @cached_property
    def updates(self) -> list[Update]:
        made, last = [], self.sigmas[-1]
        for i, sigma in enumerate(self.sigmas):
            eta = self.step_size * (sigma / last) ** 2 * (0.5 if self.rule == "ncsn" else 1.0)
            made += [Update(i, 1.0, sigma, b=eta, n=math.sqrt(2 * eta))] * self.steps
        if self.denoise:
            made.append(Update(self.count - 1, 1.0, last, b=last**2, filtered=False))
        return made
