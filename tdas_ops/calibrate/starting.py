"""`calibrate.start_level`: the noise level at which a run begins with a law of the data, from denoising errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tdas_ops import _arguments, _tables, ops, samplers
from tdas_ops._gaussian import Array
from tdas_ops.calibrate.mixture import Mixture
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.prior import Prior
from tdas_ops.samplers import ScoreFn
from tdas_ops.samplers._run import check_sde
from tdas_ops.sde import NoiseLevels

TOLERANCE = 0.02
"""In nats, by default."""
_RATIO = 1.25
_BEYOND = 1.0  # nats above the least bound at which lower levels are no longer tried
_FINER = 16
_FEWEST = 16
_DRAWS = 1_000_003  # before the first draw: those of a run with the same seed are others


@dataclass(frozen=True)
class StartLevel:
    """Where a start with a law of the data pays, and what it costs; nats are of one image.

    Attributes:
        sigma: the level to begin at.
        gain: by how much the bound on what the samples lose against the data falls, in nats, when a run begins at
            sigma with the law instead of at the highest level. The law with the larger gain is the better start.
        bias: what the start itself loses at sigma, at least, in nats: the divergence from the noised data, with the
            denoiser that is better at a level, the network or the law, in the place of the best possible.
        levels: what was measured, falling.
        network, prior: mean squared denoising errors a value, in squared units of x, at these levels.
        bound: the bound at these levels minus its least value, in nats.
        calls: evaluations of the network on a batch.
    """

    sigma: float
    gain: float
    bias: float
    levels: list[float]
    network: list[float]
    prior: list[float]
    bound: list[float]
    calls: int

    def table(self) -> str:
        """The measured levels as text."""
        rows = zip(self.levels, self.network, self.prior, self.bound, strict=True)
        head = ("level", "network", "prior", "nats above the least")
        return _tables.text(head, [[f"{figure:.3g}" for figure in row] for row in rows])


@torch.no_grad()
def start_level(
    score_fn: ScoreFn,
    sde: NoiseLevels,
    images: Tensor,
    prior: Prior | Mixture,
    *,
    tolerance: float = TOLERANCE,
    batch: int = 256,
    seed: int = 0,
) -> StartLevel:
    """The noise level at which a run with `start=prior` begins.

    What samples lose against the data is bounded by the divergence of the start from the noised data, plus what the
    network loses below. Both are integrals of excess denoising errors over levels, `E |D* - D|^2 d sigma / sigma^3`, of
    the law above the start and of the network below it; D*, the best denoiser, drops out of their difference, which
    held-out images show: `(|x0 - D_law|^2 - |x0 - D_network|^2) d sigma / sigma^3`. The bound is least where the two
    denoisers err alike. There a network that is better than the law at every level would start at the top; since few
    steps cover a short way better, the lowest level within `tolerance` of the least bound is taken.

    Levels fall from the highest by a factor of about 1.25 each, until the bound is one nat above its least.

    Args:
        score_fn: `(x, what the SDE tells it) -> score`.
        sde: `VE`, `VP`, `SubVP`, `Discrete`, or what `sde.NoiseLevels` describes.
        images: `[N >= 16, C, H, W]` in the units of x, on the device to work on: not those that the prior was made of,
            whose own components would denoise them too well, and best not those that the network was trained on. One or
            two hundred do.
        prior: the law of the start, which `FewStep(sde, N, start=prior, sigma=found.sigma)` takes with the result.
        tolerance: nats, see above; 0 for the least bound.
        batch: images denoised at once.
        seed: of the noise; the result is a function of it.

    Raises:
        ValueError, TypeError: too few images, non-finite ones or of another shape than the prior's, bad numbers; before
            the first evaluation. As a sampler, where the score function returns something else than a score.
        FloatingPointError: the network's denoised images are not finite at the highest level.

    Source: both integrals in Song et al., arXiv 2101.09258, theorem 1, and Kong et al., arXiv 2302.03792; that Gaussian
        starts save steps, Wang and Vastola, arXiv 2412.09726.
    """
    if not isinstance(prior, Prior | Mixture):
        raise TypeError(f"prior: got {type(prior).__name__}, expected a calibrate.Prior or Mixture")
    if not isinstance(images, Tensor):
        raise TypeError(f"images: got {type(images).__name__}, expected a tensor [N >= {_FEWEST}, C, H, W]")
    if images.dim() != 4 or len(images) < _FEWEST or not bool(images.isfinite().all()):
        raise ValueError(f"images: got shape {tuple(images.shape)}, expected [N >= {_FEWEST}, C, H, W], all finite")
    if prior.shape != tuple(images.shape[1:]):
        raise ValueError(f"prior: got shape {prior.shape}, expected {tuple(images.shape[1:])} as the images have it")
    expected = "a finite number that is not negative"
    if not 0 <= _arguments.number("tolerance", tolerance, expected) < math.inf:
        raise ValueError(f"tolerance: got {tolerance}, expected {expected}")
    errors = Errors(score_fn, sde, images, _arguments.whole("batch", batch, 1), _arguments.whole("seed", seed, 0))
    return errors.level(prior.to(images.device), tolerance)


class Errors:
    """Denoising errors of a network on held-out images, measured level by level as they are asked for.

    Attributes:
        levels: falling by a factor of about 1.25 each, from the highest of the SDE.
        calls: evaluations of the network on a batch so far.
        most: that there can be.
    """

    def __init__(
        self,
        score_fn: ScoreFn,
        sde: NoiseLevels,
        images: Tensor,
        batch: int,
        seed: int,
        spend: Callable[[int], object] = lambda calls: None,
    ) -> None:
        check_sde(sde, NoiseLevels, "VE, VP, SubVP, Discrete")
        self.score_fn, self.sde, self.images, self.batch, self.seed = score_fn, sde, images.float(), batch, seed
        high, low = sde.sigma_max, sde.sigma_min
        count = max(2, math.ceil(math.log(high / low) / math.log(_RATIO)) + 1)
        self.levels = [high, *(high * (low / high) ** (i / (count - 1)) for i in range(1, count - 1)), low]
        self.calls, self.most = 0, count * -(-len(images) // batch)
        self.spend = spend
        self._network: list[float] = []

    def level(self, prior: Prior | Mixture, tolerance: float) -> StartLevel:
        """As `start_level`, with a prior on the device of the images."""
        network: list[float] = []
        law: list[float] = []
        for i, sigma in enumerate(self.levels):
            error = self.network(i)
            if not math.isfinite(error):
                if i == 0:
                    raise FloatingPointError(f"score_fn: got denoised images that are not finite at level {sigma:g}")
                break
            network.append(error)
            law.append(self._error(i, prior.denoise))
            if not math.isfinite(law[-1]):
                raise FloatingPointError(f"prior: got denoised images that are not finite at level {sigma:g}")
            bound = self._bound(network, law)
            if bound[-1] > bound.min() + _BEYOND + tolerance:
                break
        levels = self.levels[: len(network)]
        at = int(np.flatnonzero(bound <= bound.min() + tolerance)[-1])
        return StartLevel(
            sigma=levels[-1] * (levels[0] / levels[-1]) ** (1 - at / max(len(bound) - 1, 1)),
            gain=-float(bound[at]),
            bias=float(np.diff(bound[: at + 1]).clip(0).sum()),
            levels=levels,
            network=network,
            prior=law,
            bound=(bound[::_FINER] - bound.min()).tolist(),
            calls=self.calls,
        )

    def _bound(self, network: Sequence[float], law: Sequence[float]) -> Array:
        """Against a start at the highest level, at levels `_FINER` times as close, the difference of the errors a
        straight line between those that are measured."""
        levels = np.array(self.levels[: len(network)])
        excess = np.subtract(law, network) * math.prod(self.images.shape[1:]) / levels**2
        places = np.arange((len(levels) - 1) * _FINER + 1) / _FINER
        density = np.interp(places, np.arange(len(levels)), excess)
        step = math.log(self.levels[0] / self.levels[1]) / _FINER
        return np.concatenate([[0.0], np.cumsum(0.5 * step * (density[1:] + density[:-1]))])

    def network(self, i: int) -> float:
        """The mean squared error of the network at a level."""
        while len(self._network) <= i:
            self._network.append(self._error(len(self._network), self._denoised))
        return self._network[i]

    def _denoised(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        self.spend(1)
        # A step of first order to 0 ends at the denoised image.
        return samplers.dpmpp(
            self.score_fn,
            x.shape,
            self.sde,
            noise=self._stream(0, 0),
            ladder=[sigma, 0.0],
            order=1,
            start=x,
            progress=False,
        )

    def _error(self, i: int, denoise: Callable[[Tensor, float], Tensor]) -> float:
        total, sigma = 0.0, self.levels[i]
        for first in range(0, len(self.images), self.batch):
            images = self.images[first : first + self.batch]
            white = Preconditioner.identity(tuple(images.shape[1:]), None).to(images.device)
            x = images + ops.noise(white, images.shape, self._stream(first, i), sigma)
            total += float((denoise(x, sigma) - images).double().square().sum())
        return total / self.images.numel()

    def _stream(self, first: int, i: int) -> NoiseStream:
        return NoiseStream(self.seed, first_sample=first, draw=_DRAWS + i, device=self.images.device)
