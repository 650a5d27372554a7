"""Libraries of others as the tests load them: what their samplers do not use is left out.

deepinv imports torchvision, h5py and natsort for data sets and pictures, k-diffusion a dozen others for training. Tests
that sample with them put blank modules in their places: they weigh gigabytes, and torchvision has to match torch to the
build, else it breaks diffusers too.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest


class _Blank(ModuleType):
    __path__: list[str] = []  # noqa: RUF012 (of a package)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Blanks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Blank(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def blank(*names: str) -> Iterator[None]:
    """Modules of these names that have anything one asks for, while the block runs."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in names}
    finder = _Blanks(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update(hidden)


def deepinv() -> ModuleType:
    """The module deepinv; skips the test where it is missing."""
    if importlib.util.find_spec("deepinv") is None:
        pytest.skip("deepinv is missing; `pip install --no-deps deepinv einops` provides what is needed of it")
    with blank("torchvision", "h5py", "natsort"):
        return importlib.import_module("deepinv")


def k_diffusion() -> ModuleType:
    """The module k_diffusion.sampling; skips the test where it is missing."""
    if importlib.util.find_spec("k_diffusion") is None:
        pytest.skip("k-diffusion is missing; `pip install --no-deps k-diffusion` provides what is needed of it")
    with blank(
        "cleanfid", "clip", "dctorch", "einops", "jsonmerge", "skimage", "torchdiffeq", "torchsde", "torchvision"
    ):
        return importlib.import_module("k_diffusion.sampling")


def azula() -> ModuleType:
    """The module azula.sample; skips the test where it is missing."""
    if importlib.util.find_spec("azula") is None:
        pytest.skip("azula is missing; `pip install --no-deps azula einops` provides what is needed of it")
    return importlib.import_module("azula.sample")
