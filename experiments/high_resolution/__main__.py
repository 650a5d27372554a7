"""Measures which pictures a public denoiser draws, row by row; what is there already is not made again.

python -m experiments.high_resolution --photos FOLDER
"""

from __future__ import annotations

import argparse
import time
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from benchmarks.rows import append, read, rounded, select
from experiments.high_resolution import data, measures
from experiments.high_resolution.methods import Painter
from experiments.high_resolution.plan import COUNTS, RESULTS, plan
from experiments.restoration.ffdnet import FFDNet
from tdas_ops import Spectrum
from tdas_ops._files import write_whole

DIGITS = 4  # of a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--out", type=Path, default=Path("build/high_resolution"), help="whole pictures, and a cache")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--evaluations", type=int, nargs="+", default=[8, 20])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    args.out.mkdir(parents=True, exist_ok=True)

    train, test = data.split(args.photos)
    cached = args.out / "photographs.pt"
    if not cached.exists():
        photos = data.read_all(train), data.read_all(test)
        write_whole(cached, lambda partial: torch.save(photos, partial))
    seen, unseen = torch.load(cached, weights_only=True)
    patches = data.crops(seen, data.PATCH, data.PATCHES, seed=1)
    denoise = FFDNet(patches[:1])
    spectrum = Spectrum.from_images(patches)

    @cache
    def errors(s: float) -> Spectrum:
        some = patches[::12]
        noisy = some + s * torch.randn(some.shape, generator=torch.Generator().manual_seed(5))
        return Spectrum.from_images(some - torch.cat([denoise(part, s) for part in noisy.split(4)]))

    @cache
    def reference(size: int) -> measures.Data:
        return measures.Data.of(data.Reference(unseen)(size), denoise)

    file = RESULTS / "rows.jsonl"
    for size in args.sizes:
        about = {"size": size, "evaluations": 0, "method": "photographs", "start": "-", "seed": 0}
        if not select(read(file), **about):
            append(file, rounded(about | reference(size).row, DIGITS))
    for size, evaluations, method, start in plan():
        row = {"size": size, "evaluations": evaluations, "method": method, "start": start, "seed": args.seed}
        if size not in args.sizes or evaluations not in args.evaluations or select(read(file), **row):
            continue
        lowest = next((float(part[7:]) for part in method.split() if part.startswith("lowest=")), 5.0)
        painter = Painter(denoise, spectrum, errors, lowest / 255)
        began = time.process_time()
        x = painter.paint(method, start, evaluations, size, COUNTS[size], args.seed)
        row |= {"pictures": len(x), "cpu_seconds": time.process_time() - began}
        row |= measures.measure(x, reference(size), denoise)
        name = f"{size}-{evaluations}-{method}-{start}".replace(" ", "-")
        levels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for i, picture in enumerate(levels):
            Image.fromarray(picture).save(args.out / f"{name}-{i}.png")
        append(file, rounded(row, DIGITS))
        print(name, " ".join(f"{v:.1f}" for v in row["rings"]), flush=True)


if __name__ == "__main__":
    main()
