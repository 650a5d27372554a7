"""Which points are measured, in which order: what says most comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from experiments.photographs.data import SIZES
from experiments.photographs.methods import METHODS, possible

RESULTS = Path(__file__).with_name("results")
SAMPLES = {64: 256, 256: 8, 1024: 1}
COUNTS = (4, 5, 6, 8, 10, 15, 20, 30, 50)
NATIVE = 200
REAL, REAL_SEEDS = ("photographs of training", "held-out photographs"), (1, 2, 3, 4, 5, 6)
MAIN = (
    "pc plain",
    "pc constant",
    "pc tdas",
    "pc pds",
    "pc schedule",
    "DPM-Solver++ 2M",
    "DPM-Solver++ 2M SDE",
    "2M from mean colour and white noise",
    "2M from the colour spectrum",
    "2M SDE from the colour spectrum",
)
KNOWING = (
    "pc plain",
    "pc constant",
    "pc tdas",
    "pc schedule",
    "DPM-Solver++ 2M",
    "DPM-Solver++ 2M SDE",
    "2M from the colour spectrum",
    "2M SDE from the colour spectrum",
)
Point = tuple[int, str, str, int, int]


def plan(sizes: Sequence[int] = SIZES) -> Iterator[Point]:
    """Size, sight, method, evaluations, seed."""
    found = dict.fromkeys(point for size in sizes for point in _of(size))
    yield from found


def _of(size: int) -> Iterator[Point]:
    yield from ((size, "-", name, 0, seed) for name in REAL for seed in REAL_SEEDS)
    today = tuple(name for name in MAIN if not name.startswith("pc"))
    blocks: list[tuple[str, Sequence[str], Sequence[int]]] = [
        ("local", MAIN, (8,)),
        ("whole", KNOWING, (8,)),
        ("local", MAIN, (20,)),
        ("local", today, (4,)),
        ("whole", KNOWING, (20,)),
        ("local", tuple(METHODS), (8, 5)),
        ("local", MAIN, (50,)),
        ("local", ("pc plain",), (NATIVE,)),
        ("whole", KNOWING, (50, 4)),
        ("local", today, (6, 10, 15, 30)),
        ("local", tuple(METHODS), (4, 20, 15)),
        ("whole", KNOWING, (10, 6, 30, 5)),
        ("local", tuple(METHODS), COUNTS),
    ]
    for sight, methods, counts in blocks:
        if size > 64 or sight == "local":  # at the size of the training patches both are the same
            for count, name in product(counts, methods):
                if possible(name, count):
                    yield size, sight, name, count, 1
