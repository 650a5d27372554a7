"""Quality of the digit model by method, alpha, masks, snr and iterations of pc, and by sampler, start and eta at few
evaluations: the tables of the model's README.md.

    python -m experiments.digits_quality --iterations 400 200 100 --methods plain
    python -m experiments.digits_quality --iterations 20 10 --methods tdas pds --alphas 2 5 --masks freq both
    python -m experiments.digits_quality --evaluations 5 8 --starts none mean gaussian --etas 0 1

Each row is a mean over seeds. Frechet: the distance of `--samples` samples to held-out half B; real: the same for real
held-out digits of half A. Border: RMS of the outermost two pixels, which are black in every digit: residual noise.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from benchmarks import page
from experiments.sampling import in_batches
from tdas_ops import calibrate, machine_info, models
from tdas_ops.calibrate.few_step import SAMPLERS

MASKS = {"freq": (True, False), "space": (False, True), "both": (True, True)}


ABOUT = "tdas_ops", "torch", "machine", "threads"
COLUMNS = "evaluations", "sampler", "alpha", "masks", "snr", "Frechet", "by seed", "real", "border", "seconds"
Settings = calibrate.Filtered | calibrate.FewStep


def sample(model: models.Model, settings: Settings, seed: int, count: int, batch: int) -> torch.Tensor:
    some = lambda n, noise: settings.sample(model.score, (n, *model.shape), noise, progress=False)
    return in_batches(some, count, batch, seed)


def rows(model: models.Model, args: argparse.Namespace) -> Iterator[tuple[tuple[str, ...], Settings]]:
    """What stands before the figures of each row, and its settings."""
    for iterations, method, snr in itertools.product(args.iterations, args.methods, args.snr):
        fixed = method in ("tdas", "pds")
        for alpha, masks in itertools.product(args.alphas, args.masks) if fixed else [(0.0, "-")]:
            if fixed:
                freq, space = MASKS[masks]
                M = model.preconditioner(method, alpha or None, iterations=iterations, freq=freq, space=space)
            else:
                M = model.filters(method, iterations, snr=snr)
            shown = str(M.provenance.get("alpha", "-")) if fixed else "-"
            run = calibrate.PC(model.sde, iterations, snr)
            yield (f"pc {method}", shown, masks, f"{snr:g}"), calibrate.Filtered(method, run, M)
    for evaluations, sampler, eta, start in itertools.product(args.evaluations, args.samplers, args.etas, args.starts):
        run = model.few_step(evaluations, sampler, eta=eta, start=start, sigma=args.sigma)
        yield (run.name, "-", "-", "-"), run


def border(samples: torch.Tensor) -> float:
    inner = torch.zeros(samples.shape[-2:], dtype=torch.bool)
    inner[2:-2, 2:-2] = True
    return float(samples.clamp(0, 1)[..., ~inner].square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["plain"], choices=models.METHODS)
    parser.add_argument("--iterations", nargs="+", type=int, default=[], help="of pc")
    parser.add_argument("--evaluations", nargs="+", type=int, default=[], help="of --samplers")
    parser.add_argument("--samplers", nargs="+", default=["dpmpp"], choices=SAMPLERS)
    parser.add_argument("--starts", nargs="+", default=["none"], choices=models.STARTS)
    parser.add_argument("--etas", nargs="+", type=float, default=[0.0])
    parser.add_argument("--sigma", type=float, help="level of the start; by default that of the model")
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
    versions = ", ".join(f"{name} {value}" for name, value in machine_info().items() if name in ABOUT)
    print(f"n = {args.samples}, seeds {args.seeds}, {versions}\n")
    print("\n".join(page.head(COLUMNS, words=10)))
    strips = []
    floor, scatter, _ = model.evaluator.floor(args.samples)
    real = f"{floor:.2f} ± {scatter:.2f}"
    for about, settings in rows(model, args):
        started = time.perf_counter()
        by_seed = [sample(model, settings, seed, args.samples, args.batch) for seed in args.seeds]
        seconds = time.perf_counter() - started
        # A run that diverged has no distance; its row says nan.
        distances = [model.evaluator(s).distance if bool(s.isfinite().all()) else math.nan for s in by_seed]
        distance = f"{sum(distances) / len(distances):.2f}"
        spread = " ".join(f"{d:.2f}" for d in distances)
        cells = (str(settings.count), *about, distance, spread, real, f"{border(torch.cat(by_seed)):.4f}")
        print(page.line([*cells, f"{seconds:.0f}"]), flush=True)
        strips.append(torch.cat(list(model.pictures(by_seed[0])[:24, 0]), dim=1))
    if args.pictures:
        sheet = Image.fromarray(torch.cat(strips).numpy())
        sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(args.pictures)


if __name__ == "__main__":
    main()
