"""The compiled kernels, `tdas_ops._C`: loaded where they were built, explained where they were not."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

REBUILD = "run `pip install .` in the source tree"


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    if importlib.util.find_spec("tdas_ops._C") is None:
        return None, f"tdas_ops._C is not built: {REBUILD}"
    try:
        module = importlib.import_module("tdas_ops._C")
    except ImportError as error:
        detail = str(error).splitlines()[0]
        return None, f"tdas_ops._C does not load beside torch {torch.__version__} ({detail}): {REBUILD} to rebuild it"
    built, running = (version.split(".")[:2] for version in (module.torch_version, torch.__version__))
    if built != running:
        versions = f"built for torch {module.torch_version} and this is torch {torch.__version__}"
        return None, f"tdas_ops._C was {versions}: {REBUILD} to rebuild it"
    return module, None


def load() -> ModuleType | None:
    """The extension module, or None where it cannot be used; `reason` then says why."""
    return _load()[0]


def reason() -> str | None:
    """One sentence on why the extension cannot be used and what to type, or None where it can."""
    return _load()[1]


def record() -> dict[str, str]:
    """What the build of this copy left (setup.py): `asked`, its TDAS_OPS_BUILD, and `cuda_kernels`, whether and why."""
    try:
        return json.loads(Path(__file__).with_name("_build.json").read_text())
    except (OSError, ValueError):
        return {}


def description() -> dict[str, Any]:
    """What was built and why, or why it cannot be used, as plain values."""
    module, missing = _load()
    return {**record(), **({"missing": missing} if module is None else module.build_info())}
