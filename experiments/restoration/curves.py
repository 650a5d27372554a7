"""Measures restorations: `python -m experiments.restoration.curves --photos FOLDER`.

A queue that can be stopped at any time, as `evaluate`: rows that the result file holds are not measured again. FOLDER
holds photographs; those named by `--tested` are measured and restored, all others make the filters.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.rows import Row, append, read, rounded, select
from experiments.acceleration.pictures import NO_PHOTOGRAPHS, photographs
from experiments.restoration.ffdnet import FFDNet
from experiments.restoration.measurements import TASKS, level, read_photo
from experiments.restoration.restore import Filters, restore
from tdas_ops._pictures import picture

METHODS = ("plain", "tdas", "pds", "calibrated")
COUNTS = (12, 25, 50, 100, 200)
RESULTS = Path(__file__).resolve().parent / "results"
PICTURES = Path("build/acceleration/restoration")
TESTED = ("*life_by_*", "*picosdeeuropa_by_*", "*seeding_by_*")
SHARP = 0.25  # cycles a pixel: rings from here on are high frequencies
CROP = 192


@dataclass(frozen=True)
class Place:
    """One run: `samples` chains of a seed on one measurement of a photograph, scaled to `size` pixels square."""

    photo: str
    size: int
    task: str
    method: str
    iterations: int
    seed: int
    samples: int

    @property
    def name(self) -> str:
        return f"{self.photo}-{self.size}-{self.task}-{self.method}-{self.iterations}"


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def high_power(images: Tensor) -> float:
    """Mean power of images `[N, C, H, W]` at frequencies from `SHARP` cycles a pixel on."""
    ky, kx = (torch.fft.fftfreq(n) for n in images.shape[-2:])
    high = torch.hypot(ky[:, None], kx[None, :]) >= SHARP
    return float(torch.fft.fft2(images, norm="ortho").abs().square().double().mean(dim=(0, 1))[high].mean())


def judged(samples: Tensor, truth: Tensor) -> Row:
    """What samples `[K, C, H, W]`, K > 1, are like beside the photograph `[1, C, H, W]`, images in [0, 1].

    single, mean: RMS error of one sample (RMS over the K) and of their mean. spread: standard deviation over samples,
    RMS over pixels. error_over_spread: RMS error of the mean over what it would be, `spread sqrt(1 + 1 / K)`, were the
    photograph one more draw from the law of the samples: 1 is calibrated, above 1 the samples are too sure. sharpness:
    high-frequency power of a sample over that of the photograph.
    """
    mean, count = samples.mean(dim=0, keepdim=True), len(samples)
    spread, error = rms(samples.std(dim=0)), rms(mean - truth)
    return {
        "single": rms(samples - truth),
        "mean": error,
        "spread": spread,
        "error_over_spread": error / (spread * (1 + 1 / count) ** 0.5) if spread > 0 else float("inf"),
        "sharpness": high_power(samples) / high_power(truth),
        "sharpness_of_mean": high_power(mean) / high_power(truth),
    }


def save_crop(image: Tensor, name: str) -> None:
    """The middle of an image `[C, H, W]`, at full resolution."""
    top, left = (max(0, length - CROP) // 2 for length in image.shape[-2:])
    PICTURES.mkdir(parents=True, exist_ok=True)
    picture(level(image[:, top : top + CROP, left : left + CROP])).save(PICTURES / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--tested", nargs="+", default=list(TESTED), help="patterns, one photograph each")
    parser.add_argument("--exclude", nargs="*", default=list(NO_PHOTOGRAPHS), help="patterns of what is no photograph")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--iterations", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile the denoiser: faster after half a minute")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    files = photographs(args.photos, args.exclude, args.size)
    tested = [[f for f in files if fnmatch(f.name, pattern)] for pattern in args.tested]
    for pattern, found in zip(args.tested, tested, strict=True):
        if len(found) != 1:
            raise SystemExit(f"curves: --tested: {len(found)} photographs fit {pattern!r}, expected one")
    held_out = [f for f in files if any(fnmatch(f.name, pattern) for pattern in {*TESTED, *args.tested})]
    size = (args.size, args.size)
    others = torch.cat([read_photo(f, size) for f in files if f not in held_out])
    denoise = FFDNet(others[:1], compiled=args.compile)
    filters = {method: Filters(others, method) for method in args.methods}
    file = args.results / "rows.jsonl"
    tasks = {name: TASKS[name](size) for name in args.tasks}
    for (photo,), (name, task) in product(tested, tasks.items()):
        truth = read_photo(photo, size)
        save_crop(truth[0], f"{photo.stem}-{args.size}-truth")
        save_crop(F.interpolate(truth, CROP, mode="area")[0], f"{photo.stem}-{args.size}-whole")
        save_crop(task.start(task.measure(truth, args.seed))[0], f"{photo.stem}-{args.size}-{name}-start")
    # Few iterations first: wherever the queue is stopped, curves end at one count.
    for iterations, (photo,), (name, task), method in product(args.iterations, tested, tasks.items(), args.methods):
        place = Place(photo.stem, args.size, name, method, iterations, args.seed, args.samples)
        if select(read(file), **asdict(place)):
            continue
        truth = read_photo(photo, size)
        y = task.measure(truth, args.seed)
        wall, cpu = time.perf_counter(), time.process_time()
        samples = restore(denoise, y, task, filters[method], iterations, args.samples, args.seed)
        row = judged(samples, truth) | {"measured": rms(y - truth), "start": rms(task.start(y) - truth)}
        row |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        append(file, rounded({**asdict(place), **row, "filters_from": len(others)}))
        for kind, image in (("sample", samples[0]), ("mean", samples.mean(dim=0))):
            save_crop(image, f"{place.name}-{kind}")
        print(f"{place.name}: {255 * row['single']:.2f}, {row['cpu_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
