"""What people have as images is read right, or refused with the name of the file and the reason."""

from __future__ import annotations

import os
import socket
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tdas_ops import Preconditioner, _images

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 8, 3)).astype(np.uint8)
GREY = LEVELS[..., 0]
DEEP = (np.random.default_rng(1).integers(0, 65536, (5, 8))).astype(np.uint16)


def read(images: Any, **options: Any) -> torch.Tensor:
    """All images, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader = _images.Reader(progress=False, **options)
        found = torch.cat(list(reader.read(images)))
        reader.report()
        return found


def grey(levels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(levels.astype(np.float64))[None, None]


def colour(levels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(levels.astype(np.float64)).permute(2, 0, 1)[None] / 255


def tiff(path: Path, levels: np.ndarray, **tags: int) -> None:
    """A little-endian TIFF of one strip, as TIFF 6.0 has it."""
    bits, photometric, kind = levels.dtype.itemsize * 8, tags.get("photometric", 1), tags.get("kind", 1)
    data = levels.tobytes()
    entries = [(256, levels.shape[1]), (257, levels.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8),
               (277, 1), (278, levels.shape[0]), (279, len(data)), (339, kind)]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(entries)) + table + struct.pack("<I", 0))


DEEP_FILES: dict[str, Callable[[Path], object]] = {
    "a.png": lambda path: Image.fromarray(DEEP).save(path),
    "a.tif": lambda path: Image.fromarray(DEEP).save(path),
    "plain.tif": lambda path: tiff(path, DEEP),
    "inverted.tif": lambda path: tiff(path, 65535 - DEEP, photometric=0),
    "a.pgm": lambda path: path.write_bytes(b"P5 8 5 65535\n" + DEEP.astype(">u2").tobytes()),
    "float.tif": lambda path: Image.fromarray((DEEP / 65535).astype(np.float32)).save(path),
}


@pytest.mark.parametrize("name", DEEP_FILES)
def test_more_than_8_bits_are_read_to_their_own_white(name: str, tmp_path: Path) -> None:
    DEEP_FILES[name](tmp_path / name)
    torch.testing.assert_close(read(tmp_path, grey=True), grey(DEEP) / 65535, atol=1e-6, rtol=0)
    assert torch.equal(read(tmp_path)[:, 2], read(tmp_path, grey=True)[:, 0])
    half = read(tmp_path, size=(3, 4), grey=True)
    assert half.shape == (1, 1, 3, 4) and 0.2 < float(half.mean()) < 0.8


def test_a_filter_of_16_bit_pictures_is_that_of_their_values(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    made = Preconditioner.from_images(tmp_path, grey=True, progress=False)
    expected = Preconditioner.from_images(grey(DEEP) / 65535)
    torch.testing.assert_close(made.freq, expected.freq, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(made.space, expected.space, atol=1e-6, rtol=1e-6)


MODES = {
    "1": (Image.fromarray(GREY).convert("1"), None),
    "L": (Image.fromarray(GREY), grey(GREY).expand(1, 3, -1, -1) / 255),
    "P": (Image.fromarray(LEVELS).convert("P", palette=Image.Palette.ADAPTIVE), None),
    "RGB": (Image.fromarray(LEVELS), colour(LEVELS)),
    "RGBA": (Image.fromarray(LEVELS).convert("RGBA"), colour(LEVELS)),
    "LA": (Image.fromarray(GREY).convert("LA"), grey(GREY).expand(1, 3, -1, -1) / 255),
    "CMYK": (Image.fromarray(LEVELS).convert("CMYK"), colour(LEVELS)),
    "YCbCr": (Image.fromarray(LEVELS).convert("YCbCr"), None),
    "HSV": (Image.fromarray(LEVELS).convert("HSV"), None),
    "I;16": (Image.fromarray(DEEP), (grey(DEEP) / 65535).expand(1, 3, -1, -1)),
    "F": (Image.fromarray((DEEP / 65535).astype(np.float32)), (grey(DEEP) / 65535).expand(1, 3, -1, -1)),
    "RGBX": (Image.fromarray(LEVELS).convert("RGBX"), colour(LEVELS)),
    "RGBa": (Image.fromarray(LEVELS).convert("RGBA").convert("RGBa"), colour(LEVELS)),
    "La": (Image.fromarray(GREY).convert("LA").convert("La"), grey(GREY).expand(1, 3, -1, -1) / 255),
    "PA": (Image.fromarray(GREY).convert("PA"), None),
    "LAB": (Image.new("LAB", (8, 5), (150, 9, 200)), None),
    "I;16B": (Image.frombytes("I;16B", (8, 5), DEEP.astype(">u2").tobytes()), (grey(DEEP) / 65535).expand(1, 3, 5, 8)),
    "I;16L": (Image.frombytes("I;16L", (8, 5), DEEP.tobytes()), (grey(DEEP) / 65535).expand(1, 3, -1, -1)),
    "I;16N": (Image.frombytes("I;16N", (8, 5), DEEP.tobytes()), (grey(DEEP) / 65535).expand(1, 3, -1, -1)),
}  # fmt: skip
REFUSED_MODES = {
    "I": (Image.fromarray(DEEP.astype(np.int32)), "32-bit integers"),
    "F": (Image.fromarray(DEEP.astype(np.float32)), "got values from"),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read(mode: str) -> None:
    picture, expected = MODES[mode]
    found = read([picture])
    assert picture.mode == mode and found.shape == (1, 3, 5, 8)
    known = colour(np.array(picture.convert("RGB"))) if expected is None else expected
    torch.testing.assert_close(found, known.double(), atol=1e-6, rtol=0)
    assert read([picture], grey=True).shape == (1, 1, 5, 8)
    assert read([picture], size=(2, 3)).shape == (1, 3, 2, 3)


@pytest.mark.parametrize("mode", REFUSED_MODES)
def test_a_mode_whose_white_is_unknown_is_refused(mode: str) -> None:
    picture, reason = REFUSED_MODES[mode]
    with pytest.raises(ValueError, match=f"images: got picture 0, which cannot be read .*{reason}"):
        read([picture])


def test_no_mode_of_pillow_is_left_out() -> None:
    assert set(Image.MODES) <= set(MODES) | set(REFUSED_MODES)


def test_transparency_and_pages_are_said(tmp_path: Path) -> None:
    clear = Image.fromarray(LEVELS).convert("RGBA")
    clear.save(tmp_path / "opaque.png")
    clear.putpixel((1, 1), (9, 9, 9, 0))
    clear.save(tmp_path / "clear.png")
    pages = [Image.fromarray(LEVELS), Image.fromarray(255 - LEVELS)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning) as said:
        Preconditioner.from_images(tmp_path, progress=False)
    messages = [str(warning.message) for warning in said]
    assert len(messages) == 2
    assert "1 of 3 pictures have transparent parts" in messages[0] and messages[0].endswith("clear.png")
    assert "1 of 3 pictures have further pages" in messages[1] and messages[1].endswith("pages.tif")


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BROKEN = {
    "empty.png": b"",
    "text.jpg": b"no picture",
    "bomb.png": png((b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")),
    "wide.png": png((b"IHDR", struct.pack(">IIBBBBB", 5000, 4000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")),
    "header.png": png((b"IHDR", b"\0\0")),
    "checksum.png": png((b"IHDR", struct.pack(">IIBBBBB", 8, 5, 8, 2, 0, 0, 0)))[:-1] + b"x",
    "text_bomb.png": png(
        (b"IHDR", struct.pack(">IIBBBBB", 8, 5, 8, 2, 0, 0, 0)),
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 24))),
        (b"IDAT", b""),
    ),
    "directory.tif": b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 9) + b"\xff" * 20,
    "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    "a\x1b[31m\n.gif": b"GIF89a",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_one_sentence_with_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match="which cannot be read as a picture") as caught:
        Preconditioner.from_images(tmp_path, progress=False)
    message = str(caught.value)
    assert name.split("\x1b")[0] in message and message.isprintable() and "expected a picture" in message
    for index in range(4):
        Image.fromarray(LEVELS).save(tmp_path / f"{index}.png")
    with pytest.raises(ValueError, match="which cannot be read as a picture"):
        Preconditioner.from_images(tmp_path, strict=True, progress=False)
    with pytest.warns(UserWarning, match="1 of 5 pictures could not be read and are left out"):
        made = Preconditioner.from_images(tmp_path, progress=False)
    assert made.provenance["images"] == 4 and made.provenance["skipped"] == 1


def test_only_pictures_that_people_see_are_data(tmp_path: Path) -> None:
    hidden = (".hidden.png", "._3.png", ".ipynb_checkpoints/3.png", ".thumbnails/3.png", "@eaDir/3.png")
    for name in ("b/1.png", "a/2.png", "3.PNG", "filter.png", *hidden):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(LEVELS).save(tmp_path / name)
    Preconditioner.identity((3, 5, 8)).save(tmp_path / "filter.safetensors")
    (tmp_path / "notes.txt").write_text("")
    found = [path.relative_to(tmp_path).as_posix() for path in _images.picture_files(tmp_path)]
    assert found == ["3.PNG", "a/2.png", "b/1.png"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(LEVELS).save(tmp_path / "elsewhere/1.png")
    root = tmp_path / "data"
    (root / "cats").mkdir(parents=True)
    Image.fromarray(LEVELS).save(root / "cats/0.png")
    (root / "dogs").symlink_to(tmp_path / "elsewhere")
    (root / "cats/up").symlink_to(root)
    (tmp_path / "elsewhere/back").symlink_to(root)
    found = [path.relative_to(root).as_posix() for path in _images.picture_files(root)]
    assert found == ["cats/0.png", "dogs/1.png"]


def test_what_is_no_file_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        with pytest.warns(UserWarning, match="3 of 4 pictures could not be read .*gone.png.*pipe.png.*socket.png"):
            made = Preconditioner.from_images(tmp_path, progress=False)
    assert made.provenance["images"] == 1


def test_sizes_that_differ_name_the_file(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "a.png")
    Image.fromarray(LEVELS[:, :7]).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png of 5 x 7 pixels after \S*a\.png of 5 x 8, .*--size H W"):
        read(tmp_path)
    assert read(tmp_path, size=(4, 4)).shape == (2, 3, 4, 4)


def test_telephones_turn_their_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(LEVELS).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read(tmp_path), colour(np.rot90(LEVELS, -1).copy()))
    Image.fromarray(DEEP).save(tmp_path / "a.png", exif=exif)
    torch.testing.assert_close(read(tmp_path, grey=True), grey(np.rot90(DEEP, -1).copy()) / 65535, atol=1e-6, rtol=0)


class Pairs:
    """A dataset that has a length and elements, and no end of them."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.roll(LEVELS, index, 0)), index


