"""Batches of a run that is not finished, each a file, so that a run that was stopped goes on with the next one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tdas_ops._files import write_whole


class Batches:
    """The batches of one run in a folder; where that does not exist (on a machine that does not share it), none is
    found and none is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:09d}.safetensors"

    def made(self, index: int, shape: Sequence[int]) -> Tensor | None:
        """The batch of this number, float32 on the CPU, where it is there and whole."""
        file = self._file(index)
        if not file.is_file() or file.is_symlink():
            return None
        try:
            found = load_file(file).get("samples")
        except (SafetensorError, OSError):
            return None
        like = found is not None and tuple(found.shape) == tuple(shape) and found.dtype is torch.float32
        return found if like else None

    def keep(self, index: int, samples: Tensor) -> None:
        """Writes a batch, whole or not at all."""
        if self.folder.is_dir():
            write_whole(self._file(index), lambda name: save_file({"samples": samples.contiguous()}, name))
