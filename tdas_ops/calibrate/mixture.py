"""`Mixture`: a law of the data of several Gaussian bumps, for starts at lower levels than one bump allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tdas_ops import _arguments, ops
from tdas_ops.noise import NoiseStream
from tdas_ops.preconditioner import Preconditioner
from tdas_ops.prior import read_images

_FEWEST = 4
_POSITIVE = "a finite number greater than 0"
_RANK = 512
_IN_A_GROUP, _MOST = 25, 64
_TRIES, _ROUNDS = 4, 50


class Mixture:
    """Gaussian laws of groups of the data, each with its share: `start=` of `FewStep`, beside `Prior`.

    Groups are found by k-means. The covariance of a group is drawn towards that within all groups, since a group has
    few images; all of them live in the span of what images differ from their group's mean by.

    Made by `from_images`; it is immutable. Where a group has a single image and the covariance within is not drawn in,
    a start would copy images: compare the distance of samples to the nearest image with that of held-out ones.

    Attributes:
        shape: (C, H, W).
        basis: "mixture".
        share: `[K]`, of every group.
        mean: `[K, C, H, W]`, of every group.
        variance: `[K, R]`, of the components of every group, in squared units of x.
        vectors: `[K, R, R]`, the components of every group as rows, in coordinates of `within`.
        within: `[R, C, H, W]`, orthonormal. All of these float32, on `device`.
        device: where it is.
    """

    basis = "mixture"

    def __init__(self, share: Tensor, mean: Tensor, variance: Tensor, vectors: Tensor, within: Tensor) -> None:
        self.share, self.mean, self.variance, self.vectors, self.within = share, mean, variance, vectors, within
        channels, height, width = mean.shape[1:]
        self.shape: tuple[int, int, int] = (channels, height, width)
        self.device = mean.device

    @classmethod
    def from_images(cls, images: Any, groups: int | None = None, *, shrinkage: float = 0.5, seed: int = 0) -> Mixture:
        """From images in the units of x, some hundreds.

        Args:
            images: as in `Prior.from_images`.
            groups: how many, at most half the number of images; by default one for 25 images, 64 at most.
            shrinkage: from 0, every group with the covariance of its own images, to 1, all with that within groups.
            seed: of the groups; the result is a function of it.

        Raises:
            ValueError: fewer than four images, non-finite ones, too many groups, a shrinkage out of range.
        """
        x = read_images(images)
        if len(x) < _FEWEST:
            raise ValueError(f"images: got {len(x)}, expected at least {_FEWEST}")
        by_default = min(max(len(x) // _IN_A_GROUP, 1), _MOST)
        groups = by_default if groups is None else _arguments.whole("groups", groups, 1)
        if groups > len(x) // 2:
            raise ValueError(f"groups: got {groups} for {len(x)} images, expected at most {len(x) // 2}")
        shrinkage = _arguments.number("shrinkage", shrinkage)
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage: got {shrinkage}, expected a number from 0 to 1")
        flat = x.flatten(1)
        centres, group = _k_means(flat, groups, _arguments.whole("seed", seed, 0))
        apart = flat - centres[group]
        _, singular, within = torch.linalg.svd(apart, full_matrices=False)
        present = int((singular > 1e-7 * singular[0].clamp_min(1e-300)).sum())
        within = within[: min(_RANK, present, max(len(x) - groups, 1))]
        inside = apart @ within.T
        pooled = inside.T @ inside / max(len(x) - groups, 1)
        counts = torch.bincount(group, minlength=groups)
        own = torch.stack([_covariance(inside[group == k]) for k in range(groups)])
        variance, vectors = torch.linalg.eigh((1 - shrinkage) * own + shrinkage * pooled)
        made = (
            counts / len(x),
            centres.reshape(groups, *x.shape[1:]),
            variance.clamp_min(0),
            vectors.mT,
            within.reshape(-1, *x.shape[1:]),
        )
        return cls(*(t.float().contiguous() for t in made))

    def to(self, device: torch.device | str) -> Mixture:
        """The same law on another device (itself when it is there already)."""
        device = _arguments.device(device)
        own = (self.share, self.mean, self.variance, self.vectors, self.within)
        return self if device == self.device else Mixture(*(t.to(device) for t in own))

    def start(
        self, sigma: float, shape: Sequence[int], noise: NoiseStream, *, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """A sample of the law at a level; two draws of the stream, of which the second chooses the groups.

        Args: as in `Prior.start`.
        """
        if not 0 < _arguments.number("sigma", sigma, _POSITIVE) < math.inf:
            raise ValueError(f"sigma: got {sigma}, expected {_POSITIVE}")
        self.check(shape)
        white = Preconditioner.identity(self.shape, None).to(self.device)
        single = Preconditioner.identity((1, 1, 1), None).to(self.device)
        z = ops.noise(white, shape, noise)
        uniform = torch.special.ndtr(ops.noise(single, (shape[0], 1, 1, 1), noise).flatten())
        group = torch.searchsorted(self.share.cumsum(0)[:-1].contiguous(), uniform)
        within = self.within.flatten(1)
        inside = torch.empty(len(z), len(within), device=self.device)
        for k in group.unique().tolist():
            chosen = group == k
            gain = (self.variance[k] + sigma * sigma).sqrt() - sigma
            inside[chosen] = (z[chosen].flatten(1) @ within.T @ self.vectors[k].T * gain) @ self.vectors[k]
        return (self.mean[group] + sigma * z + (inside @ within).reshape(z.shape)).to(dtype)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """The denoised image of the law itself: that of every group, weighed by how likely x is of it.

        Args:
            x: `[B, C, H, W]`, `x0 + sigma z`, float32 or float64.
            sigma: its level, above 0.

        Raises:
            ValueError: x is of another shape, sigma is no positive number.
        """
        self.check(x.shape)
        if not 0 < _arguments.number("sigma", sigma, _POSITIVE) < math.inf:
            raise ValueError(f"sigma: got {sigma}, expected {_POSITIVE}")
        within, means, flat = self.within.flatten(1).to(x), self.mean.flatten(1).to(x), x.flatten(1)
        coordinates, of_means = flat @ within.T, means @ within.T
        likely, pulled = [], []
        for k, (variance, vectors) in enumerate(zip(self.variance.to(x), self.vectors.to(x), strict=True)):
            inside = (coordinates - of_means[k]) @ vectors.T
            power, total = inside.double().square(), variance + sigma * sigma
            outside = ((flat - means[k]).double().square().sum(1) - power.sum(1)) / sigma**2
            likely.append(self.share[k].log() - 0.5 * (outside + (power / total + total.log()).sum(1)))
            pulled.append((variance / total * inside) @ vectors)
        weight = torch.stack(likely).softmax(0).to(x.dtype)
        away = torch.einsum("kb,kbr->br", weight, torch.stack(pulled)) @ within
        return (weight.T @ means + away).reshape(x.shape)

    def check(self, shape: Sequence[int]) -> None:
        """Refuses a batch of another shape.

        Raises:
            ValueError: `shape` is not (B, C, H, W) with the C, H and W of the law.
        """
        sizes = _arguments.sizes("shape", shape, "(B, C, H, W), all positive")
        if len(sizes) != 4 or sizes[1:] != self.shape:
            raise ValueError(f"mixture: got shape {self.shape} for samples {sizes}, expected that of the samples")

    def __repr__(self) -> str:
        return f"Mixture(shape={self.shape}, groups={len(self.share)}, device={self.device})"


def _covariance(inside: Tensor) -> Tensor:
    away = inside - inside.mean(0)
    return away.T @ away / max(len(inside) - 1, 1)


def _k_means(x: Tensor, groups: int, seed: int) -> tuple[Tensor, Tensor]:
    """Centres `[K, D]` and the group of every image: the best of a few runs from centres far apart (k-means++)."""
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(_TRIES):
        centres = x[torch.randint(len(x), (1,), generator=generator)]
        while len(centres) < groups:
            away = torch.cdist(x, centres).amin(1).square()
            weight = away if float(away.sum()) > 0 else torch.ones_like(away)
            centres = torch.cat([centres, x[torch.multinomial(weight, 1, generator=generator)]])
        group = torch.cdist(x, centres).argmin(1)
        for _ in range(_ROUNDS):
            centres = torch.stack(
                [x[group == k].mean(0) if bool((group == k).any()) else c for k, c in enumerate(centres)]
            )
            before, group = group, torch.cdist(x, centres).argmin(1)
            if bool((before == group).all()):
                break
        cost = float((x - centres[group]).square().sum())
        if best is None or cost < best[0]:
            best = (cost, centres, group)
    assert best is not None
    return best[1], best[2]
