"""The families on larger images, whose VE ladders begin higher: noise has to drown the images there."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from experiments.acceleration.dataset import Dataset
from experiments.acceleration.families import Family
from tdas_ops.sde import VE


def changed(family: Family, **own: Any) -> Family:
    """The same family with class attributes of its own."""
    return type(type(family).__name__, (type(family),), own)(**asdict(family))


def for_data(family: Family, data: Dataset) -> Family:
    """The family with the largest noise level that the data need; families without one, and digits, are as they were.

    Source: Song and Ermon, arXiv 2006.09011, technique 1; the published values are 90 for faces of 64 pixels and 378
    for photographs of 256.
    """
    if data.sigma_max is None:
        return family
    sde = getattr(family, "sde", None)
    if isinstance(sde, VE):
        return changed(family, sde=replace(sde, sigma_max=data.sigma_max))
    return changed(family, sigma_max=data.sigma_max) if hasattr(family, "sigma_max") else family
