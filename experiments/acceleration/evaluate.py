"""Measures points of the curves: `python -m experiments.acceleration.evaluate --data PACKAGE --family ncsnpp`.

Works off `points.plan()`, for images larger than digits `points.short_plan()`, or the combinations of what is named. It
can be stopped at any time: what a result file holds already, for the same weights, is not measured again. Every row
keeps the moments of its features, so that the report can pool seeds into one distance.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rows import Row, append, read, rounded, select, write
from experiments.acceleration import points
from experiments.acceleration.data import DATASETS, Dataset
from experiments.acceleration.families import FAMILIES, WEIGHTS, Family, load_network, weights_of
from experiments.acceleration.filters import Filters
from experiments.acceleration.ladders import for_data
from experiments.acceleration.measures import kept_moments, precision_recall
from experiments.acceleration.points import MASKS, METHODS, SEEDS, Point
from experiments.sampling import in_batches, save_strip
from tdas_ops import NoiseStream
from tdas_ops.calibrate.likeness import radial_power
from tdas_ops.models.frechet import Evaluator, frechet_distance, moments
from tdas_ops.samplers import ScoreFn

SMALL = 32  # pixels, of images that the whole plan is for


@dataclass(frozen=True)
class Bench:
    """A network with all that is needed to measure it."""

    data: Dataset
    family: Family
    score: ScoreFn
    filters: Filters
    weights: str
    device: torch.device
    batch: int
    bfloat16: bool

    @torch.no_grad()
    def sample(self, point: Point) -> Tensor:
        """Samples `[N, C, H, W]` as images, not clamped, on the CPU."""
        M = self.filters(point.method, point.alpha, point.masks, point.iterations)

        def some(count: int, noise: NoiseStream) -> Tensor:
            return self.family.sample(self.score, (count, *self.data.shape), M, point.iterations, noise)

        return self.family.decode(in_batches(some, point.samples, self.batch, point.seed, self.device))


def measured(evaluator: Evaluator, samples: Tensor) -> Row:
    """The figures of images `[N, C, H, W]` against held-out half B; nothing but their share if some are not finite."""
    finite = samples.isfinite().flatten(1).all(dim=1)
    row: Row = {"finite": float(finite.double().mean())}
    if not bool(finite.all()):
        return row
    features = evaluator.features(samples)
    precision, recall = precision_recall(features, evaluator.half_b)
    return row | {
        "distance": frechet_distance(*moments(features), *moments(evaluator.half_b)),
        "precision": precision,
        "recall": recall,
        "spectrum": radial_power(samples).tolist(),
        **kept_moments(features),
    }


def measure_real(data: Dataset, samples: int, file: Path) -> None:
    """What the figures of samples are read against: those of held-out half A, the spectrum of the training data, the
    moments of half B, and the floors of one, two and three seeds of `samples`."""
    if read(file):
        return
    counts = sorted({min(seeds * samples, len(data.half_a)) for seeds in range(1, len(SEEDS) + 1)})
    figures = measured(data.evaluator, data.half_a)
    row = {name: figures[name] for name in ("finite", "distance", "precision", "recall")} | {
        "spectrum": radial_power(data.train).tolist(),
        "target": kept_moments(data.evaluator.half_b),
        "floors": [list(data.evaluator.floor(count)) for count in counts],
        "size": data.shape[-1],
    }
    write(file, [rounded(row)])


def digest_of(weights: Path) -> str:
    """By which the rows of a network are known."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those that say what is measured and on what; `bench_of` reads them."""
    parser.add_argument("--family", required=True, choices=list(FAMILIES))
    parser.add_argument("--dataset", default="digits", choices=list(DATASETS))
    parser.add_argument("--data", type=Path, required=True, help="where the data set lies; see README.md")
    parser.add_argument("--mask-images", type=int, default=0, help="make filters from the first images of so many only")
    parser.add_argument("--batch", type=int, default=112)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile the network: faster after a minute")
    parser.add_argument("--bfloat16", action="store_true", help="as always on a GPU; faster on a CPU that has it")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--results", type=Path, default=points.RESULTS)


def bench_of(args: argparse.Namespace) -> Bench:
    """The bench for the trained network of a family on a data set, with filters from some or all of its images."""
    torch.set_num_threads(args.threads)
    data = DATASETS[args.dataset](args.data)
    if not 0 <= args.mask_images <= len(data.train):
        got = f"got {args.mask_images}, expected at most the {len(data.train)} there are for training"
        raise SystemExit(f"evaluate: --mask-images: {got}")
    family, device = for_data(FAMILIES[args.family], data), torch.device(args.device)
    file = weights_of(f"{data.name}-{family.name}", args.weights)
    network, _ = load_network(file, device)
    if args.compile:
        network.compile(options={"freezing": True})
    bfloat16 = args.bfloat16 or device.type != "cpu"
    score = family.score(network, torch.bfloat16 if bfloat16 else None)
    digest = digest_of(file)
    filters = Filters(data, family, device, args.mask_images)
    return Bench(data, family, score, filters, digest, device, args.batch, bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="without any of these five, the whole plan")
    parser.add_argument("--iterations", nargs="+", type=int)
    parser.add_argument("--alphas", nargs="+", type=float)
    parser.add_argument("--masks", nargs="+", choices=list(MASKS))
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--ablation-at", type=int, help="of digits: vary strength and masks at this iteration count")
    parser.add_argument("--samples", type=int, default=672, help="of a seed")
    parser.add_argument("--pictures", type=Path, default=Path("build/acceleration/pictures"))
    args = parser.parse_args()

    bench = bench_of(args)
    data, family = bench.data, bench.family
    measure_real(data, args.samples, args.results / f"{data.name}-real.json")
    file = args.results / f"{data.name}-{family.name}.jsonl"
    chosen = points.plan(args.ablation_at) if data.shape[-1] <= SMALL else points.short_plan()
    named = {name: getattr(args, name) for name in ("methods", "iterations", "seeds", "alphas", "masks")}
    if named := {name: value for name, value in named.items() if value is not None}:
        chosen = points.queue(**named)
    for method, alpha, masks, iterations, seed in chosen:
        chosen_point = (args.dataset, args.family, method, alpha, masks, iterations, seed, args.samples)
        point = Point(*chosen_point, args.mask_images)
        own = {**asdict(point), "weights": bench.weights}
        if iterations < family.fewest or select(read(file), **own):
            continue
        started = time.perf_counter()
        samples = bench.sample(point)
        seconds = time.perf_counter() - started
        row = own | measured(data.evaluator, samples)
        row |= {"seconds": seconds, "device": args.device, "bfloat16": bench.bfloat16}
        append(file, rounded(row))
        if seed == SEEDS[0]:
            save_strip(samples, args.pictures / f"{point.name}.png")
        print(f"{point.name}: {row.get('distance', math.nan):.4f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
