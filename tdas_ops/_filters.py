"""Filters as files of the command line: what `tdas-ops filter` makes, and what `tdas-ops sample --filter` reads."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tdas_ops import _images
from tdas_ops._files import fresh_files, read_bounded, reserve
from tdas_ops._record import is_deep
from tdas_ops.preconditioner import Preconditioner

_PICTURE = 1 << 30  # bytes


def load_filter(path: str, device: torch.device | str = "cpu") -> Preconditioner:
    """A saved filter.

    Raises:
        ValueError: the file does not exist or is of another kind.
    """
    expected = "expected a file that `tdas-ops filter` or Preconditioner.save wrote"
    if not os.path.isfile(path):
        raise ValueError(f"--filter: got {path}, which is no file, {expected}")
    try:
        loaded = Preconditioner.load(path, device)
        # run.json gets it, and the table of runs shows its alpha.
        alpha = loaded.provenance.get("alpha", 0)
        if is_deep(loaded.provenance) or not (isinstance(alpha, int | float) and abs(alpha) < 1e300):
            raise ValueError("its provenance is not as it was written")
        return loaded
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"--filter: got {path} ({reason}), {expected}") from None


def filter_digest(M: Preconditioner) -> str:
    """SHA-256 of method and masks: equal for equal filters, whatever file they came from."""
    digest = hashlib.sha256(repr((M.method, M.shape)).encode())
    for mask in (M.freq, M.space, M.skew):
        digest.update(b"absent" if mask is None else mask.numpy().tobytes())
    return digest.hexdigest()


def make_filter(
    folder: Path, output: Path | None, size: tuple[int, int] | None, **settings: Any
) -> tuple[str, list[str]]:
    """Makes a filter from a folder of pictures, in a file with a picture of it beside.

    Args:
        folder: of the pictures.
        output: the file; None for the first free one of filter.safetensors, filter-2.safetensors and so on.
        size, settings: arguments of `Preconditioner.from_images`.

    Returns: what was made, in a line, and what was warned of.

    Raises:
        ValueError, OSError: bad settings, pictures or names, or a place that takes no files; nothing was written then.
    """
    if size is not None and not (min(size) >= 1 and size[0] * size[1] <= _images.PIXELS):
        raise ValueError(
            f"--size: got {size[0]} {size[1]}, expected two positive numbers with a product up to {_images.PIXELS}"
        )
    output, sheet = _places(output)
    with fresh_files(sheet, output) as (drawn, written):
        reserve(output.absolute().parent, 1 << 20)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            made = Preconditioner.from_images(folder, size=size, **settings)
        made.picture(drawn)
        made.save(written)
        _check_places(output, sheet)
    pictures = made.provenance["images"]
    line = f"{output}: {made.method} filter of shape {made.shape} from {pictures} pictures; {sheet} shows it"
    return line, [str(warning.message) for warning in said]


def _places(output: Path | None) -> tuple[Path, Path]:
    """Where a filter and its picture go: to the files of an earlier filter or to new ones.

    Raises:
        ValueError: a bad name, a missing folder, or other files in the place.
    """
    if output is None:
        for number in itertools.count(1):
            output = Path("filter.safetensors" if number == 1 else f"filter-{number}.safetensors")
            if not (os.path.lexists(output) or os.path.lexists(output.with_suffix(".png"))):
                break
    assert output is not None
    if output.suffix != ".safetensors" or output.is_dir() or not output.absolute().parent.is_dir():
        raise ValueError(f"--output: got {output}, expected a file FOLDER/NAME.safetensors in a folder that exists")
    sheet = output.with_suffix(".png")
    _check_places(output, sheet)
    return output, sheet


def _check_places(output: Path, sheet: Path) -> None:
    """Only a filter together with the picture of it may be replaced: both are of an earlier `tdas-ops filter`."""
    found = [path for path in (output, sheet) if os.path.lexists(path)]
    if not found:
        return
    if len(found) == 2 and not any(path.is_symlink() for path in found):
        with suppress(ValueError, OSError):
            earlier = load_filter(str(output))
            with tempfile.TemporaryDirectory() as scratch:
                earlier.picture(Path(scratch) / "sheet.png")
                if read_bounded(sheet, _PICTURE) == (Path(scratch) / "sheet.png").read_bytes():
                    return
    raise ValueError(
        f"--output: got {found[-1]}, which is no earlier filter with its picture beside it, expected another name"
    )
