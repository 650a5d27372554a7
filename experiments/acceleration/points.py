"""A point is one measurement to make; a row is a point with what was measured there. Rows lie in one file a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
COUNTS = (1000, 500, 330, 200, 142, 125, 111, 100, 66, 50, 33, 20, 10)
FEW, BETWEEN, MANY = COUNTS[7:], COUNTS[4:7], COUNTS[1:3]
SEEDS = (1, 2, 3)
ALPHAS = (1.5, 2.0, 3.0, 5.0, 10.0)
PAPER_ALPHA = 5.0
METHODS = ("plain", "tdas", "pds", "calibrated", "calibrated-tdas", "schedule")
MASKS = {"freq": (True, False), "space": (False, True), "both": (True, True)}
FIXED = ("tdas", "pds")
Variant = tuple[str, float, str, int, int]
"""Method, alpha, masks, iterations, seed of a `Point`."""


@dataclass(frozen=True)
class Point:
    """One run of a sampler.

    Attributes:
        data, family: which network.
        method: of METHODS.
        alpha: strength of the filters "tdas" and "pds", 0 where there is none to choose.
        masks: of MASKS, "-" where there is none to choose.
        iterations: of the run.
        seed: of its noise.
        samples: their number.
        images: training images that the filter was made from, 0 for all of them.
    """

    data: str
    family: str
    method: str
    alpha: float
    masks: str
    iterations: int
    seed: int
    samples: int
    images: int = 0

    @property
    def name(self) -> str:
        chosen = f"-{self.alpha:g}-{self.masks}" if self.method in FIXED else ""
        few = f"-of-{self.images}" if self.images else ""
        return f"{self.data}-{self.family}-{self.method}{chosen}{few}-{self.iterations}-{self.seed}"


def variants(methods: Iterable[str], alphas: Iterable[float], masks: Iterable[str]) -> Iterator[tuple[str, float, str]]:
    """Method, alpha and masks; the last two only where the method has them to choose."""
    alphas, masks = list(alphas), list(masks)
    for method in methods:
        if method in FIXED:
            yield from ((method, alpha, mask) for mask in masks for alpha in alphas)
        else:
            yield method, 0.0, "-"


def queue(
    methods: Sequence[str] = METHODS,
    iterations: Sequence[int] = COUNTS,
    seeds: Sequence[int] = SEEDS,
    alphas: Sequence[float] = (PAPER_ALPHA,),
    masks: Sequence[str] = ("both",),
) -> Iterator[Variant]:
    """All combinations, seed after seed."""
    for seed in seeds:
        for count in iterations:
            for method, alpha, mask in variants(methods, alphas, masks):
                yield method, alpha, mask, count, seed


def plan(ablation_at: int | None = None) -> Iterator[Variant]:
    """The whole curve of a network, what says most first: a queue that ends early has still measured something whole.
    Strength and masks are varied at one iteration count."""
    compared = ("plain", "tdas", "pds", "schedule")
    first, others = SEEDS[:1], SEEDS[1:]
    yield from queue(METHODS, FEW, first)
    yield from queue(["plain"], [1000, 200], first)
    yield from queue(compared[1:], [200], first)
    yield from queue(compared, FEW, others)
    yield from queue(["plain"], [1000, 200], others)
    if ablation_at:
        yield from queue(FIXED, [ablation_at], first, ALPHAS, list(MASKS))
    yield from queue(compared[1:], [200], others)
    yield from queue(compared, BETWEEN, first)
    yield from queue(["plain"], MANY, first)
    yield from queue(["plain", "schedule"], BETWEEN, others)
    yield from queue(["plain"], MANY, others)
    yield from queue(["tdas", "pds"], BETWEEN, others)
    yield from queue(compared[1:], MANY, first)
    yield from queue()


def short_plan() -> Iterator[Variant]:
    """The same for images that take longer: fewer counts come first, and every seed has its native one early."""
    compared, few = ("plain", "tdas", "pds", "schedule"), (100, 50, 33, 20)
    for seed in SEEDS:
        yield from queue(compared, few, [seed])
        yield from queue(["plain"], [1000, 200], [seed])
        if seed == SEEDS[0]:
            yield from queue(FIXED, [50], [seed], masks=["freq", "space"])
    yield from plan()
