"""What a data set is, apart from the ones there are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tdas_ops.models.frechet import Evaluator


@dataclass(frozen=True)
class Dataset:
    """Images `[N, C, H, W]` in [0, 1]: for training, and held out in two disjoint halves; and who compares.

    Attributes:
        sigma_max: the largest noise level of the VE families on these images, which has to drown them; None leaves that
            of the family, which was chosen for 32 pixels.
    """

    name: str
    train: Tensor
    half_a: Tensor
    half_b: Tensor
    evaluator: Evaluator
    sigma_max: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.train.shape[1:])  # type: ignore[return-value]
