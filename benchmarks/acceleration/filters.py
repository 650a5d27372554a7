"""The filter of every method at an iteration count, from the training images of a data set."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.acceleration.data import Dataset
from benchmarks.acceleration.families import Family
from benchmarks.acceleration.points import MASKS
from tdas_ops import Preconditioner
from tdas_ops.preconditioner import ImageStatistics


class Filters:
    """Makes filters: `filters(method, alpha, masks, iterations)`."""

    def __init__(self, data: Dataset, family: Family, device: torch.device | str = "cpu") -> None:
        self.shape, self.family, self.device = data.shape, family, device
        statistics = ImageStatistics()
        statistics.add(data.train)
        self.statistics = statistics.result()

    def __call__(self, method: str, alpha: float, masks: str, iterations: int) -> Preconditioner:
        makers: dict[str, Callable[[], Preconditioner]] = {
            "plain": lambda: Preconditioner.identity(self.shape),
            "tdas": lambda: self._fixed("tdas", alpha, masks),
            "pds": lambda: self._fixed("pds", alpha, masks),
        }
        return makers[method]().to(self.device)

    def _fixed(self, method: str, alpha: float, masks: str) -> Preconditioner:
        freq, space = MASKS[masks]
        raw = (self.statistics[0] if freq else None, self.statistics[1] if space else None)
        return Preconditioner.from_statistics(*raw, alpha, method)
