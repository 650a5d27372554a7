"""Measuring in turns: A, B, C, A, B, C, ..., so that the drift of a busy machine hits all alike, and their ratios are
those of one run; here, or in processes that wait for each other."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from benchmarks.rows import Row

Name = TypeVar("Name", bound=Hashable)


def in_turns(
    samplers: Mapping[Name, Callable[[], float]], rounds: int, enough: Callable[[int], bool] = lambda taken: False
) -> dict[Name, list[float]]:
    """One sample of each after the other, so many rounds, or until there are enough: as many of one as of another."""
    samples: dict[Name, list[float]] = {name: [] for name in samplers}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for taken in range(rounds):
            if enough(taken):
                break
            for name, sample in samplers.items():
                samples[name].append(sample())
    finally:
        if collecting:
            gc.enable()
    return samples


class Worker:
    """A process that answers each order, a line of JSON, with a row, also a line: `serve` in it does."""

    answer_seconds = 60.0  # three times as long for the first answer, which waits for the imports
    most_starts = 3  # of a process, which a case may have ended

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name, self.command, self.environment, self.starts = name, command, environment, 0
        self.start()

    def start(self) -> None:
        self.starts, self.patience = self.starts + 1, 3 * self.answer_seconds
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment, text=True, bufsize=1
        )

    def order(self, *what: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # of a process that has ended
            self.process.stdin.write(json.dumps(what) + "\n")

    def answer(self) -> Row:
        """That to the first order without one, or `why` there is none."""
        answers, seconds = self.process.stdout, self.patience
        assert answers is not None
        self.patience = self.answer_seconds
        try:
            if not select.select([answers], [], [], seconds)[0]:
                self.process.kill()
                return {"why": f"no answer within {seconds:g} s"}
            return json.loads(answers.readline() or '{"why": "the process ended"}')
        except (OSError, ValueError):
            return {"why": "the process ended"}

    def again(self) -> None:
        """Starts it anew, if a case has ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.1)
            if self.starts < self.most_starts:
                self.start()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def serve(answer: Callable[..., Row], lost: Callable[[Row], bool] = lambda row: False) -> int:
    """Answers the orders on standard input until it ends, or until an answer says that nothing more can be done."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    for line in sys.stdin:
        row = answer(*json.loads(line))
        answers.write(json.dumps(row) + "\n")
        answers.flush()
        if lost(row):
            return 1
    return 0
