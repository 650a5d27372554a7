"""What an iteration costs with each filter: `python -m experiments.acceleration.cost --data PACKAGE --family ncsnpp`.

Short runs of every method in turns, in one process; seconds are those of the CPU, or wall time on a GPU. From these and
the curves, `report` makes the cost of a sample at equal quality.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch

from benchmarks import rows
from benchmarks.turns import in_turns
from experiments.acceleration import evaluate
from experiments.acceleration.points import METHODS, PAPER_ALPHA
from tdas_ops import NoiseStream, Preconditioner, machine_info

ROUNDS = 7
ITERATIONS = 6


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def measured(bench: evaluate.Bench) -> dict[str, float]:
    """Median seconds of an iteration for one sample, of every method."""
    iterations = max(ITERATIONS, bench.family.fewest)
    filters = {method: bench.filters(method, PAPER_ALPHA, "both", iterations) for method in METHODS}
    shape = (bench.batch, *bench.data.shape)

    def sample(M: Preconditioner | list[Preconditioner]) -> float:
        started = clock(bench.device)
        bench.family.sample(bench.score, shape, M, iterations, NoiseStream(0, device=bench.device))
        return (clock(bench.device) - started) / iterations / bench.batch

    found = in_turns({method: partial(sample, M) for method, M in filters.items()}, ROUNDS + 1)
    return {method: statistics.median(each[1:]) for method, each in found.items()}  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    evaluate.add_arguments(parser)
    args = parser.parse_args()

    bench = evaluate.bench_of(args)
    device = machine_info()["cpu"] if bench.device.type == "cpu" else torch.cuda.get_device_name(bench.device)
    row = {"weights": bench.weights, "device": device, "batch": bench.batch, "seconds": measured(bench)}
    rows.write(args.results / f"{bench.data.name}-{bench.family.name}-cost.json", [rows.rounded(row)])


if __name__ == "__main__":
    main()
