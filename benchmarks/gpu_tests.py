"""The tests of the GPU in several processes, none of which takes the others along when it dies or hangs.

    python benchmarks/gpu_tests.py WORKERS SECONDS [TEST...]      SECONDS: of one test; started by benchmarks/gpu.sh

Every worker collects all tests and runs each WORKERS-th one. A test that does not end, or that loses the device, is a
failure, and the worker is started anew after it. Failures are kept the moment they are known, the counts at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest

from benchmarks.gpu_device import DEADLINE, ON_GPU, ROOT, keep, lost

GPU = Path("tests/kernels/gpu")
# First what no GPU has run to its end yet.
FIRST = [f"test_gpu_{name}.py" for name in ("cooperative", "passes", "samplers", "samples", "streams")]
ALL = [str(GPU / name) for name in dict.fromkeys([*FIRST, *sorted(p.name for p in (ROOT / GPU).glob("test_*.py"))])]
AGAIN = 75  # exit status of a worker that is to be started anew


class Worker:
    """A plugin of pytest. The file `told` has two lines a test: `start ID`, and `passed`, `failed` or `skipped ID`."""

    def __init__(self, number: int, workers: int, patience: float, told: Path) -> None:
        self.number, self.workers, self.patience, self.told = number, workers, patience, told
        self.current, self.started = "", 0.0

    def tell(self, what: str, test: str) -> None:
        with self.told.open("a") as file:
            file.write(f"{what} {test}\n")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        over = {test for outcome, test in outcomes(self.told) if outcome != "start"}
        items[:] = [item for item in items[self.number :: self.workers] if item.nodeid not in over]
        self.tell("chosen", str(len(items)))
        threading.Thread(target=self.watch, daemon=True).start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tell("start", nodeid)
        self.current, self.started = nodeid, time.monotonic()

    def pytest_runtest_protocol(self, item: Any) -> None:
        if time.time() > DEADLINE:
            item.session.shouldstop = "out of time"

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.tell(report.outcome, report.nodeid)
        if report.outcome == "failed":
            text = report.longreprtext
            said = [line for line in text.splitlines() if line.startswith("E ")] or text.splitlines()[-1:]
            keep(test=report.nodeid, ok=False, why=" ".join(said[0].split())[2:300] if said else "")
            if lost(RuntimeError(text)):
                print(text, flush=True)
                os._exit(AGAIN)

    def pytest_runtest_logfinish(self) -> None:
        self.current = ""

    def watch(self) -> None:
        while True:
            time.sleep(0.5)
            if self.current and time.monotonic() - self.started > self.patience:
                keep(test=self.current, ok=False, why=f"no end within {self.patience:g} s")
                self.tell("failed", self.current)
                os._exit(AGAIN)


def outcomes(told: Path) -> list[tuple[str, str]]:
    lines = told.read_text().splitlines() if told.exists() else []
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def work(number: int, workers: int, patience: float, told: Path, tests: list[str]) -> int:
    options = ["-q", "-p", "no:cacheprovider", "--tb=short", "--no-header", "-rN", "--durations=8"]
    return int(pytest.main([*options, *tests], plugins=[Worker(number, workers, patience, told)]))


def supervise(number: int, workers: int, patience: float, folder: Path, tests: list[str]) -> Counter[str]:
    """Starts one worker until its tests are over; returns how many of them had which outcome."""
    told = folder / str(number)
    command = [sys.executable, __file__, "worker", str(number), str(workers), str(patience), str(told), *tests]
    while True:
        status = subprocess.run(command, cwd=ROOT).returncode
        lines = outcomes(told)
        over = {test for outcome, test in lines if outcome not in ("start", "chosen")}
        open_ones = [test for outcome, test in lines if outcome == "start" and test not in over]
        if status in (0, 1, 5) or time.time() > DEADLINE:
            break
        if status != AGAIN:
            if not open_ones:
                keep(ok=False, why=f"a worker ended with status {status}, see the log")
                break
            keep(test=open_ones[-1], ok=False, why=f"its process ended with status {status}")
            with told.open("a") as file:
                file.write(f"failed {open_ones[-1]}\n")
    counts = Counter(outcome for outcome, _ in lines if outcome not in ("start", "chosen"))
    chosen = next((int(number) for outcome, number in lines if outcome == "chosen"), 0)
    counts["not run"] = max(0, chosen - sum(counts.values()))
    return counts


def main() -> int:
    if sys.argv[1] == "worker":
        _, _, number, workers, patience, told, *tests = sys.argv
        return work(int(number), int(workers), float(patience), Path(told), tests)
    workers, patience, tests = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:] or ALL
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        parts = [(number, workers, patience, Path(folder), tests) for number in range(workers)]
        counts = sum(pool.map(lambda part: supervise(*part), parts), Counter[str]())
    # A machine where GPU tests are skipped does not pass.
    bad = counts["failed"] + counts["not run"] + (counts["skipped"] if ON_GPU else 0)
    keep(ok=not bad and sum(counts.values()) > 0, case="tests", counts=dict(counts))
    return int(bool(bad) or not counts)


if __name__ == "__main__":
    sys.exit(main())
