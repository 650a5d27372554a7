"""The methods that are compared, each beside its null hypotheses; all take as many evaluations as they are told.

`pc` is the predictor-corrector sampler of the papers, two evaluations an iteration, with their filters; the others are
samplers of today, from the highest noise level or from a start at `START` with more or less of the data's law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from experiments.photographs.data import SIZES, Photographs
from tdas_ops import NoiseStream, Preconditioner, Spectrum, calibrate, noise, samplers
from tdas_ops.preconditioner import ImageStatistics
from tdas_ops.samplers import ScoreFn
from tdas_ops.sde import VE

# At the level of the starts, what lies beyond 64 pixels would make the linear denoiser's error one per cent smaller.
SIGMA_MIN, START, ALPHA = 0.01, 1.0, 5.0
# The largest noise level, which has to drown the mean colour: it grows with the side of a picture.
SIGMA_MAX = {64: 90.0, 256: 378.0, 1024: 1512.0}
STATISTICS = {64: 2_000, 256: 480, 1024: 96}  # crops that the papers' masks are made from


@dataclass(frozen=True)
class Method:
    """A sampler of today and its settings.

    Attributes:
        sampler: of `tdas_ops.samplers`.
        start: of `Bench.start`; by default none, and the run begins at the highest level.
        eta: of the sampler, where it has one.
        covariance: whether the noise of its steps has the posterior covariance of the spectrum.
    """

    sampler: str = "dpmpp"
    start: str = ""
    eta: float | None = 0.0
    covariance: bool = False


METHODS: dict[str, Method | str] = {
    **{f"pc {name}": name for name in ("plain", "constant", "tdas", "pds", "schedule")},
    "Heun": Method("heun", eta=None),
    "ancestral": Method("ancestral", eta=1.0),
    "ancestral, posterior covariance": Method("ancestral", eta=1.0, covariance=True),
    "DPM-Solver++ 2M": Method(),
    "DPM-Solver++ 2M SDE": Method(eta=1.0),
    "2M from white noise": Method(start="white"),
    "2M from mean colour and white noise": Method(start="mean"),
    "2M from the spectrum, channels apart": Method(start="channels"),
    "2M from the colour spectrum": Method(start="colour"),
    "2M SDE from the colour spectrum": Method(start="colour", eta=1.0),
    "ancestral from the colour spectrum, posterior covariance": Method("ancestral", "colour", 1.0, True),
}


class Bench:
    """Everything that the methods need at one size.

    Args:
        size: of pictures.
        spectrum: of photographs.
        crops: pictures in [0, 1] for the papers' masks, of that size.
    """

    def __init__(self, size: int, spectrum: Spectrum, crops: Callable[[], Tensor], top: float | None = None) -> None:
        self.size, self.spectrum, self.crops = size, spectrum, crops
        self.sde = VE(SIGMA_MIN, SIGMA_MAX[size] if top is None else top)

    @classmethod
    def of(cls, size: int, spectrum: Spectrum, photos: Photographs) -> Bench:
        assert size in SIZES
        return cls(size, spectrum, lambda: photos.train(size, STATISTICS[size]))

    @cached_property
    def resized(self) -> Spectrum:
        return self.spectrum.resize(self.size, self.size)

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        made = ImageStatistics()
        for part in self.crops().split(16):
            made.add(part)
        return made.result()

    def filters(self, name: str, iterations: int) -> Any:
        """The filter of a name for a run of pc, or one for each iteration."""
        shape = (self.spectrum.shape[0], self.size, self.size)
        if name == "plain":
            return None
        if name in ("tdas", "pds"):
            return Preconditioner.from_statistics(*self.statistics, alpha=ALPHA, method=name)
        run = calibrate.PC(self.sde, iterations)
        return constant(shape, run) if name == "constant" else calibrate.schedule(self.resized.target(), run)

    def start(self, kind: str, shape: Sequence[int], stream: NoiseStream) -> Tensor:
        """The state at `START`: white noise on black, on the mean colour, or a sample of the spectrum."""
        if kind == "colour":
            return self.resized.start(START, shape, stream)
        if kind == "channels":
            own = torch.diag_embed(torch.diagonal(self.resized.matrices, dim1=-2, dim2=-1))
            return Spectrum(self.resized.shape, self.resized.mean, own).start(START, shape, stream)
        white = noise(Preconditioner.identity(self.resized.shape, None), shape, stream, START)
        return white + self.resized.mean.float()[:, None, None] if kind == "mean" else white

    def sample(self, name: str, score: ScoreFn, count: int, evaluations: int, stream: NoiseStream) -> Tensor:
        """Pictures `[count, C, size, size]`, not clamped."""
        shape, method = (count, self.spectrum.shape[0], self.size, self.size), METHODS[name]
        if isinstance(method, str):
            iterations = evaluations // 2
            M = self.filters(method, iterations)
            return samplers.pc(score, shape, self.sde, M, noise=stream, iterations=iterations, progress=False)
        steps = (evaluations + 1) // 2 if method.sampler == "heun" else evaluations
        top = START if method.start else self.sde.sigma_max
        ladder = [*self.sde.ladder(steps, "karras", sigma_max=top), 0.0]
        settings: dict[str, Any] = {"noise": stream, "ladder": ladder, "progress": False}
        if method.eta is not None:
            settings["eta"] = method.eta
        if method.start:
            settings["start"] = self.start(method.start, shape, stream)
        M = self.resized.posterior(ladder) if method.covariance else None
        return getattr(samplers, method.sampler)(score, shape, self.sde, M, **settings)


def constant(shape: Sequence[int], run: calibrate.PC) -> list[Preconditioner]:
    """`calibrate.constant`, whose numbers are those of any size, found on a small one."""
    values = [M.provenance["value"] for M in calibrate.constant((1, 2, 2), run)]
    full = lambda value: torch.full(tuple(shape), value, dtype=torch.float64)
    return [Preconditioner(tuple(shape), space=full(value), method="tdas") for value in values]


def possible(name: str, evaluations: int) -> bool:
    """Whether the method can do with exactly so many evaluations."""
    if name == "Heun":
        return evaluations % 2 == 1
    return evaluations % 2 == 0 if name.startswith("pc") else True
