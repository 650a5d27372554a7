"""What all benchmarks share: the repository root on the path, the fixture that measures, and the rows of a run."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import measure, report  # noqa: E402
from benchmarks.circumstances import circumstances, instruction_set  # noqa: E402

ROWS = pytest.StashKey[list[dict[str, Any]]]()
RESULTS = ROOT / "benchmarks" / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", action="store_true", help=f"write the rows to {RESULTS.relative_to(ROOT)}/")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@functools.cache
def _measured(build: Callable[..., measure.Group], *case: Any) -> Any:
    return measure.measured(build(*case))


@pytest.fixture
def rows(pytestconfig: pytest.Config) -> list[dict[str, Any]]:
    """The rows of this run, in the order in which they were measured."""
    return pytestconfig.stash[ROWS]


@pytest.fixture
def row(benchmark: Any, rows: list[dict[str, Any]]) -> Callable[..., None]:
    """`row(who, build, *case)` reports one contender of the group `build(*case)`.

    The first contender asked for has the whole group timed, in turns; pytest-benchmark's own loop would time one
    function after the other, so it is handed the samples instead.
    """

    def report_row(who: str, build: Callable[..., measure.Group], *case: Any) -> None:
        table, samples = _measured(build, *case)
        rows.append(table[who])
        if "obstacle" in table[who]:
            benchmark.skipped = True
            pytest.skip(table[who]["obstacle"])
        benchmark.group = " ".join(map(str, case))
        benchmark.extra_info |= table[who] | {"circumstances": _circumstances()}
        benchmark._mode = "in turns"
        stats = benchmark._make_stats(iterations=1)
        for seconds in samples[who]:
            stats.update(seconds)

    return report_row


@functools.cache
def _circumstances() -> dict[str, Any]:
    return circumstances() | {"copy_gb_per_s": round(measure.copy_bandwidth() / 1e9, 2)}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keeps the rows of a run in which everything passed; a failed check means that no figure can be trusted."""
    rows = session.config.stash[ROWS]
    if exitstatus == 0 and rows and session.config.getoption("--results"):
        report.write(RESULTS / f"cpu-{instruction_set()}.json", _circumstances(), rows)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.stash[ROWS]:
        terminalreporter.section("benchmarks")
        terminalreporter.write_line(report.listing(config.stash[ROWS]))
