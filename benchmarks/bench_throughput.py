"""The groups of the other files under pytest-benchmark, to track throughput over commits.

    pytest benchmarks -k "step and LSUN and cpp"                        its table: a group of contenders on one input
    pytest benchmarks -k "update and cpp" --benchmark-autosave          keeps a run
    pytest benchmarks -k "update and cpp" --benchmark-compare           beside the last one that was kept

pytest-benchmark times one contender after the other; ratios between contenders are what `benchmarks.run` is for, which
times them in turns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

from benchmarks import bench_floor, bench_scaling, bench_update, measure

WHO = ("cpp", "reference", "best torch", "published")
GROUPS = dict(chain.from_iterable(module.groups() for module in (bench_update, bench_scaling, bench_floor)))


@functools.lru_cache(maxsize=1)
def group_of(name: str) -> measure.Group | list[measure.Row]:
    """The contenders of a group share its input, which goes when the next group comes."""
    return GROUPS[name]()


@pytest.mark.filterwarnings("ignore:M. got a 'pds' filter:RuntimeWarning")  # these masks were made for no data
@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", GROUPS)
def test_throughput(benchmark: Callable[..., object], name: str, who: str) -> None:
    """Elements a second of one op, after its result was compared with float64."""
    group = group_of(name)
    contender: Any = group.contenders.get(who, "it takes no part") if isinstance(group, measure.Group) else "no time"
    if isinstance(contender, str):
        pytest.skip(f"{who}: {contender}")
    with contender.setting():
        if contender.check is not None:
            contender.check()
        benchmark.group = name  # type: ignore[attr-defined]
        benchmark.extra_info |= {"path": contender.path, "elements": group.elements}  # type: ignore[attr-defined]
        benchmark(contender.run)
