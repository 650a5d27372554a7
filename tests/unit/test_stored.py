"""Files of priors and spectra: whatever is no such file is one sentence, as for preconditioners (test_arguments.py)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tdas_ops import Spectrum
from tdas_ops.prior import Prior

SHAPE = (2, 5, 6)
GENERATOR = torch.Generator().manual_seed(4)
IMAGES = torch.rand((6, *SHAPE), generator=GENERATOR, dtype=torch.float64)
MADE = {"Prior": Prior.from_images(IMAGES), "Spectrum": Spectrum.from_images(IMAGES, phases=True)}
ABOUT = {
    "Prior": {"format": "tdas_ops.Prior/1", "basis": '"mean"', "provenance": "{}"},
    "Spectrum": {"format": "tdas_ops.Spectrum/1", "shape": "[2, 5, 6]", "slope": "2.0"},
}
DOUBLE = {"dtype": torch.float64}
TENSORS = {
    "Prior": {"mean": torch.zeros(SHAPE, **DOUBLE), "variance": torch.zeros(0, **DOUBLE)},
    "Spectrum": {"mean": torch.zeros(2, **DOUBLE), "matrices": torch.eye(2, **DOUBLE).expand(5, 4, 2, 2).clone()},
}
KINDS = sorted(MADE)


def refused(kind: str, path: object, message: str = "path: got", error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=message) as caught:
        type(MADE[kind]).load(path)
    assert f"saved {kind}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "pipe", "a\0b"):
        refused(kind, path, "path: got .* which is no file")
    refused(kind, 3, "path: got int", TypeError)


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    MADE[kind].save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:4], whole[:60], whole[:-1], b"\xff" * 8 + whole[8:], b"PK", b"\x1b[31m"):
        path.write_bytes(content)
        refused(kind, path, r"path: got .* \(")


METADATA = [
    ("Prior", {"format": None}), ("Prior", {"format": "tdas_ops.Prior/2"}), ("Prior", {"basis": None}),
    ("Prior", {"basis": '["mean"]'}), ("Prior", {"basis": '"dct"'}), ("Prior", {"basis": "{"}),
    ("Prior", {"provenance": None}), ("Prior", {"provenance": "[1]"}), ("Prior", {"provenance": "[" * 100_000}),
    ("Spectrum", {"format": "tdas_ops.Prior/1"}), ("Spectrum", {"shape": None}), ("Spectrum", {"shape": "[2, 5]"}),
    ("Spectrum", {"shape": '"256"'}), ("Spectrum", {"shape": "2"}), ("Spectrum", {"shape": "[2, 5, 7.5]"}),
    ("Spectrum", {"shape": "[2, 5, 0]"}), ("Spectrum", {"shape": "["}), ("Spectrum", {"slope": '"2"'}),
    ("Spectrum", {"slope": "NaN"}), ("Spectrum", {"slope": "1" + "0" * 400}), ("Spectrum", {"slope": None}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change"), METADATA, ids=lambda value: str(value)[:30])
def test_metadata_of_something_else(kind: str, change: dict[str, str | None], tmp_path: Path) -> None:
    save_file(TENSORS[kind], tmp_path / "file", metadata=ABOUT[kind])
    type(MADE[kind]).load(tmp_path / "file")
    about = {name: value for name, value in (ABOUT[kind] | change).items() if value is not None}
    save_file(TENSORS[kind], tmp_path / "file", metadata=about)
    refused(kind, tmp_path / "file")


ODD = [
    ("Prior", {"mean": None}), ("Prior", {"variance": None}), ("Prior", {"device": torch.zeros(1)}),
    ("Prior", {"mean": torch.zeros(SHAPE).long()}), ("Prior", {"mean": torch.full(SHAPE, torch.nan)}),
    ("Prior", {"variance": torch.ones(3)}), ("Prior", {"vectors": torch.zeros(0, *SHAPE)}),
    ("Spectrum", {"mean": torch.zeros(3)}), ("Spectrum", {"mean": torch.zeros(2).long()}),
    ("Spectrum", {"matrices": None}), ("Spectrum", {"matrices": torch.ones(5, 4, 2, 2).long()}),
    ("Spectrum", {"matrices": torch.zeros(5, 4, 2, 2, 3)}), ("Spectrum", {"matrices": torch.zeros(5, 4, 2, 2, 2, 2)}),
    ("Spectrum", {"matrices": torch.full((5, 4, 2, 2), torch.inf)}), ("Spectrum", {"other": torch.zeros(1)}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change"), ODD, ids=lambda value: str(value)[:30])
def test_tensors_of_something_else(kind: str, change: dict[str, torch.Tensor | None], tmp_path: Path) -> None:
    tensors = {name: value for name, value in (TENSORS[kind] | change).items() if value is not None}
    save_file(tensors, tmp_path / "file", metadata=ABOUT[kind])
    refused(kind, tmp_path / "file")


def test_values_that_json_does_not_know(tmp_path: Path) -> None:
    p = Prior(IMAGES[0], basis="mean", provenance={"who": object()})
    with pytest.raises(ValueError, match=r"provenance: got .*, expected values that JSON knows"):
        p.save(tmp_path / "file")
    assert not (tmp_path / "file").exists()


BAD: dict[str, Callable[[], object]] = {
    "device: got 'nowhere', expected one that torch knows": lambda: MADE["Prior"].to("nowhere"),
    "device: got 'cuda:99', expected one that is here": lambda: Prior(IMAGES[0], basis="mean", device="cuda:99"),
    "shape: got \\(2, 5\\), expected \\(C, H, W\\), all positive": lambda: Spectrum(
        (2, 5), *TENSORS["Spectrum"].values()
    ),
    "slope: got str, expected a number": lambda: Spectrum(SHAPE, *TENSORS["Spectrum"].values(), slope="2"),
}


@pytest.mark.parametrize("message", BAD)
def test_arguments_are_refused_in_one_sentence(message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message]()
