"""What samples are judged by, besides the Frechet distance of `tdas_ops.models.frechet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.rows import rounded
from tdas_ops.models.frechet import moments

NEIGHBOUR = 3


def coverage(of: Tensor, by: Tensor) -> float:
    """The share of points `of` `[N, K]` that lie in a ball around a point of `by` `[M, K]`, each ball reaching to the
    third-nearest neighbour within `by`."""
    radius = torch.cdist(by, by).kthvalue(NEIGHBOUR + 1, dim=1).values  # the first is the point itself
    return float((torch.cdist(of, by) <= radius).any(dim=1).double().mean())


def precision_recall(samples: Tensor, real: Tensor) -> tuple[float, float]:
    """Precision: the share of samples that look real; recall: the share of real images that the samples cover.

    Args:
        samples, real: features `[N, K]` and `[M, K]`.

    Source: Kynkaanniemi et al., arXiv 1904.06991, equations 1 and 2, with k = 3.
    """
    return coverage(samples, real), coverage(real, samples)


def pooled_moments(parts: Sequence[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance of the union of disjoint sets, given as (count, mean, unbiased covariance)."""
    total = sum(count for count, _, _ in parts)
    mean = sum((count * m for count, m, _ in parts), torch.zeros(())) / total
    scatter = sum(
        ((count - 1) * cov + count * torch.outer(m - mean, m - mean) for count, m, cov in parts), torch.zeros(())
    )
    return mean, scatter / (total - 1)


def kept_moments(features: Tensor) -> dict[str, Any]:
    """Mean and covariance of features `[N, K]` as a row keeps them, for `moments_of`: the latter by its lower triangle,
    both by four digits, as many as thousands of samples tell of them."""
    mean, cov = moments(features)
    lower = torch.tril_indices(*cov.shape)
    kept = {"mean": mean.tolist(), "covariance": cov[lower[0], lower[1]].tolist()}
    return {"samples": len(features), **rounded(kept, 4)}


def moments_of(rows: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the features of all samples of several rows, each of which keeps those of its own."""
    parts = []
    for row in rows:
        mean = torch.tensor(row["mean"], dtype=torch.float64)
        cov = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        lower = torch.tril_indices(*cov.shape)
        cov[lower[0], lower[1]] = torch.tensor(row["covariance"], dtype=torch.float64)
        parts.append((row["samples"], mean, cov + cov.tril(-1).T))
    return pooled_moments(parts)
