"""Quality of samples: the Frechet distance between features of samples and features of held-out images.

The features come from a small classifier of the same kind of images, so the figures of one model compare with each
other and with nothing else: this is not FID, which is defined by one particular network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[K]` and unbiased covariance `[K, K]` of features `[N, K]`, in float64.

    Raises:
        ValueError: not `[N >= 2, K]`, or non-finite features.
    """
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(f"features: got shape {tuple(features.shape)}, expected [N >= 2, K]")
    features = features.double()
    if not bool(features.isfinite().all()):
        raise ValueError("features: got non-finite values, expected finite ones")
    return features.mean(dim=0), torch.cov(features.T).reshape(features.shape[1], features.shape[1])


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """`|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` of two normal distributions, in squared units of the features.

    Args:
        mean1, mean2: `[K]`.
        cov1, cov2: `[K, K]`, symmetric and positive semidefinite; singular ones are fine (fewer samples than features).

    Returns: the distance, computed in float64.

    Raises:
        ValueError: shapes that do not belong together, or non-finite values.

    Source: Dowson and Landau (1982), equation 2; the trace is taken through `C1^(1/2) C2 C1^(1/2)`, which is symmetric,
    so that no complex or negative eigenvalue can appear beyond rounding.
    """
    size = mean1.numel()
    if any(m.shape != (size,) for m in (mean1, mean2)) or any(c.shape != (size, size) for c in (cov1, cov2)):
        shapes = [tuple(t.shape) for t in (mean1, cov1, mean2, cov2)]
        raise ValueError(f"frechet_distance: got shapes {shapes}, expected [K], [K, K], [K], [K, K]")
    mean1, cov1, mean2, cov2 = (t.detach().double().cpu() for t in (mean1, cov1, mean2, cov2))
    if not all(bool(t.isfinite().all()) for t in (mean1, cov1, mean2, cov2)):
        raise ValueError("frechet_distance: got non-finite values, expected finite ones")
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0).sqrt().sum()
    return max(0.0, float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross))


class FeatureNetwork(nn.Module):
    """A small convolutional classifier; `features(x)` is its last hidden layer before the rectifier.

    Args:
        channels: image channels C.
        size: height and width, divisible by 8.
        width: number of features.
        classes: number of classes.

    `forward(x)`: images `[B, C, size, size]` in [0, 1] to logits `[B, classes]`.
    """

    def __init__(self, channels: int = 1, size: int = 32, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.config = {"channels": channels, "size": size, "width": width, "classes": classes}
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((channels, 24), (24, 48), (48, 64))
        )
        self.hidden = nn.Linear(64 * (size // 8) ** 2, width)
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        hidden: Tensor = self.hidden(x.flatten(1))
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.features(x)))
        return logits


@dataclass(frozen=True)
class Quality:
    """A measured Frechet distance.

    Attributes:
        distance: between the features of the samples and those of half B of the held-out images.
        floor: the same for real images: mean over subsets of half A, each of `floor_count` images, against half B. A
            distance is biased upwards when its count is small; the floor carries the same bias.
        floor_scatter: standard deviation over those subsets, the scale below which a difference means nothing.
        count: number of samples.
        floor_count: `count`, or the size of half A where that is smaller.
    """

    distance: float
    floor: float
    floor_scatter: float
    count: int
    floor_count: int


class Evaluator:
    """Compares samples with held-out images of one model's data; made by `Evaluator.load`.

    Args:
        network: feature network with its weights.
        mean: `[64]`, mean of the training features.
        projection: `[64, K]`, to the leading principal components of the training features, each of unit variance.
        half_a, half_b: projected features `[N, K]` of two disjoint halves of the held-out images.
    """

    subsets = 20

    def __init__(
        self, network: FeatureNetwork, mean: Tensor, projection: Tensor, half_a: Tensor, half_b: Tensor
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.mean, self.projection = mean.double(), projection.double()
        self.half_a, self.half_b = half_a.double(), half_b.double()

    @classmethod
    def load(cls, path: str | Path) -> Evaluator:
        """Reads the features file of a model, on the CPU."""
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        parts = {name: tensors.pop(name) for name in ("mean", "projection", "half_a", "half_b")}
        width, channels = tensors["hidden.weight"].shape[0], tensors["convolutions.0.weight"].shape[1]
        size = 8 * math.isqrt(tensors["hidden.weight"].shape[1] // tensors["convolutions.2.weight"].shape[0])
        network = FeatureNetwork(channels, size, width, tensors["head.weight"].shape[0])
        network.load_state_dict(tensors)
        return cls(network, **parts)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Projected features `[N, K]` (float64, CPU) of images `[N, C, H, W]`, which are clamped to [0, 1]."""
        parts = [self.network.features(part.float().cpu().clamp(0, 1)) for part in torch.split(images, 256)]
        return (torch.cat(parts).double() - self.mean) @ self.projection

    def floor(self, count: int) -> tuple[float, float, int]:
        """Mean and standard deviation of the floor, and its count; the same subsets at every call."""
        count = min(count, len(self.half_a))
        generator = torch.Generator().manual_seed(0)
        target = moments(self.half_b)
        distances = []
        for _ in range(self.subsets):
            chosen = torch.randperm(len(self.half_a), generator=generator)[:count]
            distances.append(frechet_distance(*moments(self.half_a[chosen]), *target))
        measured = torch.tensor(distances, dtype=torch.float64)
        return float(measured.mean()), float(measured.std()), count

    def __call__(self, images: Tensor) -> Quality:
        """The Frechet distance of images `[N >= 2, C, H, W]`, and its floor.

        Raises:
            ValueError: fewer than two images, or non-finite ones.
        """
        distance = frechet_distance(*moments(self.features(images)), *moments(self.half_b))
        floor, scatter, floor_count = self.floor(len(images))
        return Quality(distance, floor, scatter, len(images), floor_count)
