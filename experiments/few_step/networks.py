"""The score networks that are measured, each with its data: images to make priors and filters from, held-out ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from experiments.acceleration.data import DATASETS, Dataset
from experiments.acceleration.evaluate import digest_of
from experiments.acceleration.families import (
    FAMILIES,
    LANGEVIN_STEPS,
    WEIGHTS,
    DDPMpp,
    NCSNpp,
    NCSNv2,
    load_network,
    weights_of,
)
from experiments.acceleration.filters import Filters
from experiments.acceleration.ladders import for_data
from tdas_ops import NoiseStream, calibrate, models, samplers, sde
from tdas_ops.calibrate import Run
from tdas_ops.samplers import ScoreFn

IMAGES = 512  # of the training images: what a user has at hand to make a prior from


@dataclass(frozen=True, eq=False)
class Network:
    """A score network and what it is judged by.

    Attributes:
        name: of its rows.
        data: its images in [0, 1].
        score: `(x, level) -> score`.
        sde: what it was trained for.
        weights: digest of the file.
        encode, decode: images in [0, 1] to x and back.
        filters: `(method, iterations) -> M` of the sampler it was published with: plain, tdas, pds or schedule.
        run: `iterations -> Run`, that sampler as filters are made for it.
        pc: `(score, M, shape, iterations, noise) -> x`, that sampler.
        evaluations_an_iteration, more_evaluations: of that sampler; those of the last denoising.
        fewest, multiple: iterations that it can do with, and what they are a multiple of.
        native: evaluations of it as published.
    """

    name: str
    data: Dataset
    score: ScoreFn
    sde: sde.VE | sde.VP
    weights: str
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    filters: Callable[[str, int], object]
    run: Callable[[int], Run]
    pc: Callable[[ScoreFn, object, tuple[int, ...], int, NoiseStream], Tensor]
    evaluations_an_iteration: int
    fewest: int
    native: int
    more_evaluations: int = 0
    multiple: int = 1

    @cached_property
    def examples(self) -> Tensor:
        """The images of priors, in the units of x."""
        return self.encode(spread(self.data.train, IMAGES))


def spread(images: Tensor, count: int) -> Tensor:
    """So many images, evenly spread over a set that is sorted by class."""
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]


def embedded(package: Path) -> Network:
    """The digit model of the package."""
    model = models.load("digits")

    def pc(score: ScoreFn, M: object, shape: tuple[int, ...], iterations: int, noise: NoiseStream) -> Tensor:
        settings = {"noise": noise, "iterations": iterations, "snr": model.snr, "norm": "batch", "progress": False}
        return samplers.pc(score, shape, model.sde, M, **settings)  # type: ignore[arg-type]

    return Network(
        name="digits-embedded",
        data=DATASETS["digits"](package),
        score=model.score,
        sde=model.sde,
        weights=digest_of(Path(models.__file__).parent / "digits" / "weights.safetensors"),
        encode=lambda images: images,
        decode=lambda x: x,
        filters=lambda method, iterations: model.filters(method, iterations),  # type: ignore[arg-type]
        run=lambda iterations: calibrate.PC(model.sde, iterations, snr=model.snr),
        pc=pc,
        evaluations_an_iteration=2,
        fewest=2,
        native=2 * model.sde.native_iterations,
    )


def family(name: str, dataset: str, folder: Path, weights: Path = WEIGHTS) -> Network:
    """A network of `experiments.acceleration`: its published parametrisation, and the papers' filters with alpha 5."""
    data = DATASETS[dataset](folder)
    chosen = for_data(FAMILIES[name], data)
    assert isinstance(chosen, NCSNpp | NCSNv2 | DDPMpp)
    file = weights_of(f"{data.name}-{name}", weights)
    network, _ = load_network(file)
    score, filters = chosen.score(network), Filters(data, chosen)
    each, more = (2, 0) if isinstance(chosen, NCSNpp) else (1, int(isinstance(chosen, NCSNv2)))
    return Network(
        name=f"{data.name}-{name}",
        data=data,
        score=lambda x, level: score(x.contiguous(memory_format=torch.channels_last), level),
        sde=sde.VE(chosen.sigma_min, chosen.sigma_max) if isinstance(chosen, NCSNv2) else chosen.sde,
        weights=digest_of(file),
        encode=chosen.encode,
        decode=chosen.decode,
        filters=lambda method, iterations: filters(method, 5.0, "both", iterations),
        run=chosen.run,
        pc=lambda score, M, shape, iterations, noise: chosen.sample(score, shape, M, iterations, noise),
        evaluations_an_iteration=each,
        fewest=chosen.fewest,
        native=each * chosen.native + more,
        more_evaluations=more,
        multiple=LANGEVIN_STEPS if isinstance(chosen, NCSNv2) else 1,
    )