STACK = np.stack([np.roll(LEVELS, index, 0) for index in range(4)])
UINT8 = torch.from_numpy(STACK).permute(0, 3, 1, 2).contiguous()
EXPECTED = UINT8.double() / 255


def loader() -> Iterator[Any]:
    return iter(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(UINT8, torch.arange(4)), batch_size=3))


HAVE: dict[str, Callable[[], Any]] = {
    "uint8 tensor": lambda: UINT8,
    "uint16 tensor": lambda: (UINT8.int() * 257).to(torch.uint16),
    "float16 tensor": lambda: EXPECTED.half(),
    "uint8 array": lambda: STACK,
    "array with channels first": lambda: UINT8.numpy(),
    "array that is a view": lambda: STACK[:, ::-1][:, ::-1],
    "big-endian array": lambda: EXPECTED.numpy().astype(">f4"),
    "read-only array": lambda: np.frombuffer(STACK.tobytes(), np.uint8).reshape(STACK.shape),
    "float array with channels last": lambda: STACK / 255,
    "PIL images": lambda: [Image.fromarray(levels) for levels in STACK],
    "arrays": lambda: list(STACK),
    "tensors": lambda: list(EXPECTED),
    "batches": lambda: EXPECTED.split(3),
    "images and labels": loader,
    "a dataset": lambda: torch.utils.data.TensorDataset(EXPECTED, torch.arange(4)),
    "a dataset without an end": lambda: Pairs(),
    "lists of pairs": lambda: [[Pairs()[0], Pairs()[1]], [Pairs()[2], Pairs()[3]]],
    "a list a batch": lambda: [list(EXPECTED[:3]), [EXPECTED[3]]],
    "rows of a table": lambda: [{"image": Image.fromarray(levels), "label": 0} for levels in STACK],
    "one above one": lambda: EXPECTED + 9e-7,
    "one below zero": lambda: EXPECTED - 9e-7,
}


