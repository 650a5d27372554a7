"""Measures points of the curves: `python -m experiments.few_step.evaluate NETWORK --data FOLDER`.

A point is a method at a number of network evaluations with one seed. The command can be stopped at any time and goes on
with the first point that the result file does not hold for these weights; what says most comes first.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rows import Row, append, read, select
from experiments.few_step import methods, networks
from experiments.few_step.networks import Network
from experiments.sampling import in_batches, save_strip
from tdas_ops import NoiseStream, machine_info
from tdas_ops.calibrate import Likeness
from tdas_ops.models.frechet import frechet_distance, moments

RESULTS = Path(__file__).resolve().parent / "results"
COUNTS = (8, 5, 10, 4, 6, 20, 15, 50, 30, 100, 200)  # those that say most come first
SEEDS = (1, 2, 3)
SAMPLES = 512
Point = tuple[str, int, int]


def plan(network: Network) -> Iterator[Point]:
    """Method, evaluations, seed of every point; the native run first."""
    yield "pc plain", network.native, SEEDS[0]
    for seed in SEEDS:
        for count in COUNTS:
            yield from ((name, count, seed) for name in methods.METHODS if methods.possible(name, network, count))


class Judge:
    """The figures of samples of a network, against held-out half B.

    The Frechet distance of features knows means and covariances alone, which a method that uses the covariance of the
    data can match without a picture in sight; `Likeness` compares distributions, and the power at every frequency.
    """

    def __init__(self, network: Network) -> None:
        self.evaluator = network.data.evaluator
        self.target = moments(self.evaluator.half_b)
        self.likeness = Likeness(network.data.half_b)

    def __call__(self, images: Tensor) -> Row:
        """Of images `[N, C, H, W]`, not clamped."""
        finite = images.isfinite().flatten(1).all(1)
        row: Row = {"samples": len(images), "finite": float(finite.double().mean())}
        if not bool(finite.all()):
            return row
        figures = {
            "distance": frechet_distance(*moments(self.evaluator.features(images)), *self.target),
            "likeness": self.likeness.distance(images),
            "spectrum": self.likeness.spectrum_error(images),
        }
        return row | {name: float(f"{value:.6g}") for name, value in figures.items()}


@torch.no_grad()
def sample(network: Network, method: str, evaluations: int, seed: int, samples: int, batch: int) -> tuple[Tensor, int]:
    """Samples as images, and the calls of the network that a batch of them took."""
    calls = 0

    def some(count: int, noise: NoiseStream) -> Tensor:
        nonlocal calls
        score = methods.Counted(network.score)
        made = methods.sample(method, network, score, (count, *network.data.shape), evaluations, noise)
        calls = score.calls
        return made

    return network.decode(in_batches(some, samples, batch, seed)), calls


def add_network(parser: argparse.ArgumentParser) -> None:
    """Arguments that name a network and its data."""
    parser.add_argument("network", choices=["embedded", *networks.FAMILIES])
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data", type=Path, required=True, help="as for experiments.acceleration")
    parser.add_argument("--weights", type=Path, default=networks.WEIGHTS)


def load(args: argparse.Namespace) -> Network:
    """The network that the arguments name."""
    if args.network == "embedded":
        return networks.embedded(args.data)
    return networks.family(args.network, args.dataset, args.data, args.weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network(parser)
    parser.add_argument("--methods", nargs="+", choices=list(methods.METHODS), help="without these, the whole plan")
    parser.add_argument("--evaluations", nargs="+", type=int, help="without these, all of them and the native count")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pictures", type=Path, default=Path("build/few_step"))
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    network, commit = load(args), machine_info()["commit"]
    file, judge = args.results / f"{network.name}.jsonl", Judge(network)
    about = {"network": network.name, "weights": network.weights}
    real = args.results / f"{network.name}-real.json"
    if not real.exists():
        chosen = networks.spread(network.data.half_a, args.samples)
        figures = {**judge(chosen), "floor": judge.evaluator.floor(args.samples)}
        append(real, {**about, "native": network.native, **figures})
    for name, count, seed in plan(network):
        chosen = (name, args.methods), (count, args.evaluations), (seed, args.seeds)
        if not all(allowed is None or value in allowed for value, allowed in chosen):
            continue
        point = {"method": name, "evaluations": count, "seed": seed}
        if select(read(file), **about, **point):
            continue
        started = time.perf_counter()
        images, calls = sample(network, name, count, seed, args.samples, args.batch)
        if calls != count:
            raise SystemExit(f"evaluate: {name} took {calls} evaluations, expected {count}")
        seconds = round(time.perf_counter() - started, 2)
        row = judge(images)
        append(file, {**about, **point, **row, "seconds": seconds, "commit": commit})
        if seed == SEEDS[0]:
            save_strip(images, args.pictures / f"{network.name}-{name}-{count}.png".replace(" ", "_"))
        print(f"{network.name} {name} {count} {seed}: {row.get('distance', math.nan):.3f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
