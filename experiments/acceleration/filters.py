"""The filter of every method at an iteration count, from the training images of a data set."""

from __future__ import annotations

from typing import Literal

import torch

from experiments.acceleration.data import Dataset
from experiments.acceleration.families import Family
from experiments.acceleration.points import MASKS
from tdas_ops import Preconditioner, calibrate
from tdas_ops.preconditioner import ImageStatistics

CALIBRATED: dict[str, Literal["pds", "tdas"]] = {"calibrated": "pds", "calibrated-tdas": "tdas"}


class Filters:
    """Makes filters: `filters(method, alpha, masks, iterations)`.

    Args:
        data, family: what is sampled, and how.
        device: of the filters.
        images: the first of the training images, from which they are made; 0 for all of them.
    """

    def __init__(self, data: Dataset, family: Family, device: torch.device | str = "cpu", images: int = 0) -> None:
        self.shape, self.family, self.device = data.shape, family, device
        train = data.train[: images or None]
        self.target = calibrate.Target.from_images(family.encode(train))
        statistics = ImageStatistics()
        for part in train.split(1024):
            statistics.add(part)
        self.statistics = statistics.result()

    def __call__(self, method: str, alpha: float, masks: str, iterations: int) -> Preconditioner | list[Preconditioner]:
        """One filter, or one an iteration."""
        if method == "schedule":
            made = calibrate.schedule(self.target, self.family.run(iterations))
            return [M.to(self.device) for M in made]
        return self._one(method, alpha, masks, iterations).to(self.device)

    def _one(self, method: str, alpha: float, masks: str, iterations: int) -> Preconditioner:
        if method == "plain":
            return Preconditioner.identity(self.shape)
        if method in CALIBRATED:
            return calibrate.calibrated(self.target, self.family.run(iterations), CALIBRATED[method])
        return self._fixed(method, alpha, masks)

    def _fixed(self, method: str, alpha: float, masks: str) -> Preconditioner:
        freq, space = MASKS[masks]
        raw = (self.statistics[0] if freq else None, self.statistics[1] if space else None)
        return Preconditioner.from_statistics(*raw, alpha, method)
