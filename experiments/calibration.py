"""The tables of docs/calibration_measured.md: predictions for a Gaussian field, distances measured on the digit model.

python -m experiments.calibration --field 2000 66 20 10
python -m experiments.calibration --digits 20 12 6 4 3
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import torch

from benchmarks import page
from experiments.sampling import in_batches
from tdas_ops import Preconditioner, models
from tdas_ops.calibrate import PC, Filtered, Run, Target, calibrated, choose_alpha, predict, schedule
from tdas_ops.sde import VE

Filters = Preconditioner | list[Preconditioner]
_MANY = 500  # iterations from which what takes minutes is left out


def field(size: int) -> Target:
    """Spectrum `|k|^-2`, variance 1/16 a pixel, `[1, size, size]`."""
    k = torch.fft.fftfreq(size, dtype=torch.float64) * size
    s = torch.hypot(k[:, None], k[None, :]).clamp_min(1) ** -2
    return Target.from_spectrum((s * size**2 / 16 / s.sum())[None])


def filters(target: Target, run: Run) -> Iterator[tuple[str, Filters]]:
    yield "plain", Preconditioner.identity(target.shape)
    for method in ("pds", "tdas") if run.count <= _MANY else ():
        alpha = choose_alpha(target, run, method)
        chosen = Preconditioner.from_statistics(target.statistic, None, alpha, method)
        yield f"{method}, chosen alpha {alpha:.3g}", chosen
    for method in ("pds", "tdas"):
        yield f"calibrated, {method}", calibrated(target, run, method)
        if method == "tdas" or run.count <= _MANY:
            yield f"schedule, {method}", schedule(target, run, method)


def described(M: Filters, target: Target, run: Run) -> list[str]:
    expected = predict(M, target, run)
    masks = [each.freq for each in (M if isinstance(M, list) else [M]) if each.freq is not None]
    low, high = (min(float(m.min()) for m in masks), max(float(m.max()) for m in masks)) if masks else (1.0, 1.0)
    return [f"{expected.distance:.2g}", f"{float(expected.off_ladder[1:].max()):.2g}", f"{low:.2f} to {high:.2f}"]


def field_table(counts: list[int]) -> None:
    target = field(64)
    print("\n".join(page.head(["iterations", "filter", "distance", "off the ladder", "R", "seconds"], words=6)))
    for count in counts:
        run, started = PC(VE(0.01, 90.0), count, snr=0.15), time.perf_counter()
        for name, M in filters(target, run):
            seconds = time.perf_counter() - started
            print(page.line([str(count), name, *described(M, target, run), f"{seconds:.2f}"]), flush=True)
            started = time.perf_counter()


def digits_table(counts: list[int]) -> None:
    model = models.load("digits")
    target = Target.from_statistics(model.statistics.freq)
    print("\n".join(page.head(["iterations", "filter", "expected", "off the ladder", "R", "measured"], words=6)))
    for count in counts:
        run = PC(model.sde, count, snr=model.snr)
        for name, M in filters(target, run):
            settings = Filtered(name, run, M)
            some = lambda n, noise, settings=settings: settings.sample(
                model.score, (n, *model.shape), noise, progress=False
            )
            measured = [model.evaluator(in_batches(some, 256, 128, seed)).distance for seed in (1001, 1002)]
            print(
                page.line([str(count), name, *described(M, target, run), f"{statistics.mean(measured):.2f}"]),
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--field", type=int, nargs="+", default=[], metavar="ITERATIONS")
    parser.add_argument("--digits", type=int, nargs="+", default=[], metavar="ITERATIONS")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.field:
        field_table(arguments.field)
    if arguments.digits:
        digits_table(arguments.digits)
