"""The compiled kernels: loaded where they were built, explained where they were not.

They are a library on torch's stable ABI, for torch 2.11 and every newer one, and `tdas_ops._C`, for one Python, which
has its switches.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tdas_ops import _remedy

LIBRARY = "libtdas_ops.so"


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    if importlib.util.find_spec("tdas_ops._C") is None:
        _adopt()
    spec = importlib.util.find_spec("tdas_ops._C")
    if spec is None:
        return None, _not_built()
    try:
        torch.ops.load_library(str(Path(spec.origin or "").with_name(LIBRARY)))
        module = importlib.import_module("tdas_ops._C")
    except (ImportError, OSError) as error:
        detail = str(error).splitlines()[0]
        problem = f"tdas_ops._C does not load beside torch {torch.__version__} ({detail})"
        return None, f"{problem}: type `{_remedy.reinstall()}`"
    return module, None


def _adopt() -> None:
    """Lets a source tree that was not built use the extension of an installed copy, if that has the same sources.

    Python started in the source tree after `pip install .` imports the tree, not what was installed.
    """
    installed = _remedy.installed_copy() if _remedy.source_tree() and not record() else None
    if installed is not None and _remedy.same_sources(installed):
        sys.modules["tdas_ops"].__path__.append(str(installed))


def _not_built() -> str:
    command = f"type `{_remedy.reinstall()}`"
    if left_out():
        return f"tdas_ops was built without compiled kernels, as TDAS_OPS_BUILD=none asks: to have them {command}"
    root, installed = _remedy.source_tree(), _remedy.installed_copy()
    if root is not None and installed is not None and not _remedy.same_sources(installed):
        return (
            f"tdas_ops comes from the source tree {root}, where tdas_ops._C is not built, and not from the installed "
            f"{installed}, whose sources differ: for those start Python in another folder (and take the tree out of "
            f"PYTHONPATH), for the tree {command}"
        )
    problem = "tdas_ops._C is not built"
    if others := sorted(path.name for path in _remedy.PACKAGE.glob("_C.*")):
        problem = f"tdas_ops._C was built for another Python ({', '.join(others)})"
    if _remedy.compiler_missing():
        problem += ", and no C++ compiler is found: install one (Debian and Ubuntu: apt install g++), then "
        return f"{problem}{command}"
    return f"{problem}: {command}"


def load() -> ModuleType | None:
    """The extension module, or None where it cannot be used; `reason` then says why."""
    return _load()[0]


def reason() -> str | None:
    """One sentence on why the extension cannot be used and what to type, or None where it can."""
    return _load()[1]


def record() -> dict[str, str]:
    """What the build of this copy left (setup.py): `asked`, its TDAS_OPS_BUILD, and `cuda_kernels`, whether and why."""
    for folder in sys.modules["tdas_ops"].__path__:
        try:
            return json.loads(Path(folder, "_build.json").read_text())
        except (OSError, ValueError):
            continue
    return {}


def left_out() -> bool:
    """Whether whoever built this copy wanted no compiled kernels."""
    return record().get("asked") == "none"


def description() -> dict[str, Any]:
    """What was built and why, or why it cannot be used, as plain values."""
    module, missing = _load()
    return {**record(), **({"missing": missing} if module is None else module.build_info())}
