"""The Gaussian model of a run: what a sampler does to mean and variance of every frequency, as a scalar recursion.

The target is a stationary Gaussian field with the data's power spectrum and mean image. Its exact score is linear, and
a filter without a space mask is diagonal in frequency, so that the law of a run stays Gaussian and diagonal; only the
step sizes of the snr rule tie the frequencies together. `docs/calibration.md` derives every formula.

Variances are those of coefficients of the orthonormal DFT, in squared units of x: white noise of scale n has n^2 at
every frequency. Half spectra are `[C, H, W // 2 + 1]`, float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdas_ops.reference import full_spectrum
from tdas_ops.sde import SDE

Array = NDArray[Any]
Bounds = tuple[Array, Array]
Method = Literal["pds", "tdas"]

_NODES = 384
_GRID = 49
_REFINEMENTS = 36
_ROUNDS = 60
_SLACK = 0.01
_CONVERGED = 1e-7
_BOUNDS: dict[str, tuple[float, float]] = {"pds": (0.8, 1.6), "tdas": (0.01, 1.6)}


# The target


@dataclass(frozen=True)
class Target:
    """The law that samples should have: a stationary Gaussian field; made by `from_images` and its like.

    Attributes:
        shape: (C, H, W).
        variance: of every frequency, half spectrum.
        mean_power: |F mean|^2 of every frequency with the orthonormal F, half spectrum.
    """

    shape: tuple[int, int, int]
    variance: Tensor
    mean_power: Tensor

    @classmethod
    def from_spectrum(cls, variance: Tensor, mean: Tensor | None = None) -> Target:
        """From a power spectrum.

        Args:
            variance: of every coefficient of the orthonormal DFT, full spectrum `[C, H, W]`, even: v(k) = v(-k).
            mean: mean image `[C, H, W]`, by default 0.

        Raises:
            ValueError: wrong shapes, negative, non-finite or asymmetric variances.
        """
        _check_image("variance", variance)
        variance = variance.detach().to("cpu", torch.float64)
        mean = torch.zeros_like(variance) if mean is None else mean
        _check_image("mean", mean, tuple(variance.shape))
        mirrored = torch.roll(variance.flip(-2, -1), (1, 1), (-2, -1))
        low, high, gap = float(variance.min()), float(variance.max()), float((variance - mirrored).abs().max())
        if low < 0 or high <= 0:
            raise ValueError(f"variance: got values from {low:.4g} to {high:.4g}, expected some above 0, none below")
        if gap > 1e-6 * high:
            raise ValueError(f"variance: got a spectrum that misses v(k) = v(-k) by {gap:.3g}, expected an even one")
        channels, height, width = variance.shape
        spectrum = torch.fft.rfft2(mean.detach().to("cpu", torch.float64), norm="ortho")
        half = (0.5 * (variance + mirrored))[..., : width // 2 + 1].contiguous()
        return cls((channels, height, width), half, spectrum.abs().square())

    @classmethod
    def from_images(cls, images: Tensor | Iterable[Tensor]) -> Target:
        """From images in the units of x, any range: `[N, C, H, W]` or an iterable of such batches, two or more."""
        count, total, power = 0, torch.zeros(()), torch.zeros(())
        for batch in [images] if isinstance(images, Tensor) else images:
            if not isinstance(batch, Tensor) or batch.dim() != 4 or not batch.dtype.is_floating_point:
                got = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
                raise ValueError(f"images: got {got}, expected floating-point batches [N, C, H, W]")
            if count and batch.shape[1:] != total.shape:
                raise ValueError(f"images: got {tuple(batch.shape[1:])} after {tuple(total.shape)}, expected one size")
            for part in batch.detach().to("cpu", torch.float64).split(256):
                total = total + part.sum(0)
                power = power + torch.fft.fft2(part, norm="ortho").abs().square().sum(0)
            count += len(batch)
        if count < 2:
            raise ValueError(f"images: got {count}, expected at least two")
        mean = total / count
        variance = power / count - torch.fft.fft2(mean, norm="ortho").abs().square()
        return cls.from_spectrum(variance.clamp_min(0) * (count / (count - 1)), mean)

    @classmethod
    def from_statistics(cls, freq: Tensor, mean: Tensor | None = None, scale: float = 1.0) -> Target:
        """From the raw statistic f(k) of `Preconditioner.from_images`: `mean |F x|^2 = exp(f) - 1`, F unnormalised.

        Args:
            freq: f(k) of images in [0, 1], full spectrum `[C, H, W]`.
            mean: mean image in [0, 1], `[C, H, W]`. f alone does not tell mean from variance; without it the second
                moment serves as the variance of a field of mean 0.
            scale: x is `scale` times the image, up to a constant: 2 for x in [-1, 1].
        """
        _check_image("freq", freq)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: got {scale}, expected a finite number greater than 0")
        second = torch.expm1(freq.detach().to("cpu", torch.float64)) / math.prod(freq.shape[-2:])
        if mean is None:
            return cls.from_spectrum(scale**2 * second)
        _check_image("mean", mean, tuple(freq.shape))
        mean = mean.detach().to("cpu", torch.float64)
        variance = (second - torch.fft.fft2(mean, norm="ortho").abs().square()).clamp_min(0)
        return cls.from_spectrum(scale**2 * variance, scale * mean)

    @cached_property
    def statistic(self) -> Tensor:
        """f(k) as `Preconditioner.from_statistics` takes it, full spectrum `[C, H, W]`."""
        _, height, width = self.shape
        return full_spectrum(torch.log1p(height * width * (self.variance + self.mean_power)), width)

    @cached_property
    def field(self) -> Field:
        """All frequencies, flat."""
        _, _, width = self.shape
        twice = np.full(width // 2 + 1, 2.0)
        twice[[0, -1] if width % 2 == 0 else [0]] = 1.0
        weight = np.broadcast_to(twice, self.variance.shape).ravel()
        return Field(self.variance.numpy().ravel(), weight, weight * self.mean_power.numpy().ravel())


def _check_image(name: str, value: Tensor, shape: tuple[int, ...] | None = None) -> None:
    wrong = value.dim() != 3 or 0 in value.shape if shape is None else tuple(value.shape) != shape
    if wrong or not value.dtype.is_floating_point or not bool(value.isfinite().all()):
        raise ValueError(
            f"{name}: got {value.dtype} {tuple(value.shape)}, expected finite floating-point {shape or '[C, H, W]'}"
        )


@dataclass(frozen=True)
class Field:
    """Frequencies `[K]`: variance, number of frequencies of the full spectrum, power of the mean in all of these."""

    variance: Array
    weight: Array
    mean_power: Array

    @cached_property
    def has_mean(self) -> bool:
        return bool(self.mean_power.any())

    def condensed(self) -> Nodes:
        """A few hundred variances in place of all frequencies: what becomes of one depends on its variance alone."""
        values = self.variance.clip(1e-14 * self.variance.max())
        nodes = np.unique(values)
        if len(nodes) > _NODES:
            nodes = np.geomspace(nodes[0], nodes[-1], _NODES)
        left = np.searchsorted(nodes, values, side="right").clip(1, max(1, len(nodes) - 1)) - 1
        right = (left + 1).clip(max=len(nodes) - 1)
        gap = np.log(nodes[right] / nodes[left])
        share = np.divide(np.log(values / nodes[left]), gap, out=np.zeros_like(values), where=gap > 0)
        weight, power = (
            np.bincount(left, (1 - share) * amount, len(nodes)) + np.bincount(right, share * amount, len(nodes))
            for amount in (self.weight, self.mean_power)
        )
        return Nodes(nodes, weight, power, left, right, share)


@dataclass(frozen=True)
class Nodes(Field):
    """A condensed field, with the two nodes around each frequency and how far it lies towards the upper one."""

    left: Array
    right: Array
    share: Array

    def interpolated(self, values: Array) -> Array:
        """Positive values at the nodes `[..., nodes]`, at all frequencies `[..., K]`; logarithms are linear between."""
        logs = np.log(values)
        return np.exp((1 - self.share) * logs[..., self.left] + self.share * logs[..., self.right])


# The runs


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
    predictor: Literal["reverse_diffusion", "euler_maruyama"] | None = "reverse_diffusion"
    corrector_steps: int = 1
    end_time: float | None = None
    denoise: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.snr < math.inf:
            raise ValueError(f"snr: got {self.snr}, expected a finite number greater than 0")
        if self.predictor not in ("reverse_diffusion", "euler_maruyama", None):
            expected = "'reverse_diffusion', 'euler_maruyama' or None"
            raise ValueError(f"predictor: got {self.predictor!r}, expected {expected}")
        if self.corrector_steps < 0 or (self.predictor is None and self.corrector_steps == 0):
            got = f"{self.corrector_steps} with predictor {self.predictor!r}"
            raise ValueError(f"corrector_steps: got {got}, expected at least one step")
        self.sde.levels(self.iterations, self.end_time)

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
            made += [Update(*marginal, snr=self.snr, alpha=level.alpha)] * self.corrector_steps
            if self.predictor is not None:
                a, b, n = level.reverse if self.predictor == "reverse_diffusion" else level.euler
                made.append(Update(*marginal, a, b, n))
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


# The recursion


class Filter(Protocol):
    """What the recursion reads of a `Preconditioner`."""

    shape: tuple[int, int, int]
    method: Any
    freq: Tensor | None
    space: Tensor | None
    skew: Tensor | None


@dataclass(frozen=True)
class Gains:
    """A filter at every frequency, `[..., K]`: what it makes of the variance of noise, and D."""

    noise: Array
    drift: Array

    @classmethod
    def of_mask(cls, R: Array, method: str) -> Gains:
        """Of a frequency mask R `[..., K]`."""
        return cls(R**2, R**2 if method == "pds" else np.ones_like(R))

    @classmethod
    def of_filter(cls, M: Filter, target: Target) -> Gains:
        """Of a filter; a space mask must be constant, since another one mixes frequencies.

        Raises:
            ValueError: a filter without a method, of another shape than the target, or with a space mask that varies.
        """
        if tuple(M.shape) != target.shape:
            raise ValueError(f"M: got shape {tuple(M.shape)}, expected {target.shape} as the target has it")
        if M.method not in ("pds", "tdas"):
            raise ValueError(f"M: got method {M.method!r}, expected 'pds' or 'tdas'")
        R = torch.ones_like(target.variance) if M.freq is None else M.freq
        if M.space is not None:
            low, high = float(M.space.min()), float(M.space.max())
            if high - low > 1e-9 * high:
                raise ValueError(
                    f"M: got a space mask from {low:.4g} to {high:.4g}, expected none or a constant one: others mix "
                    "frequencies, which the prediction treats one by one"
                )
            R = high * R
        gains = cls.of_mask(R.numpy().ravel(), M.method)
        return gains if M.skew is None else cls(gains.noise, gains.drift + 1j * M.skew.numpy().ravel())


@dataclass
class Law:
    """The law of a state, `[..., K]`: variance, and mean over the mean of the target."""

    variance: Array
    mean: Array

    @classmethod
    def start(cls, gains: Gains, scale: float) -> Law:
        return cls(scale**2 * gains.noise, np.zeros_like(gains.drift))


def marginal(field: Field, update: Update) -> Array:
    """The variance `[K]` of `mean_scale x(0) + std z`: the score is minus the distance from the mean over it."""
    return update.mean_scale**2 * field.variance + update.std**2


def mean_norm(field: Field, variance: Array, mean: Array | None = None) -> float:
    """E |y| of a Gaussian field with these variances and these multiples of the target's mean, `[K]`.

    |y|^2 is taken as a gamma variable of its own mean and variance (Welch, Satterthwaite): exact for white fields of
    mean 0, and for all in the limit of many frequencies, where it is the root of the mean of |y|^2.
    """
    weighted = field.weight * variance
    first, second = float(weighted.sum()), float(weighted @ variance)
    if mean is not None and field.has_mean:
        power = np.abs(mean) ** 2 * field.mean_power
        first, second = first + float(power.sum()), second + 2 * float(variance @ power)
    if not math.isfinite(second) or second == 0:
        return math.sqrt(first)
    shape = first * (first / second) / 2
    return math.sqrt(first / shape) * math.exp(math.lgamma(shape + 0.5) - math.lgamma(shape))


def snr_step(field: Field, law: Law, gains: Gains, update: Update, noise_norm: float) -> float:
    """eta of the snr rule: `2 alpha (snr E|M z| / E|D score|)^2`."""
    assert update.snr is not None
    gain = np.abs(gains.drift) / marginal(field, update)
    drift_norm = mean_norm(field, gain * gain * law.variance, gain * (law.mean - update.mean_scale))
    return 2 * update.alpha * (update.snr * noise_norm / drift_norm) ** 2


def advance(field: Field, law: Law, gains: Gains, update: Update, eta: float | None = None) -> tuple[Law, Law]:
    """The laws of x_mean and of x after an update; `eta` stands for b, and sqrt(2 eta) for n, where it is given."""
    b, n2 = (update.b, update.n**2) if eta is None else (eta, 2 * eta)
    drift = gains.drift if update.filtered else 1.0
    pull = drift * (b / marginal(field, update))
    factor = 1 + drift * update.a - pull
    power = factor * factor if np.isrealobj(factor) else np.abs(factor) ** 2
    clean = Law(power * law.variance, factor * law.mean + update.mean_scale * pull if field.has_mean else law.mean)
    return clean, Law(clean.variance + n2 * gains.noise, clean.mean)


def advance_all(
    field: Field, law: Law, gains: Gains, updates: Sequence[Update], etas: Sequence[float] | None = None
) -> tuple[Law, Law, list[float]]:
    """The laws of x_mean and of x after some updates, and eta of each with the snr rule; `etas` imposes them."""
    clean = law
    used: list[float] = []
    with np.errstate(over="ignore", invalid="ignore"):
        noise_norm = mean_norm(field, gains.noise) if etas is None else math.nan
        for update in updates:
            eta = None
            if update.snr is not None:
                eta = snr_step(field, law, gains, update, noise_norm) if etas is None else etas[len(used)]
                used.append(eta)
            clean, law = advance(field, law, gains, update, eta)
    return clean, law, used


@dataclass
class Trace:
    """A whole run: the law of the samples, eta of every update with the snr rule, and `off_ladder` before iterations.

    off_ladder: RMS over frequencies of log(variance / variance of the noised target) of what the network is fed first.
    """

    law: Law
    etas: list[float]
    off_ladder: list[float]


def off_ladder(field: Field, law: Law, wanted: Array) -> float:
    """RMS over frequencies of log(variance / wanted)."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        squares = np.log(law.variance / wanted) ** 2
        return math.sqrt(squares @ field.weight / field.weight.sum())


