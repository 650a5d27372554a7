"""Measures points of the curves: `python -m experiments.photographs.evaluate --photos FOLDER`.

It can be stopped at any time and goes on with the first point that the file of its size does not hold for these
weights.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rows import Row, append, read, rounded, select
from experiments.acceleration.evaluate import digest_of
from experiments.acceleration.families import NCSNpp
from experiments.few_step.methods import Counted
from experiments.photographs.data import SIZES, Photographs
from experiments.photographs.measures import Judge
from experiments.photographs.methods import METHODS, Bench
from experiments.photographs.network import load
from experiments.photographs.plan import REAL, RESULTS, SAMPLES, plan
from experiments.photographs.train import FOLDER, WEIGHTS
from experiments.sampling import in_batches, save_strip
from tdas_ops import NoiseStream
from tdas_ops.samplers import ScoreFn

BATCH = 64


def sample(
    bench: Bench, name: str, score: Callable[..., Tensor], count: int, evaluations: int, seed: int
) -> tuple[Tensor, int]:
    """Pictures, and the calls of the network that a batch of them took."""
    calls = 0

    def some(part: int, stream: NoiseStream) -> Tensor:
        nonlocal calls
        counted = Counted(score)
        made = bench.sample(name, counted, part, evaluations, stream)
        calls = counted.calls
        return made

    return in_batches(some, count, BATCH, seed), calls


def scores(weights: Path) -> dict[str, ScoreFn]:
    """The score functions of the denoiser, by how far its linear part sees; the network itself in bfloat16."""
    family = NCSNpp("photographs", native=1000, centred=False)
    return {sight: family.score(load(weights, sight), torch.bfloat16) for sight in ("local", "whole")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs; see README.md")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--evaluations", type=int, nargs="+", help="without these, all of the plan")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="without these, all of the plan")
    parser.add_argument("--sights", nargs="+", default=["-", "local", "whole"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pictures", type=Path, default=FOLDER / "pictures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    warnings.filterwarnings("ignore", "M: got", RuntimeWarning)  # filters at counts where they reach too far are rows

    photos, digest = Photographs.read(args.photos, FOLDER / "photographs.pt"), digest_of(args.weights)
    score, spectrum = scores(args.weights), load(args.weights).spectrum
    for size in args.sizes:
        file = args.results / f"{size}.jsonl"
        bench, judge = Bench.of(size, spectrum, photos), None
        for _, sight, name, evaluations, seed in plan([size]):
            wanted = args.evaluations is None or evaluations in (0, *args.evaluations)
            wanted = wanted and (args.methods is None or name in (*REAL, *args.methods))
            point: Row = {"sight": sight, "method": name, "evaluations": evaluations, "seed": seed}
            about = {"size": size, "weights": digest if evaluations else "-", **point}
            if not wanted or sight not in args.sights:
                continue
            if select(read(file), **about):
                continue
            judge, began = judge or Judge.of(size, photos), time.process_time()
            if name in REAL:
                own = photos.from_other(seed * SAMPLES[size])
                x = (own.train, own.held_out)[REAL.index(name)](size, SAMPLES[size], 100 + seed)
            else:
                x, calls = sample(bench, name, score[sight], SAMPLES[size], evaluations, seed)
                if calls != evaluations:
                    raise SystemExit(f"evaluate: {name} took {calls} evaluations, expected {evaluations}")
            seconds = time.process_time() - began
            row = judge(x)
            append(file, {**about, "samples": len(x), **rounded(row), "cpu_seconds": round(seconds, 1)})
            picture = f"{size}-{sight}-{name}-{evaluations}-{seed}.png".replace(" ", "_").replace(",", "")
            args.pictures.mkdir(parents=True, exist_ok=True)
            save_strip(x[:8], args.pictures / picture)
            print(f"{picture}: {row['spectrum']} {row['patches']}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