@pytest.mark.parametrize("name", HAVE)
def test_what_people_have_is_taken(name: str) -> None:
    found = read(HAVE[name]())
    torch.testing.assert_close(found.double(), EXPECTED, atol=5e-4 if "float16" in name else 1e-6, rtol=0)
    assert float(found.min()) >= 0 and float(found.max()) <= 1


def test_paths_are_taken(tmp_path: Path) -> None:
    for index, levels in enumerate(STACK):
        Image.fromarray(levels).save(tmp_path / f"{index}.png")
    files = sorted(tmp_path.iterdir())
    assert torch.equal(read(files), EXPECTED) and torch.equal(read(str(file) for file in files), EXPECTED)


def test_grey_arrays_have_one_channel() -> None:
    assert torch.equal(read([GREY]), grey(GREY) / 255)
    assert torch.equal(read([GREY > 100]), grey(GREY > 100))


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a number": (3, {}, "images: got int, expected"),
    "numbers": ([3], {}, "images: got int, expected"),
    "nothing inside": ([[]], {}, "images: got list, expected"),
    "a table": ({"x": 1}, {}, "images: got dict, expected"),
    "rows of other names": ([{"x\x1b": 1}], {}, r"images: got keys \['x.*x1b'\], expected"),
    "words": (np.array([["a"]]), {}, "images: got an array of <U1, expected"),
    "signed": (torch.zeros(1, 1, 2, 2, dtype=torch.int16), {}, "images: got torch.int16, expected"),
    "complex": (torch.zeros(1, 1, 2, 2, dtype=torch.complex64), {}, "images: got torch.complex64, expected"),
    "too large": (EXPECTED + 1e-5, {}, "images: got values from"),
    "too small": (EXPECTED - 1e-5, {}, "images: got values from"),
    "one image as a batch": (EXPECTED[0], {}, r"images: got shape \(3, 5, 8\), expected \[N, C, H, W\]"),
    "a size for tensors": (EXPECTED, {"size": (2, 2)}, r"images: got size=\(2, 2\) with tensors"),
    "grey tensors": (EXPECTED, {"grey": True}, "images: got grey with tensors"),
    "a missing file": (["nowhere.png"], {}, "images: got nowhere.png, which cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused(name: str) -> None:
    images, options, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        Preconditioner.from_images(images, progress=False, **options)
    assert "expected" in str(caught.value) and str(caught.value).isprintable()