def by_iteration(run: Run) -> list[list[Update]]:
    return [list(group) for _, group in groupby(run.updates, lambda update: update.iteration)]


def trace(field: Field, gains: Sequence[Gains], run: Run) -> Trace:
    """Follows a run; `gains` has one element, or one an iteration."""
    law = clean = Law.start(gains[0], run.start_scale)
    etas: list[float] = []
    off: list[float] = []
    for i, updates in enumerate(by_iteration(run)):
        off.append(off_ladder(field, law, marginal(field, updates[0])))
        clean, law, used = advance_all(field, law, gains[i if len(gains) > 1 else 0], updates)
        etas += used
    return Trace(clean if run.denoise else law, etas, off)


def distance(field: Field, law: Law, variance: Array | None = None, mean: float | None = 1.0) -> float:
    """The Frechet distance of a law and the target over the target's total variance; inf where it diverged.

    Both are Gaussian and diagonal in frequency: `sum (sqrt v - sqrt lambda)^2 + |mean error|^2`. `variance` stands for
    that of the target; without `mean`, that of the target in multiples of itself, variances alone are compared.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = field.variance if variance is None else variance
        result = float((np.sqrt(law.variance) - np.sqrt(wanted)) ** 2 @ field.weight)
        if mean is not None:
            result += float(np.abs(law.mean - mean) ** 2 @ field.mean_power)
    result /= float(wanted @ field.weight)
    return result if math.isfinite(result) else math.inf


# Masks for which the recursion ends, or stays, where it should


def _solved(variance: Callable[[Array], Array], wanted: Array, method: Method, bounds: tuple[Array, Array]) -> Array:
    """R `[K]` within bounds for which `variance(R)` is the wanted one, or as near to it as can be.

    "tdas" filters nothing but noise: there the variance is affine in R^2. For "pds" it falls and then rises with R; of
    several roots the one nearest to 1 is taken, and among errors that differ by less than 1 % the R nearest to 1.
    """
    low, high = bounds
    if method == "tdas":
        none, one = variance(np.zeros_like(wanted)), variance(np.ones_like(wanted))
        missing = wanted - none  # R is 1 where noise does not reach the result, as in a last step without a corrector
        R2 = np.divide(missing, one - none, out=np.ones_like(wanted), where=one > none)
        return np.asarray(np.sqrt(R2.clip(low**2, high**2)))

    def error(log_R: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nan_to_num(np.log(variance(np.exp(log_R)) / wanted), nan=np.inf)

    def cost(log_R: Array) -> Array:
        return np.asarray(np.abs(error(log_R)) + _SLACK * np.abs(log_R))

    grid = np.log(low) + np.linspace(0, 1, _GRID)[:, None] * np.log(high / low)
    values = error(grid)
    crossing = np.sign(values[:-1]) != np.sign(values[1:])
    root = np.where(crossing, np.abs(grid[:-1] + grid[1:]), np.inf).argmin(0)
    least = (np.abs(values) + _SLACK * np.abs(grid)).argmin(0)
    found, columns = crossing.any(0), np.arange(grid.shape[1])
    left = grid[np.where(found, root, least - 1).clip(0), columns]
    right = grid[np.where(found, root + 1, least + 1).clip(max=_GRID - 1), columns]
    return np.exp(_golden_section(cost, left, right))


def _golden_section(cost: Callable[[Array], Array], left: Array, right: Array) -> Array:
    """The minimum of a function with one minimum between left and right, element by element."""
    golden = (math.sqrt(5) - 1) / 2
    a, b = right - golden * (right - left), left + golden * (right - left)
    cost_a, cost_b = cost(a), cost(b)
    for _ in range(_REFINEMENTS):
        lower = cost_a < cost_b
        left, right = np.where(lower, left, a), np.where(lower, b, right)
        new = np.where(lower, right - golden * (right - left), left + golden * (right - left))
        cost_new = cost(new)
        a, b = np.where(lower, new, b), np.where(lower, a, new)
        cost_a, cost_b = np.where(lower, cost_new, cost_b), np.where(lower, cost_a, cost_new)
    return np.asarray(0.5 * (left + right))


def furthest_drift(field: Field, updates: Sequence[Update]) -> Array:
    """The largest D, `[K]`, with which no predictor goes beyond the denoised image: `D (b / variance - a) <= 1`."""
    pulls = [u.b / marginal(field, u) - u.a for u in updates if u.snr is None and u.filtered]
    return np.asarray(1 / np.max([np.full_like(field.variance, 1e-12), *pulls], axis=0))


def _bounds(field: Field, updates: Sequence[Update], method: Method, bounds: tuple[float, float]) -> Bounds:
    """Bounds of R at every frequency; for "pds" `furthest_drift` is another one."""
    low, high = (np.full_like(field.variance, bound) for bound in bounds)
    if method == "pds":
        high = np.minimum(high, np.sqrt(furthest_drift(field, updates)))
    return low, np.maximum(low, high)


@dataclass(frozen=True)
class _Part:
    """Some updates of a run, from a law or (None) from the start point, as a function of the mask R."""

    field: Field
    run: Run
    method: Method
    updates: Sequence[Update]
    begin: Law | None
    last: bool

    def laws(self, R: Array, etas: Sequence[float] | None = None) -> tuple[Law, Law, list[float]]:
        """The laws before and after, and the step sizes of the snr rule."""
        gains = Gains.of_mask(R, self.method)
        before = Law.start(gains, self.run.start_scale) if self.begin is None else self.begin
        clean, law, used = advance_all(self.field, before, gains, self.updates, etas)
        return before, clean if self.last and self.run.denoise else law, used

    def solve(
        self, wanted: Array, bounds: tuple[float, float], start_wanted: Array | None = None
    ) -> tuple[Array, bool]:
        """R for which the variance after is the wanted one, and whether step sizes and R came to agree.

        The step sizes of the snr rule depend on R at all frequencies: R for given step sizes and step sizes for given R
        follow each other until nothing changes; of all on the way, R = 1 included, the R of the least Frechet distance
        is returned. With `start_wanted`, R makes the geometric mean of the variances before and after that of the two
        wanted ones.
        """
        limits = _bounds(self.field, self.updates, self.method, bounds)
        wanted = wanted if start_wanted is None else np.sqrt(start_wanted * wanted)

        def law(R: Array, etas: Sequence[float] | None = None) -> tuple[Law, list[float]]:
            before, after, used = self.laws(R, etas)
            both = after.variance if start_wanted is None else np.sqrt(before.variance * after.variance)
            return Law(both, after.mean), used

        R = best = np.ones_like(wanted).clip(*limits)
        least, etas = math.inf, [0.0]
        for _ in range(_ROUNDS):
            reached, used = law(R)
            error = distance(self.field, reached, wanted, mean=1.0 if self.last else None)
            if error < least:
                least, best = error, R
            if len(etas) == len(used) and all(
                np.allclose(a, b, _CONVERGED, 0) for a, b in zip(etas, used, strict=True)
            ):
                return best, True
            etas = used
            R = _solved(lambda R, etas=etas: law(R, etas)[0].variance, wanted, self.method, limits)  # type: ignore[misc]
        return best, False


def calibrated_mask(
    target: Target, run: Run, method: Method, bounds: tuple[float, float] | None
) -> tuple[Tensor, dict[str, Any]]:
    """R, half spectrum, for which a run ends at the variance of the target; and plain values about it."""
    bounds = _checked_bounds(method, bounds)
    nodes = target.field.condensed()
    R, settled = _Part(nodes, run, method, run.updates, None, last=True).solve(nodes.variance, bounds)
    reached = distance(nodes, trace(nodes, [Gains.of_mask(R, method)], run).law)
    about = {"iterations": run.count, "bounds": list(bounds), "distance": reached, "settled": settled}
    return _half_spectrum(nodes.interpolated(R), target), about


def scheduled_masks(
    target: Target, run: Run, method: Method, bounds: tuple[float, float] | None
) -> tuple[Tensor, list[dict[str, Any]]]:
    """R of every iteration, `[iterations, C, H, W // 2 + 1]`, that brings the variance to that of the next level.

    The last iteration aims at the target itself. The first filter also makes the start point: it leaves the start and
    the second level off by one factor, in opposite directions.
    """
    bounds = _checked_bounds(method, bounds)
    nodes = target.field.condensed()
    parts = by_iteration(run)
    ladder = [marginal(nodes, updates[0]) for updates in parts] + [nodes.variance]
    masks, about, law = [], [], None
    for i, updates in enumerate(parts):
        part = _Part(nodes, run, method, updates, law, last=i + 1 == run.count)
        R, settled = part.solve(ladder[i + 1], bounds, ladder[0] if i == 0 else None)
        _, law, _ = part.laws(R)
        masks.append(R)
        facts = {"iteration": i, "iterations": run.count, "bounds": list(bounds), "settled": settled}
        about.append({**facts, "off_ladder": off_ladder(nodes, law, ladder[i + 1])})
    return _half_spectrum(nodes.interpolated(np.stack(masks)), target), about


def _checked_bounds(method: Method, bounds: tuple[float, float] | None) -> tuple[float, float]:
    if method not in _BOUNDS:
        raise ValueError(f"method: got {method!r}, expected 'pds' or 'tdas'")
    if bounds is None:
        return _BOUNDS[method]
    if len(bounds) != 2 or not 0 < bounds[0] <= 1 <= bounds[1] < math.inf:
        raise ValueError(f"bounds: got {tuple(bounds)}, expected (low, high) with 0 < low <= 1 <= high")
    return float(bounds[0]), float(bounds[1])


def _half_spectrum(values: Array, target: Target) -> Tensor:
    return torch.from_numpy(values).reshape(*values.shape[:-1], *target.variance.shape)
