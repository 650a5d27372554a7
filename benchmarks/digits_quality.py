"""Quality of the digit model by method, alpha, masks, snr and iterations: the tables of the model's README.md.

    python benchmarks/digits_quality.py --iterations 400 200 100 --methods plain
    python benchmarks/digits_quality.py --iterations 20 10 --methods tdas pds --alphas 2 5 --masks freq both

Each row is a mean over seeds. Frechet: the distance of `--samples` samples to held-out half B; real: the same for real
held-out digits of half A. Border: RMS of the outermost two pixels, which are black in every digit: residual noise.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import time
from pathlib import Path

import torch
from PIL import Image

import tdas_ops
from tdas_ops import models

MASKS = {"freq": (True, False), "space": (False, True), "both": (True, True)}


def sample(
    model: models.Model, M: tdas_ops.samplers.Filters, iterations: int, snr: float, seed: int, count: int, batch: int
):
    parts = [
        tdas_ops.samplers.pc(
            model.score,
            (min(batch, count - first), *model.shape),
            model.sde,
            M,
            noise=tdas_ops.NoiseStream(seed, first_sample=first),
            iterations=iterations,
            snr=snr,
            progress=False,
        )
        for first in range(0, count, batch)
    ]
    return torch.cat(parts)


def border(samples: torch.Tensor) -> float:
    inner = torch.zeros(samples.shape[-2:], dtype=torch.bool)
    inner[2:-2, 2:-2] = True
    return float(samples.clamp(0, 1)[..., ~inner].square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["plain"], choices=models.METHODS)
    parser.add_argument("--iterations", nargs="+", type=int, required=True)
    parser.add_argument("--alphas", nargs="+", type=float, default=[0.0], help="0 is the default of the model")
    parser.add_argument("--masks", nargs="+", default=["both"], choices=list(MASKS))
    parser.add_argument("--snr", nargs="+", type=float, default=[0.16])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1001, 1002], help="the demo uses 0")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pictures", type=Path, help="PNG file for 24 samples a row of the table")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    model = models.load("digits")
    versions = (
        f"tdas_ops {tdas_ops.__version__}, torch {torch.__version__}, {platform.machine()}, {args.threads} threads"
    )
    print(f"n = {args.samples}, seeds {args.seeds}, {versions}\n")
    print("| iterations | method | alpha | masks | snr | Frechet | by seed | real | border | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    strips = []
    floor, scatter, _ = model.evaluator.floor(args.samples)
    real = f"{floor:.2f} ± {scatter:.2f}"
    for iterations, method, snr in itertools.product(args.iterations, args.methods, args.snr):
        fixed = method in ("tdas", "pds")
        for alpha, masks in itertools.product(args.alphas, args.masks) if fixed else [(0.0, "-")]:
            if fixed:
                freq, space = MASKS[masks]
                M = model.preconditioner(method, alpha or None, iterations=iterations, freq=freq, space=space)
            else:
                M = model.filters(method, iterations, snr=snr)
            started = time.perf_counter()
            by_seed = [sample(model, M, iterations, snr, seed, args.samples, args.batch) for seed in args.seeds]
            seconds = time.perf_counter() - started
            # A run that diverged has no distance; its row says nan.
            distances = [model.evaluator(s).distance if bool(s.isfinite().all()) else math.nan for s in by_seed]
            distance = sum(distances) / len(distances)
            spread = " ".join(f"{d:.2f}" for d in distances)
            row = (
                iterations,
                method,
                M.provenance.get("alpha", "-") if fixed else "-",
                masks,
                f"{snr:g}",
                f"{distance:.2f}",
                spread,
                real,
            )
            print(f"| {' | '.join(map(str, row))} | {border(torch.cat(by_seed)):.4f} | {seconds:.0f} |", flush=True)
            strips.append(torch.cat(list(model.pictures(by_seed[0])[:24, 0]), dim=1))
    if args.pictures:
        sheet = Image.fromarray(torch.cat(strips).numpy())
        sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(args.pictures)


if __name__ == "__main__":
    main()
