"""Trains the denoiser: `python -m experiments.photographs.train --photos FOLDER`.

The loop is that of the other small networks (`experiments.acceleration.train`): resumable, averaged weights, bfloat16
around a linear part in float32. It prints the error of denoising held-out photographs beside that of the linear part.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from experiments.acceleration.families import NCSNpp
from experiments.acceleration.train import of_family, save_weights
from experiments.photographs.data import Photographs
from experiments.photographs.network import PATCH, Denoiser
from tdas_ops.models.training import Training
from tdas_ops.sde import VE

FOLDER = Path("build/photographs")
WEIGHTS = Path("build/photographs/weights.safetensors")
PATCHES = 30_000


class Patches(NCSNpp):
    """The parametrisation of NCSN++ on levels `[N, C, H, W]` uint8."""

    sde = VE(0.005, 20.0)

    def encode(self, images: Tensor) -> Tensor:
        return images.float() / 255


@torch.no_grad()
def errors(network: Denoiser, images: Tensor, sigmas: Sequence[float]) -> dict[float, tuple[float, float]]:
    """RMS error of the linear part and of the denoiser on images in [0, 1], by noise level."""
    found = {}
    for sigma in sigmas:
        generator, squares = torch.Generator().manual_seed(0), []
        for part in images.split(64):
            x = part + sigma * torch.randn(part.shape, generator=generator)
            level = torch.full((len(part),), sigma)
            both = network.linear(x, level), network.denoise(x, level)
            squares.append(torch.stack([(made - part).square().mean() for made in both]) * len(part))
        linear, whole = (torch.stack(squares).sum(0) / len(images)).sqrt().tolist()
        found[sigma] = (linear, whole)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs; see README.md")
    parser.add_argument("--runs", type=Path, default=FOLDER, help="folder of the checkpoint and of decoded photographs")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96])
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--report-every", type=int, default=500)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    photos = Photographs.read(args.photos, args.runs / "photographs.pt")
    spectrum = photos.spectrum()
    network = Denoiser(spectrum.shape, spectrum.slope, args.widths)
    network.fit(spectrum)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = (photos.train(PATCH, PATCHES) * 255).round().to(torch.uint8)
    unseen = photos.held_out(PATCH, 256)
    family = Patches("photographs", native=1000, centred=False)
    score = family.score(network, torch.bfloat16 if args.bfloat16 else None)
    loss = of_family(family, score, network)
    run, checkpoint = Training(network, args.steps, args.batch, args.rate, args.seed), args.runs / "denoiser.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    losses, began = [], time.process_time()
    while run.step < args.steps:
        losses.append(run.advance(images, loss))
        if run.step % args.report_every == 0 or run.step == args.steps:
            run.save(checkpoint)
            found = errors(run.average.module, unseen, (0.03, 0.1, 0.3, 1.0, 3.0))
            text = ", ".join(f"{sigma}: {linear:.4f} {whole:.4f}" for sigma, (linear, whole) in found.items())
            print(
                f"{run.step} {float(torch.stack(losses).mean()):.4f} {time.process_time() - began:.0f} s; {text}",
                flush=True,
            )
            losses.clear()
    save_weights(run, args.out, {"patches": len(images), "seed": args.seed})


if __name__ == "__main__":
    main()
