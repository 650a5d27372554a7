"""Images as people have them (folders, PIL images, arrays, tensors, batches with labels) to batches in [0, 1]."""

from __future__ import annotations

import os
import stat
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tdas_ops._files import shown

if TYPE_CHECKING:
    from PIL import Image

PIXELS = 1 << 24
"""Of one plane: its spectrum in float64 takes 256 MiB a channel."""

_FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm"),
}
_SUFFIXES = {suffix for suffixes in _FORMATS.values() for suffix in suffixes}
_NOT_DATA = {"@eaDir", "__MACOSX"}  # thumbnails and attributes that network drives and archives put beside pictures
_TOLERANCE = 1e-6
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF 6.0, section 8
_EXPECTED = "expected a floating-point tensor with values in [0, 1], or one of uint8 or uint16"


def in_unit_range(images: Tensor) -> Tensor:
    """The same values, those within 1e-6 outside [0, 1] clamped.

    Raises:
        ValueError: values further outside, or NaN.
    """
    low, high = float(images.min()), float(images.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise ValueError(f"images: got values from {low:.4g} to {high:.4g}, expected [0, 1]")
    return images.clamp(0, 1) if low < 0 or high > 1 else images


def batches(images: Tensor | Iterable[Any]) -> Iterator[Tensor]:
    """Batches `[N, C, H, W]` in the units of x, any range, of a tensor or an iterable of such tensors.

    Raises:
        ValueError: other things, another size than before, or, at the end, fewer than two images.
    """
    count, first = 0, torch.Size()
    for batch in [images] if isinstance(images, Tensor) else images:
        shaped = isinstance(batch, Tensor) and batch.dim() == 4 and 0 not in batch.shape[1:]
        if not shaped or not batch.dtype.is_floating_point:
            got = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
            raise ValueError(f"images: got {got}, expected floating-point batches [N, C, H, W]")
        if count and batch.shape[1:] != first:
            raise ValueError(f"images: got {tuple(batch.shape[1:])} after {tuple(first)}, expected one size")
        if len(batch):
            count, first = count + len(batch), batch.shape[1:]
            yield batch.detach()
    if count < 2:
        raise ValueError(f"images: got {count}, expected at least two")


class Reader:
    """Reads images once, and keeps count of what it left out.

    Args:
        size: (H, W) to which pictures are cropped (centre, aspect kept) and scaled.
        grey: read pictures as one channel instead of three.
        strict: refuse a picture that cannot be read instead of leaving it out.
        progress: show a progress bar for a folder or an iterable.

    Attributes:
        skipped: what was left out, each with the reason.
    """

    def __init__(
        self, size: tuple[int, int] | None = None, grey: bool = False, strict: bool = False, progress: bool = True
    ) -> None:
        self._fit, self._grey, self._strict, self._progress = size, grey, strict, progress
        self.skipped: list[str] = []
        self._first: tuple[str, tuple[int, ...]] | None = None
        self._transparent: list[str] = []
        self._paged: list[str] = []
        self._count = 0

    def read(self, images: Any) -> Iterator[Tensor]:
        """Batches `[N, C, H, W]`, floating-point in [0, 1].

        Args:
            images: as in `Preconditioner.from_images`.

        Raises:
            ValueError, TypeError: something that is no image, values outside [0, 1], pictures of different sizes.
        """
        if isinstance(images, str | os.PathLike):
            files, self.skipped = _walk(Path(images))
            self._refuse_skipped(self._strict or not files)
            if not files:
                raise ValueError(f"images: got {shown(images)} without pictures, expected files such as .png or .jpg")
            for file in tqdm(files, desc="reading pictures", unit="picture", disable=not self._progress):
                yield from self._file(file)
            self._refuse_skipped(not self._count)
        elif isinstance(images, Tensor):
            yield from self._tensor(images, batched=True)
        elif isinstance(images, np.ndarray):
            yield from self._array(images, batched=True)
        elif _is_picture(images):
            yield from self._item(images)
        elif isinstance(images, Mapping):
            raise TypeError(f"images: got {type(images).__name__}, expected images or an iterable of them")
        else:
            for item in tqdm(_items(images), desc="reading batches", unit="batch", disable=not self._progress):
                yield from self._item(item)
            self._refuse_skipped(not self._count)

    def read_and_report(self, images: Any) -> Iterator[Tensor]:
        """The same, with the warnings of `report` at the end."""
        yield from self.read(images)
        self.report()

    def report(self) -> None:
        """Warns of what was left out."""
        for what, names in (
            ("could not be read and are left out (strict refuses them)", self.skipped),
            ("have transparent parts, which are read as if they had none", self._transparent),
            ("have further pages, which are left out", self._paged),
        ):
            if names:
                first = "; ".join(names[:3])
                more = f"; and {len(names) - 3} more" if len(names) > 3 else ""
                total = self._count + len(self.skipped)
                warnings.warn(f"images: {len(names)} of {total} pictures {what}: {first}{more}", stacklevel=3)

    def _refuse_skipped(self, wanted: bool) -> None:
        if wanted and self.skipped:
            raise ValueError(f"images: got {self.skipped[0]}, expected a picture")

    def _item(self, item: Any) -> Iterator[Tensor]:
        """One element of an iterable: a picture, a batch, or one of these with its label."""
        if isinstance(item, Tensor):
            yield from self._tensor(item)
        elif isinstance(item, np.ndarray):
            yield from self._array(item)
        elif isinstance(item, str | os.PathLike):
            yield from self._file(Path(item))
        elif _is_picture(item):
            name = f"picture {self._count}"
            try:
                values = self._values(item, name)
            except Exception as error:
                raise ValueError(f"images: got {name}, which cannot be read ({error}), expected a picture") from None
            yield self._one_size(values, name)
        elif isinstance(item, Mapping) and "image" in item:
            yield from self._item(item["image"])
        elif isinstance(item, Sequence) and len(item):
            for part in item if _is_list_of_pictures(item) else item[:1]:
                yield from self._item(part)
        else:
            got = f"keys {shown(list(item))}" if isinstance(item, Mapping) else type(item).__name__
            raise TypeError(f"images: got {got}, {_EXPECTED}, an array, a PIL image, a path or (image, label)")

    def _tensor(self, images: Tensor, batched: bool = False) -> Iterator[Tensor]:
        if images.dtype not in (torch.uint8, torch.uint16, torch.bool) and not images.dtype.is_floating_point:
            raise TypeError(f"images: got {images.dtype}, {_EXPECTED}")
        if images.dim() == 3 and not batched:
            images = images[None]
        if images.dim() != 4 or 0 in images.shape[1:]:
            raise ValueError(f"images: got shape {tuple(images.shape)}, expected [N, C, H, W]")
        if self._fit is not None or self._grey:
            given = "grey" if self._fit is None else f"size={self._fit}"
            raise ValueError(f"images: got {given} with tensors or arrays, expected it with pictures only")
        images = images.detach()
        if images.dtype.is_floating_point:
            self._count += len(images)
            yield in_unit_range(images) if len(images) else images
            return
        white = {torch.uint8: 255, torch.uint16: 65535}.get(images.dtype, 1)
        for part in images.split(max(1, (1 << 22) // images[:1].numel())) if len(images) else ():
            self._count += len(part)
            yield part.double() / white

    def _array(self, images: np.ndarray, batched: bool = False) -> Iterator[Tensor]:
        if images.dtype.kind not in "bfu":
            raise TypeError(f"images: got an array of {images.dtype}, {_EXPECTED}")
        if not batched and images.ndim == 2:
            images = images[None]
        elif images.ndim in (3, 4) and images.shape[-1] in (1, 3) and images.shape[-3] not in (1, 3):
            images = np.moveaxis(images, -1, -3)  # [H, W, C], as Pillow and most others have it
        ordered = images.dtype.newbyteorder("=")
        if ordered.kind == "f" and ordered.itemsize not in (2, 4, 8):
            ordered = np.dtype(np.float64)
        yield from self._tensor(torch.from_numpy(np.array(images, dtype=ordered, order="C")), batched)

    def _file(self, file: Path) -> Iterator[Tensor]:
        from PIL import Image

        name = shown(file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, about metadata and about sizes that are within its bounds
                if not stat.S_ISREG(os.stat(file).st_mode):
                    raise ValueError("not a regular file")
                with Image.open(file, formats=list(_FORMATS)) as opened:
                    values = self._values(opened, name)
        except Exception as error:  # a broken file raises what the decoder happens to stumble on
            reason = shown(str(error) or type(error).__name__)
            self.skipped.append(f"{name}, which cannot be read as a picture ({reason})")
            self._refuse_skipped(self._strict)
            return
        yield self._one_size(values, name)

    def _one_size(self, values: Tensor, name: str) -> Tensor:
        """A batch of one, once its size was found to be that of the others."""
        shape = tuple(values.shape[1:])
        if self._first is None:
            self._first = (name, shape)
        elif self._first[1] != shape:
            raise ValueError(
                f"images: got {name} of {shape[0]} x {shape[1]} pixels after {self._first[0]} of {self._first[1][0]} x "
                f"{self._first[1][1]}, expected one size (--size H W or size=(H, W) crops and scales them)"
            )
        self._count += 1
        return values[None]

    def _values(self, picture: Image.Image, name: str) -> Tensor:
        """One picture as `[C, H, W]` float64 in [0, 1], whatever mode it has.

        Raises:
            Exception: it is broken, too large, or of a mode whose white is not known.
        """
        from PIL import Image, ImageOps

        if self._fit is None and picture.width * picture.height > PIXELS:
            raise ValueError(f"it has {picture.width} x {picture.height} pixels; a size up to {PIXELS} in all reads it")
        if getattr(picture, "n_frames", 1) > 1:
            self._paged.append(name)
        deep = picture.mode == "F" or picture.mode.startswith("I")
        white, inverted = _scale(picture) if deep else (255.0, False)  # before the file's tags are lost on the way
        upright = ImageOps.exif_transpose(picture)
        if deep:
            plane = in_unit_range(torch.from_numpy(np.array(upright, dtype=np.float64)) / white).numpy()
            upright = Image.fromarray((1 - plane if inverted else plane).astype(np.float32))
            white = 1.0
            if "transparency" in picture.info:
                self._transparent.append(name)
        else:
            if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
                upright = upright.convert("LA" if upright.mode == "La" else "RGBA").convert("RGBA")
                if float(np.array(upright)[..., 3].min()) < 255:
                    self._transparent.append(name)
            if upright.mode not in ("1", "L") or not self._grey:
                upright = upright.convert("RGB")
            if self._grey:
                upright = upright.convert("L")
        if self._fit is not None:
            upright = ImageOps.fit(upright, (self._fit[1], self._fit[0]), Image.Resampling.LANCZOS)
        values = (torch.from_numpy(np.array(upright)).double() / white).clamp(0, 1)
        if values.dim() == 3:
            return values.permute(2, 0, 1)
        return values.expand(1 if self._grey else 3, -1, -1)


def picture_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures below a folder, sorted by path. Links to folders are followed, each folder is entered once; hidden
    files and folders are left out.

    Raises:
        ValueError: the folder does not exist or holds no picture.
    """
    files, _ = _walk(Path(folder))
    if not files:
        raise ValueError(f"images: got {shown(folder)} without pictures, expected files such as .png or .jpg")
    return files


def _walk(root: Path) -> tuple[list[Path], list[str]]:
    """The pictures below a folder, and what could not be looked at, each with the reason."""
    if not root.is_dir():
        raise ValueError(f"images: got {shown(root)}, expected a folder")
    files: list[Path] = []
    skipped: list[str] = []
    folders, entered = [root], set()
    while folders:
        folder = folders.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(folder.iterdir(), reverse=True)
        except OSError as error:
            skipped.append(f"{shown(folder)}, which cannot be looked into ({error.strerror})")
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _NOT_DATA:
                continue
            if entry.is_dir():
                folders.append(entry)
            elif entry.suffix.lower() in _SUFFIXES and not entry.with_suffix(".safetensors").is_file():
                files.append(entry)  # a filter has its picture beside it
    return sorted(files), skipped


def _scale(picture: Image.Image) -> tuple[float, bool]:
    """What white is in a picture of more than 8 bits, and whether zero is white.

    Raises:
        ValueError: the file does not say.
    """
    tags = getattr(picture, "tag_v2", {})
    inverted = tags.get(_PHOTOMETRIC) == 0
    if picture.mode == "F":
        return 1.0, inverted
    if picture.mode.startswith("I;16"):
        return float((1 << int(tags.get(_BITS_PER_SAMPLE, (16,))[0])) - 1), inverted
    if picture.format in ("PNG", "PPM"):  # 16 bits in 32, which the decoder has scaled to all of the 16
        return 65535.0, inverted
    raise ValueError("32-bit integers, of which it is not known which is white")


def _items(images: Any) -> Iterable[Any]:
    """The elements of an iterable or of a dataset that has only a length and elements."""
    if hasattr(images, "__iter__"):
        return images
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        return (images[i] for i in range(len(images)))
    raise TypeError(f"images: got {type(images).__name__}, expected a folder, a tensor, or an iterable of images")


def _is_list_of_pictures(item: Sequence[Any]) -> bool:
    """Whether all parts of it are images, a batch as a list; of `(image, label)` and `[images, labels]` one part is."""
    if not isinstance(item, list):
        return False
    if all(isinstance(part, Tensor) for part in item):
        return all(part.dim() == 3 and part.shape == item[0].shape for part in item)
    return isinstance(item[0], tuple) or all(_is_picture(part) for part in item)


def _is_picture(value: Any) -> bool:
    """Whether it is a PIL image; where Pillow was never imported there is none."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)
