"""`calibrate.tune`: which sampler, ladder, noise, start and filter suit a network at a number of evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tdas_ops import _arguments, _tables, samplers
from tdas_ops._gaussian import PC, Target
from tdas_ops.calibrate.few_step import FewStep
from tdas_ops.calibrate.filters import constant, schedule
from tdas_ops.calibrate.likeness import Likeness
from tdas_ops.calibrate.mixture import Mixture
from tdas_ops.calibrate.starting import TOLERANCE, Errors, StartLevel
from tdas_ops.noise import NoiseStream, Stream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.prior import Basis, Prior
from tdas_ops.samplers import Filters, ScoreFn
from tdas_ops.sde import Ladder, NoiseLevels

_FEWEST = 32
_CONFIRMED = 3
_TRIALS = 34


@dataclass(frozen=True)
class Filtered:
    """A run of `samplers.pc` with its filters; `filter` says in a word what they are."""

    filter: str
    run: PC
    M: Filters

    @property
    def name(self) -> str:
        return f"pc, filter {self.filter}"

    @property
    def count(self) -> int:
        """Evaluations of the network."""
        return self.run.count * (self.run.corrector_steps + (self.run.predictor is not None))

    def sample(self, score_fn: ScoreFn, shape: Sequence[int], noise: Stream, **options: Any) -> Tensor:
        """Samples `[B, C, H, W]`; options as in `samplers.pc`."""
        run = self.run
        x: Tensor = samplers.pc(
            score_fn,
            shape,
            run.sde,
            self.M,
            noise=noise,
            iterations=run.iterations,
            snr=run.snr,
            predictor=run.predictor,
            corrector_steps=run.corrector_steps,
            **options,
        )
        return x


Settings = FewStep | Filtered


@dataclass(frozen=True)
class Trial:
    """What was tried.

    Attributes:
        name: in words.
        settings: `settings.sample(score, shape, noise)` makes samples with them.
        distance: `Likeness.distance` to held-out images; that of other real images is `Tuned.floor`.
        spectrum_error: RMS error of the power spectrum in octaves.
        to_flow: RMS distance of each sample to the converged flow of the same noise, over the standard deviation of the
            samples; None where the sampler is no ODE from white noise.
        runs: batches that these figures are the mean of.
    """

    name: str
    settings: Settings
    distance: float
    spectrum_error: float
    to_flow: float | None = None
    runs: int = 1

    @property
    def score(self) -> float:
        """What trials are ranked by, the lower the better: the distance, and a tenth for an octave of the spectrum."""
        return self.distance + 0.1 * self.spectrum_error


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`.

    Attributes:
        trials: all of them, the best first.
        floor, spectrum_floor: distance and spectrum error of real images that are not the held-out ones.
        calls: evaluations of the network on a batch that were spent.
        samples: images a batch.
        starts: where the mean image ("mean"), principal components ("pca"), the spectrum ("fourier") and groups
            ("mixture") pay as starts; empty where `calls` did not suffice, or the network fails at the highest level.
    """

    trials: list[Trial]
    floor: float
    spectrum_floor: float
    calls: int
    samples: int
    starts: dict[str, StartLevel]

    @property
    def settings(self) -> Settings:
        """The best."""
        return self.trials[0].settings

    def sample(self, score_fn: ScoreFn, shape: Sequence[int], noise: Stream, **options: Any) -> Tensor:
        """Samples with the best settings."""
        return self.settings.sample(score_fn, shape, noise, **options)

    def cells(self, rows: int | None = None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Names of the columns, and rows: the trials, the best first, then what real images have."""
        made = [
            (t.name, f"{t.distance:.4f}", f"{t.spectrum_error:.3f}", "" if t.to_flow is None else f"{t.to_flow:.3f}")
            for t in self.trials[:rows]
        ]
        real = ("real images", f"{self.floor:.4f}", f"{self.spectrum_floor:.3f}", "")
        return ("settings", "distance", "spectrum", "to the flow"), [*made, real]

    def table(self, rows: int | None = None) -> str:
        """The trials as text, the best first; the null hypotheses among them are named so."""
        return _tables.text(*self.cells(rows))


@torch.no_grad()
def tune(
    score_fn: ScoreFn,
    sde: NoiseLevels,
    images: Tensor,
    evaluations: int = 8,
    *,
    calls: int | None = None,
    samples: int = 256,
    batch: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> Tuned:
    """The settings that suit a network best at a number of evaluations, by trying them.

    Half of the images make the priors and filters, the other half judges. Samplers are tried first, from white noise;
    then starts (mean image and white noise, principal components, Fourier, groups), each from the level of
    `start_level`, with the ODE and the SDE of second order; then eta, levels, covariances, the prior, ladders, orders
    with the best, and once more eta and levels; then `pc` without a filter, with `constant` and with `schedule`, where
    the SDE has it. The best three are run once more with other noise.

    Args:
        score_fn: `(x, what the SDE tells it) -> score`.
        sde: `VE`, `VP`, `SubVP`, `Discrete`, or what `sde.NoiseLevels` describes.
        images: `[N, C, H, W]` of the data in the units of x, a few hundred, on the device to sample on; samples of a
            converged run will do.
        evaluations: calls of the network for a batch of samples that the settings may take.
        calls: calls of the network for `samples` samples that the search may take, by default enough for all of it,
            `34 evaluations`, a converged run, and one call a level from the highest down to where starts pay, a factor
            of 1.25 apart. With fewer the first are tried.
        samples: of a trial.
        batch: samples sampled at once.
        seed: of all noise; the result is a function of it.
        progress: show a progress bar.

    Returns: all trials, the best first.

    Raises:
        ValueError, TypeError: fewer than 32 images, or bad numbers; before the first evaluation.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images: got {type(images).__name__}, expected a tensor [N >= {_FEWEST}, C, H, W]")
    if images.dim() != 4 or len(images) < _FEWEST or not bool(images.isfinite().all()):
        raise ValueError(f"images: got shape {tuple(images.shape)}, expected [N >= {_FEWEST}, C, H, W], all finite")
    evaluations = _arguments.whole("evaluations", evaluations, 1)
    samples, batch = _arguments.whole("samples", samples, 16), _arguments.whole("batch", batch, 1)
    allowed = None if calls is None else _arguments.whole("calls", calls, 0)
    if allowed is not None and allowed < evaluations:
        raise ValueError(f"calls: got {calls}, expected at least {evaluations}, what one trial takes")
    search = _Search(score_fn, sde, images, evaluations, allowed, samples, batch, seed)
    with tqdm(total=search.allowed, desc="tuning", unit="call", disable=not progress) as bar:
        search.run(bar.update)
    return search.result()


class _Search:
    """The state of a search: what is known, what was tried, what was spent."""

    def __init__(
        self,
        score_fn: ScoreFn,
        sde: NoiseLevels,
        images: Tensor,
        evaluations: int,
        allowed: int | None,
        samples: int,
        batch: int,
        seed: int,
    ) -> None:
        self.score_fn, self.sde, self.evaluations = score_fn, sde, evaluations
        self.shape, self.samples, self.batch, self.seed = tuple(images.shape[1:]), samples, batch, seed
        known, held_out = images[0::2], images[1::2]
        self.likeness = Likeness(held_out)
        self.real = _spread(known, samples)
        self.target = Target.from_images(known)
        kinds: tuple[Basis, ...] = ("mean", "pca", "fourier")
        self.priors = {kind: Prior.from_images(known, kind).to(images.device) for kind in kinds}
        self.laws: dict[str, Prior | Mixture] = {kind: prior for kind, prior in self.priors.items()}
        self.laws["mixture"] = Mixture.from_images(known).to(images.device)
        self.device, self.spent = images.device, 0
        self.trials: dict[str, Trial] = {}
        self.converged: Tensor | None = None
        self.errors = Errors(score_fn, sde, _spread(held_out, samples), batch, seed)
        self.starts: dict[str, StartLevel] = {}
        every = _TRIALS * evaluations + _converged_count(evaluations) + self.errors.most
        self.allowed = every if allowed is None else allowed
        self.spend: Callable[[int], object] = lambda calls: None

    def run(self, spend: Callable[[int], object]) -> None:
        self.spend = spend
        reserved = _CONFIRMED * self.evaluations
        reference = FewStep(self.sde, _converged_count(self.evaluations))
        if self.allowed >= 12 * self.evaluations + reference.count + reserved:
            self.converged = self._samples(reference, self.seed)
        self._try(self._solvers(), reserved)
        self._measure(reserved)
        self._try(self._starts(), reserved)
        for refinements in (self._refinements, self._noises_and_levels):
            for best in self._best(1):
                self._try(refinements(best), reserved)
        self._try(self._filters(), reserved)
        for trial in sorted(self.trials.values(), key=lambda trial: trial.score)[:_CONFIRMED]:
            self._confirm(trial)

    def result(self) -> Tuned:
        floor, spectrum = self.likeness.distance(self.real), self.likeness.spectrum_error(self.real)
        ranked = sorted(self.trials.values(), key=lambda trial: (trial.runs == 1, trial.score))
        return Tuned(ranked, floor, spectrum, self.spent, self.samples, self.starts)

    def _solvers(self) -> Iterator[Settings]:
        plain = FewStep(self.sde, self.evaluations, order=min(2, self.evaluations))
        yield plain
        yield replace(plain, eta=1.0)
        yield FewStep(self.sde, self.evaluations, "ancestral", eta=1.0)
        if self.evaluations % 2:
            yield FewStep(self.sde, self.evaluations, "heun")

    def _filters(self) -> Iterator[Settings]:
        """Of pc, two evaluations an iteration, where the SDE can be run with so few."""
        try:
            run = PC(self.sde, self.evaluations // 2)  # type: ignore[arg-type]
        except (ValueError, AttributeError):
            return
        yield Filtered("none", run, Preconditioner.identity(self.shape).to(self.device))
        yield Filtered("constant", run, [M.to(self.device) for M in constant(self.shape, run)])
        yield Filtered("schedule", run, [M.to(self.device) for M in schedule(self.target, run)])

    def _measure(self, reserved: int) -> None:
        """The level at which a start pays, of each law."""
        if self.spent + self.errors.most + reserved > self.allowed:
            return
        with contextlib.suppress(FloatingPointError):  # a network of no use at the highest level
            self.starts = {kind: self.errors.level(law, TOLERANCE) for kind, law in self.laws.items()}
        self.spent += self.errors.calls
        self.spend(self.errors.calls)

    def _starts(self) -> Iterator[Settings]:
        """From the level at which each law pays; unmeasured, at its largest standard deviation along a component."""
        plain = FewStep(self.sde, self.evaluations, order=min(2, self.evaluations))
        widest = float(self.priors["pca"].variance[:1].sum().sqrt())
        for eta in (0.0, 1.0):
            for kind, law in self.laws.items():
                level = self.starts[kind].sigma if kind in self.starts else widest
                yield replace(plain, eta=eta, start=law, sigma=self._within(level))

    def _refinements(self, best: FewStep) -> Iterator[Settings]:
        yield from self._noises_and_levels(best)
        if best.sampler in ("dpmpp", "ancestral"):
            for share in (0.5, 1.0):
                yield replace(best, eta=best.eta or 1.0, covariance=self.priors["pca"], share=share)
        if best.sampler == "dpmpp":
            yield replace(best, prior=self.priors["pca"])
        kinds: tuple[Ladder, ...] = ("karras", "snr", "time")
        ladders = {_shown(run.levels): run for run in (replace(best, ladder=kind) for kind in reversed(kinds))}
        yield from (run for levels, run in ladders.items() if levels != _shown(best.levels))
        if best.sampler == "dpmpp":
            orders = [order for order in (1, 2, 3) if order != best.order and order <= self.evaluations]
            yield from (replace(best, order=order) for order in orders)

    def _noises_and_levels(self, best: FewStep) -> Iterator[Settings]:
        if best.sampler in ("dpmpp", "ancestral"):
            yield from (replace(best, eta=eta) for eta in (0.0, 0.5, 1.0) if eta != best.eta)
        if best.sigma is not None:
            yield from (replace(best, sigma=self._within(factor * best.sigma)) for factor in (0.7, 1.4))

    def _within(self, level: float) -> float:
        """To two digits, so that a table can name it, and within what steps can come down from."""
        return float(f"{min(max(level, 5 * self.sde.sigma_min), 0.7 * self.sde.sigma_max):.2g}")

    def _best(self, count: int) -> list[FewStep]:
        ranked = (trial.settings for trial in sorted(self.trials.values(), key=lambda trial: trial.score))
        return [settings for settings in ranked if isinstance(settings, FewStep)][:count]

    def _try(self, candidates: Iterable[Settings], reserved: int) -> None:
        for settings in candidates:
            kept = reserved if self.trials else 0
            if settings.name not in self.trials and self.spent + settings.count + kept <= self.allowed:
                self.trials[settings.name] = self._judged(settings, self.seed)

    def _confirm(self, trial: Trial) -> None:
        if self.spent + trial.settings.count > self.allowed:
            return
        again = self._judged(trial.settings, self.seed + 1)
        both = (0.5 * (trial.distance + again.distance), 0.5 * (trial.spectrum_error + again.spectrum_error))
        self.trials[trial.name] = Trial(trial.name, trial.settings, *both, trial.to_flow, runs=2)

    def _judged(self, settings: Settings, seed: int) -> Trial:
        x = self._samples(settings, seed)
        flow = None
        if self.converged is not None and seed == self.seed and isinstance(settings, FewStep) and settings.follows_flow:
            flow = float((x - self.converged).square().mean().sqrt() / self.converged.std())
        return Trial(settings.name, settings, self.likeness.distance(x), self.likeness.spectrum_error(x), flow)

    def _samples(self, settings: Settings, seed: int) -> Tensor:
        parts = []
        for first in range(0, self.samples, self.batch):
            shape = (min(self.batch, self.samples - first), *self.shape)
            stream = NoiseStream(seed, first_sample=first, device=self.device)
            parts.append(settings.sample(self.score_fn, shape, stream, progress=False).to("cpu"))
        self.spent += settings.count
        self.spend(settings.count)
        return torch.cat(parts)


def _converged_count(evaluations: int) -> int:
    return max(20, 3 * evaluations)


def _shown(levels: Sequence[float]) -> tuple[str, ...]:
    """To six digits: two kinds of ladder are one for some SDEs, but for their rounding."""
    return tuple(f"{level:.6g}" for level in levels)


def _spread(images: Tensor, count: int) -> Tensor:
    """So many images, evenly spread over a set that may be sorted."""
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]
