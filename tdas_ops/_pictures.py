"""PNG pictures of samples: one a sample, and a labelled grid of several runs."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS = 12
_CELL, _GAP, _LABEL, _LINE = 64, 4, 250, 17


def picture(levels: Tensor) -> Image.Image:
    """A picture of 8-bit levels `[C, H, W]`, C = 1 (grey) or 3 (RGB)."""
    return Image.fromarray(levels[0].numpy() if levels.shape[0] == 1 else levels.permute(1, 2, 0).contiguous().numpy())


def encoded(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def read_picture(path: Path, shape: tuple[int, int, int] | None = None) -> Tensor:
    """8-bit levels `[C, H, W]` of a PNG file that `picture` made.

    Raises:
        ValueError: it is another file by now, or of another shape than the one that is asked for.
    """
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            values = torch.from_numpy(np.array(opened))
    except Exception as error:  # a broken file raises what the decoder happens to stumble on
        raise ValueError(f"got {path} ({error}), expected a picture of the run") from None
    levels = values[None] if values.dim() == 2 else values.permute(2, 0, 1)
    if levels.dtype is not torch.uint8 or (shape is not None and levels.shape != shape):
        raise ValueError(f"got {path} of shape {tuple(levels.shape)}, expected a picture of the run, {shape}")
    return levels


def grid(
    rows: Sequence[tuple[Sequence[str], Sequence[Tensor]]], title: str = "", columns: int = COLUMNS
) -> Image.Image:
    """One row a run: lines of text, then up to `columns` of its pictures `[C, H, W]`, at least 64 pixels each."""
    columns = min(columns, max(len(pictures) for _, pictures in rows))
    height, width = rows[0][1][0].shape[1:]
    factor = max(1, -(-_CELL // max(height, width)))
    cell_height, cell_width = max(height * factor, 4 * _LINE) + _GAP, width * factor + _GAP
    top = 2 * _LINE if title else _GAP
    font = ImageFont.load_default(size=13)
    margin = max(_LABEL, *(math.ceil(font.getlength(line)) + 16 for lines, _ in rows for line in lines))
    colour = any(p.shape[0] == 3 for _, pictures in rows for p in pictures)
    sheet = Image.new("RGB" if colour else "L", (margin + columns * cell_width, top + len(rows) * cell_height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((8, 8), title, fill="black", font=font)
    for row, (lines, pictures) in enumerate(rows):
        y = top + row * cell_height
        for line, text in enumerate(lines):
            pen.text((8, y + line * _LINE), text, fill="black", font=font)
        for column, levels in enumerate(pictures[:columns]):
            enlarged = picture(levels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (margin + column * cell_width, y))
    return sheet
