"""What the Gaussian model says of each size, with the exact score: `python -m experiments.photographs.predicted`.

Brightness alone, as a field with the spectrum of the denoiser's linear part. That score knows all distances.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.rows import read
from experiments.high_resolution.measures import ring_numbers
from experiments.photographs.data import SIZES
from experiments.photographs.methods import ALPHA, SIGMA_MAX, SIGMA_MIN, START, constant
from experiments.photographs.network import load
from experiments.photographs.plan import RESULTS
from experiments.photographs.train import WEIGHTS
from tdas_ops import Preconditioner, Spectrum, calibrate
from tdas_ops.calibrate import PC, FewStep, Prior, Target
from tdas_ops.reference import full_spectrum
from tdas_ops.sde import VE

FILE = RESULTS / "predicted.jsonl"
COUNTS = (4, 8, 20, 50)


def law(spectrum: Spectrum, size: int) -> Target:
    """Brightness, one channel."""
    matrices = spectrum.resize(size, size).matrices.real
    variance = full_spectrum(matrices.mean((2, 3))[None], size)
    mirrored = torch.roll(variance.flip(-2, -1), (1, 1), (-2, -1))
    return Target.from_spectrum(0.5 * (variance + mirrored), torch.full_like(variance, float(spectrum.mean.mean())))


def methods(target: Target, sde: VE) -> dict[str, Callable[[int], calibrate.Prediction]]:
    """Predictions by evaluations."""
    mask = {name: Preconditioner.from_statistics(target.statistic, None, ALPHA, name) for name in ("tdas", "pds")}
    _, height, width = target.shape
    mean = torch.full(target.shape, float(target.mean_power[0, 0, 0] / (height * width)) ** 0.5, dtype=torch.float64)
    prior = Prior.from_spectrum(target.variance, mean)

    def pc(filters: Callable[[PC], Any]) -> Callable[[int], calibrate.Prediction]:
        return lambda n: calibrate.predict(filters(run := PC(sde, n // 2)), target, run)

    return {
        "pc plain": pc(lambda run: Preconditioner.identity(target.shape)),
        "pc constant": pc(lambda run: constant(target.shape, run)),
        "pc tdas": pc(lambda run: mask["tdas"]),
        "pc pds": pc(lambda run: mask["pds"]),
        "pc schedule": pc(lambda run: calibrate.schedule(target, run)),
        "DPM-Solver++ 2M": lambda n: calibrate.predict(None, target, FewStep(sde, n)),
        "2M from the colour spectrum": lambda n: calibrate.predict(
            None, target, FewStep(sde, n, start=prior, sigma=START)
        ),
    }


def error(prediction: calibrate.Prediction) -> float:
    """RMS over octaves of rings of log2 of the power over that of the law."""
    _, height, width = prediction.target.shape
    k = torch.hypot(torch.fft.fftfreq(height)[:, None] * height, torch.fft.rfftfreq(width)[None] * width).round()

    def rings(power: Tensor) -> Tensor:
        return torch.stack([power[0][k == number].mean() for number in ring_numbers(height)])

    ratio = rings(prediction.variance) / rings(prediction._wanted)
    return float(ratio.log2().square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    FILE.parent.mkdir(exist_ok=True)
    spectrum = load(args.weights).spectrum
    done = {(row["size"], row["method"], row["evaluations"]) for row in read(FILE)}
    for size in args.sizes:
        for name, made in methods(law(spectrum, size), VE(SIGMA_MIN, SIGMA_MAX[size])).items():
            for count in COUNTS:
                if (size, name, count) in done:
                    continue
                row = {"size": size, "method": name, "evaluations": count, "spectrum": error(made(count))}
                with FILE.open("a") as out:
                    out.write(json.dumps(row | {"spectrum": float(f"{row['spectrum']:.4g}")}) + "\n")


if __name__ == "__main__":
    main()
