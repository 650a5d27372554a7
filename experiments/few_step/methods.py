"""The methods that are compared: the predictor-corrector sampler with filters, samplers of today, and these with what
is known of the data. Each beside its null hypotheses: a filter without data, a start without covariance or mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from experiments.few_step.networks import IMAGES, Network, spread
from tdas_ops import NoiseStream, calibrate
from tdas_ops.calibrate import FewStep, Filtered, Mixture, Prior
from tdas_ops.calibrate.starting import TOLERANCE, Errors
from tdas_ops.samplers import ScoreFn

Settings = Callable[[Network, int], FewStep | Filtered]

# Where the run begins that skips the levels above, in the units of x; of `calibrate.tune`'s order of magnitude.
STARTS = {"digits-embedded": 5.0, "digits-ncsnpp": 2.0, "digits-ncsnv2": 2.0, "digits-ddpmpp": 2.0}
CHURN = 10.0


@cache
def prior(network: Network, basis: str) -> Prior:
    """A law of the network's examples."""
    return Prior.from_images(network.examples, basis)  # type: ignore[arg-type]


@cache
def start_law(network: Network, name: str) -> Prior | Mixture:
    """What a run starts from: "examples" is one of them and white noise, the null hypothesis of "mixture"."""
    if name == "mixture":
        return Mixture.from_images(network.examples)
    if name != "examples":
        return prior(network, name)
    x = network.examples
    none = x.new_zeros(len(x), 0)
    return Mixture(torch.full((len(x),), 1 / len(x)), x, none, x.new_zeros(len(x), 0, 0), x[:0])


@cache
def errors(network: Network) -> Errors:
    """Its denoising errors on 256 images of held-out half A."""
    return Errors(network.score, network.sde, network.encode(spread(network.data.half_a, 256)), 256, 0)


def level(network: Network, law: str) -> float:
    """Where a start with a law pays, by `calibrate.start_level`."""
    return errors(network).level(start_law(network, law), TOLERANCE).sigma


@cache
def tuned(network: Network, evaluations: int) -> FewStep | Filtered:
    """What the search picks: the examples make its priors, as many images of held-out half A judge."""
    judges = network.encode(spread(network.data.half_a, IMAGES))
    known = spread(network.examples, len(judges))
    images = torch.stack([known, judges], dim=1).flatten(0, 1)
    return calibrate.tune(network.score, network.sde, images, evaluations, progress=False).settings


def few(start: str = "", rule: str = "", covariance: str = "", gaussian: str = "", **settings: object) -> Settings:
    """Settings with priors by the names of their bases; `start` "white" is noise alone. Its level is that of STARTS, or
    by the rule that of a law."""

    def make(network: Network, evaluations: int) -> FewStep:
        given: dict[str, object] = dict(settings)
        if start:
            given["sigma"] = level(network, rule) if rule else STARTS[network.name]
            given["start"] = None if start == "white" else start_law(network, start)
        if covariance:
            given["covariance"] = prior(network, covariance)
        if gaussian:
            given["prior"] = prior(network, gaussian)
        return FewStep(network.sde, evaluations, **given)  # type: ignore[arg-type]

    return make


FEW: dict[str, Settings] = {
    "ancestral": few(sampler="ancestral", eta=1.0),
    "ancestral, PCA covariance": few(sampler="ancestral", eta=1.0, covariance="pca"),
    "Heun": few(sampler="heun"),
    "Heun, churn": few(sampler="heun", s_churn=CHURN),
    "DPM-Solver++ 2M": few(),
    "DPM-Solver++ 3M": few(order=3),
    "DPM-Solver++ 2M SDE": few(eta=1.0),
    "2M, Gaussian part exact, PCA": few(gaussian="pca"),
    "2M, Gaussian part exact, Fourier": few(gaussian="fourier"),
    "2M SDE, half PCA covariance": few(eta=1.0, covariance="pca", share=0.5),
    "2M from white noise": few(start="white"),
    "2M from mean and white noise": few(start="mean"),
    "2M from a Gaussian, PCA": few(start="pca"),
    "2M from a Gaussian, Fourier": few(start="fourier"),
    "2M SDE from white noise": few(start="white", eta=1.0),
    "2M SDE from mean and white noise": few(start="mean", eta=1.0),
    "2M SDE from a Gaussian, PCA": few(start="pca", eta=1.0),
    "2M SDE from a Gaussian, Fourier": few(start="fourier", eta=1.0),
    "2M SDE from a Gaussian, half covariance, PCA": few(start="pca", eta=1.0, covariance="pca", share=0.5),
    "2M, mean image, level by rule": few(start="mean", rule="mean"),
    "2M, Gaussian, PCA, level by rule": few(start="pca", rule="pca"),
    "2M, mixture, level by rule": few(start="mixture", rule="mixture"),
    "2M SDE, mixture, level by rule": few(start="mixture", rule="mixture", eta=1.0),
    "2M, noised examples, level of the mixture": few(start="examples", rule="mixture"),
    "tuned": tuned,
}
FILTERS = {f"pc {name}": name for name in ("plain", "constant", "tdas", "pds", "schedule")}
METHODS = (*FILTERS, *FEW)
COPIES = ("2M, noised examples, level of the mixture",)  # no contest for the best: what it draws are its examples
# Methods on the plots: name, colour, style.
SHOWN = (
    ("pc plain", "#9a9a9a", "o-"),
    ("pc constant", "#b08d57", "o-"),
    ("pc tdas", "#d9822b", "o-"),
    ("pc schedule", "#c0392b", "o-"),
    ("DPM-Solver++ 2M", "#5b8fd9", "s-"),
    ("DPM-Solver++ 2M SDE", "#1f4e9e", "s-"),
    ("2M SDE from mean and white noise", "#7fbf7f", "^--"),
    ("2M SDE from a Gaussian, PCA", "#1e7d32", "^-"),
    ("2M from mean and white noise", "#b5cf6b", "v--"),
    ("2M from a Gaussian, PCA", "#66a61e", "v-"),
    ("2M, mixture, level by rule", "#8e44ad", "v-"),
    ("tuned", "#000000", "*"),
)


class Counted:
    """A score function that counts its calls."""

    def __init__(self, score: ScoreFn) -> None:
        self.score, self.calls = score, 0

    def __call__(self, x: Tensor, level: Tensor) -> Tensor:
        self.calls += 1
        return self.score(x, level)


def possible(name: str, network: Network, evaluations: int) -> bool:
    """Whether the method can do with exactly so many evaluations."""
    if name in FILTERS:
        iterations, rest = divmod(evaluations - network.more_evaluations, network.evaluations_an_iteration)
        return rest == 0 and iterations >= network.fewest and iterations % network.multiple == 0
    if network.name not in STARTS and "from" in name:
        return False
    return evaluations % 2 == 1 if name.startswith("Heun") else True


def sample(
    name: str, network: Network, score: ScoreFn, shape: Sequence[int], evaluations: int, noise: NoiseStream
) -> Tensor:
    """Samples in the units of x."""
    if name in FILTERS:
        iterations = (evaluations - network.more_evaluations) // network.evaluations_an_iteration
        return network.pc(score, _filters(network, FILTERS[name], iterations), tuple(shape), iterations, noise)
    return FEW[name](network, evaluations).sample(score, shape, noise, progress=False)


@cache
def _filters(network: Network, name: str, iterations: int) -> object:
    if name == "constant":
        return calibrate.constant(network.data.shape, network.run(iterations))
    return network.filters(name, iterations)
