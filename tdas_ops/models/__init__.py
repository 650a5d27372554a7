"""Score networks, and the models that ship with the package.

```python
model = tdas_ops.models.load("digits")
x = model.few_step(8, eta=1.0, start="gaussian").sample(model.score, (16, *model.shape), noise)
M = model.filters("schedule", iterations=4)
x = tdas_ops.samplers.pc(model.score, (16, *model.shape), model.sde, M, noise=noise, iterations=4)
model.evaluator(x)  # Frechet distance to held-out digits, beside that of real ones
```
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tdas_ops.models.frechet import Evaluator, Quality, frechet_distance
from tdas_ops.models.model import METHODS, STARTS, Method, Model, Start, Statistics, matched_alpha, method_named
from tdas_ops.models.unet import ScoreUNet

_NAMES = ("digits",)


def available() -> list[str]:
    """Names of the embedded models."""
    return list(_NAMES)


def load(name: str, device: torch.device | str = "cpu") -> Model:
    """An embedded model, ready to sample on a device.

    Raises:
        ValueError: no such model.
        FileNotFoundError: the package was installed without the model's files.
    """
    if name not in _NAMES:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(_NAMES)}")
    settings = importlib.import_module(f"tdas_ops.models.{name}")
    folder = Path(str(settings.__file__)).parent
    for file in ("weights", "statistics", "features"):
        if not (folder / f"{file}.safetensors").is_file():
            raise FileNotFoundError(f"models: {folder / file}.safetensors is missing, expected it inside the package")
    with safe_open(folder / "weights.safetensors", framework="pt") as weights:
        config = json.loads(weights.metadata()["config"])
    network = ScoreUNet(**config)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    network = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(
        name=name,
        network=network,
        sde=settings.SDE,
        shape=settings.SHAPE,
        snr=settings.SNR,
        start_sigma=settings.START_SIGMA,
        statistics=Statistics(**load_file(folder / "statistics.safetensors")),
        evaluator=Evaluator.load(folder / "features.safetensors"),
        device=torch.device(device),
    )


__all__ = [
    "METHODS",
    "STARTS",
    "Evaluator",
    "Method",
    "Model",
    "Quality",
    "ScoreUNet",
    "Start",
    "Statistics",
    "available",
    "frechet_distance",
    "load",
    "matched_alpha",
    "method_named",
]
