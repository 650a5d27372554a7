"""The package as it stands here against another commit of it, timed in turns: `make bench-compare BASE=ref`.

The base is checked out and built in a worktree below build/, which is removed at the end; this tree is only read. Each
of the two runs in a process of its own, one sample at a time: base, new, base, new, ... Where its memory happens to lie
can move a process by a fifth and more, so several pairs of processes are taken, and the range over them says what a
ratio is worth.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import Row
from benchmarks.turns import Worker, in_turns, serve

ROOT = Path(__file__).resolve().parents[1]
PAIRS, ROUNDS, SECONDS = 5, 6, 0.03
SHAPES = {"32": (64, 3, 32, 32), "64": (16, 3, 64, 64), "256": (4, 3, 256, 256), "1024": (1, 3, 1024, 1024)}
CASES = [
    *(f"step pds {masks} {size}" for size in SHAPES for masks in ("frequency", "both")),
    "step tdas frequency 256",
    "langevin_step pds frequency 256",
    "noise pds frequency 256",
]


def commit(ref: str) -> str:
    """The commit that a ref names."""
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if not ref or found.returncode:
        raise SystemExit(f"bench-compare: got BASE={ref!r}, expected a branch, tag or commit of this repository.")
    return found.stdout.strip()


@contextmanager
def worktree(of: str) -> Iterator[Path]:
    """A tree of its own for a commit, built in place; gone at the end, whatever happens."""
    (ROOT / "build").mkdir(exist_ok=True)
    parent = Path(tempfile.mkdtemp(prefix="compare-", dir=ROOT / "build"))
    tree = parent / "base"
    try:
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, of], cwd=ROOT, check=True)
        print(f"bench-compare: building {of[:12]}", flush=True)
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        built = subprocess.run(
            command, cwd=tree, env={**os.environ, "TDAS_OPS_BUILD": "cpu"}, capture_output=True, text=True
        )
        if built.returncode:
            raise SystemExit(f"bench-compare: {of[:12]} does not build:\n{built.stderr[-2000:]}")
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, capture_output=True)
        shutil.rmtree(parent, ignore_errors=True)
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT)


def work(tree: str, check: bool) -> int:
    """Serves samples of the package of a tree: nanoseconds an element of a case, after its check."""
    sys.path.insert(0, tree)
    import torch

    import tdas_ops

    assert Path(tdas_ops.__file__).is_relative_to(tree), tdas_ops.__file__
    sys.path[0] = str(ROOT)  # the same benchmark code for both
    from benchmarks import contenders
    from benchmarks.parity import Oracle, ParityError

    torch.set_num_threads(1)
    ready: dict[str, tuple[Callable[[], object], int, int]] = {}

    def prepare(case: str) -> tuple[Callable[[], object], int, int]:
        """The call of a case after its check, how often to call it in a sample, and its elements."""
        op, method, masks, size = case.split()
        x, v = torch.randn(SHAPES[size]), torch.randn(SHAPES[size])
        M = contenders.masks(SHAPES[size], method, masks == "both").M
        if check:
            Oracle(op, M, x, v).check()
        call, stream = contenders.package(op, M), tdas_ops.NoiseStream(7)
        run = lambda: call(x, v, stream)
        run()
        start = time.perf_counter()
        run()
        return run, max(1, round(SECONDS / (time.perf_counter() - start))), x.numel()

    def answer(case: str) -> Row:
        try:
            ready[case] = ready.get(case) or prepare(case)
        except ParityError as error:
            return {"why": str(error)}
        run, loops, elements = ready[case]
        start = time.perf_counter()
        for _ in range(loops):
            run()
        return {"ns": (time.perf_counter() - start) / loops / elements * 1e9}

    return serve(answer)


class Refused(Exception):
    """A result failed its check, so there is no figure of it."""


def sampled(worker: Worker, case: str) -> float:
    """Nanoseconds an element.

    Raises:
        Refused: the tree computes the case wrongly, or ends.
    """
    worker.order(case)
    answer = worker.answer()
    if "why" in answer:
        raise Refused(f"{worker.name}: {answer['why']}")
    return float(answer["ns"])


def compare(base: Path, pairs: int) -> None:
    """Prints the table: medians of both, and the median and the range over the pairs of processes of new / base."""
    times: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
    refused: dict[str, str] = {}
    for pair in range(pairs):
        options = ["--check"] if pair == 0 else []
        trees = {"base": base, "new": ROOT}
        workers = [Worker(name, [sys.executable, __file__, str(tree), *options]) for name, tree in trees.items()]
        try:
            for case in [case for case in CASES if case not in refused]:
                try:
                    samples = in_turns({w.name: partial(sampled, w, case) for w in workers}, ROUNDS + 1)
                except Refused as error:
                    refused[case] = str(error)
                    continue
                old, new = (statistics.median(samples[worker.name][1:]) for worker in workers)
                times[case].append((old, new))
        finally:
            for worker in workers:
                worker.end()
    print(f"{'ns per element':<36}{'base':>9}{'new':>9}{'new/base':>10}   range over {pairs} pairs of processes")
    for case, reason in refused.items():
        print(f"{case:<36}  not timed, {reason}")
    for case, found in [(case, found) for case, found in times.items() if found]:
        old, new = (statistics.median(column) for column in zip(*found, strict=True))
        ratios = [b / a for a, b in found]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{case:<36}{old:>9.3f}{new:>9.3f}{statistics.median(ratios):>10.3f}   {spread}")


def against(ref: str, pairs: int = PAIRS) -> None:
    """Builds the commit and compares."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worktree is removed then too
    of = commit(ref)
    with worktree(of) as tree:
        print(f"bench-compare: base {ref} ({of[:12]}), new: this tree; one thread", flush=True)
        compare(tree, pairs)


if __name__ == "__main__":  # a worker
    sys.exit(work(sys.argv[1], "--check" in sys.argv))
