"""tdas-ops filter: what it makes of pictures, what it replaces, and what it refuses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_cli import SMALL, record, tdas

import tdas_ops
from tdas_ops import _pictures


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of two runs and their grid."""
    out = tmp_path_factory.mktemp("made") / "out"
    assert tdas("sample", "--method", "plain", "--method", "pds", *SMALL, "--out", out) == 0
    return out


def test_filter_makes_one_that_sample_takes(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.safetensors"
    folder = made / "pds_3"
    assert tdas("filter", folder, "-o", file, "--grey", "--method", "tdas", "--alpha", 2, "--no-progress") == 0
    M = tdas_ops.Preconditioner.load(file)
    assert M.method == "tdas" and M.shape == (1, 32, 32) and M.provenance["images"] == 4
    images = torch.stack([_pictures.read_picture(p) for p in sorted(folder.iterdir())]).double() / 255
    expected = tdas_ops.Preconditioner.from_images(images, 2.0, "tdas")
    torch.testing.assert_close(M.freq, expected.freq)
    torch.testing.assert_close(M.space, expected.space)
    with Image.open(tmp_path / "f.png") as sheet:
        assert sheet.width > 300
    assert tdas("sample", *SMALL, "--filter", file, "--out", tmp_path / "out") == 0
    assert record(tmp_path / "out")["runs"][0]["method"] == "tdas"
    assert tdas("sample", *SMALL, "--method", "pds", "--filter", file, "--out", tmp_path / "other") == 2
    assert "got a filter of method 'tdas', expected 'pds'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    tdas_ops.Preconditioner.from_images(images, 3.0, "tdas").save(file)
    assert tdas("sample", "--repeat", tmp_path / "out/run.json", "--out", tmp_path / "other") == 2
    assert "which has changed, expected the filter of the run.json" in capsys.readouterr().err


def test_filter_scales_pictures_and_leaves_masks_out(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    assert tdas("filter", made / "plain_3", "-o", file, "--size", 8, 12, "--no-space", "--no-progress") == 0
    M = tdas_ops.Preconditioner.load(file)
    assert M.shape == (3, 8, 12) and M.space is None and M.freq is not None


def test_calibrate_is_called_filter(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its old name works for one release and says so."""
    said = []
    for name in ("filter", "calibrate"):
        options = ["-o", tmp_path / f"{name}.safetensors", "--grey", "--alpha", 3]
        assert tdas(name, made / "pds_3", *options) == 0
        said.append(capsys.readouterr().err)  # no bar either, since this is no terminal
    notice = "tdas-ops: `tdas-ops calibrate` is called `tdas-ops filter` now; the old name goes with the next release\n"
    assert said == ["", notice]
    assert (tmp_path / "filter.png").read_bytes() == (tmp_path / "calibrate.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "folder: got nowhere, expected a folder"),
        ([".", "--alpha", "0.5"], "alpha: got 0.5, expected a finite number greater than 1"),
        ([".", "--method", "ddim"], "method: got 'ddim', expected 'pds' or 'tdas'"),
        ([".", "--size", "0", "4"], "--size: got 0 4, expected two positive numbers"),
        ([".", "-o", "nowhere/f.safetensors"], "in a folder that exists"),
        ([".", "-o", "f.txt"], "expected a file FOLDER/NAME.safetensors"),
        ([".", "--no-space", "--no-freq"], "got freq=False and space=False"),
        (["."], "without pictures"),
    ],
)
def test_filter_refuses(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tdas("filter", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_filter_replaces_an_earlier_filter_and_nothing_else(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sheet = tmp_path / "f.safetensors", tmp_path / "f.png"
    command = ["filter", made / "pds_3", "--grey", "--no-progress", "-o", file]
    assert tdas(*command) == 0 and tdas(*command, "--alpha", 2) == 0
    assert tdas_ops.Preconditioner.load(file).provenance["alpha"] == 2
    mine = tdas_ops.Preconditioner.identity((1, 2, 2))

    def drawn_by_others() -> None:
        sheet.write_bytes((made / "grid.png").read_bytes())

    def made_by_others() -> None:
        mine.save(file)

    def network() -> None:
        file.write_bytes(b"weights")

    def link() -> None:
        sheet.unlink()
        sheet.symlink_to(made / "grid.png")

    for change in (drawn_by_others, made_by_others, network, sheet.unlink, link):
        assert tdas(*command[:-1], tmp_path / "new.safetensors") == 0
        (tmp_path / "new.safetensors").replace(file)
        (tmp_path / "new.png").replace(sheet)
        change()
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        capsys.readouterr()
        monkeypatch.setattr(tdas_ops.Preconditioner, "from_images", lambda *a, **k: pytest.fail("pictures were read"))
        assert tdas(*command) == 2
        monkeypatch.undo()
        error = capsys.readouterr().err
        assert "which is no earlier filter with its picture beside it" in error and error.count("\n") == 1
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        sheet.unlink(missing_ok=True)


def test_filter_names_a_new_file_by_itself(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plain_3", "pds_3"):
        assert tdas("filter", made / name, "--grey", "--no-progress") == 0
    assert sorted(os.listdir()) == ["filter-2.png", "filter-2.safetensors", "filter.png", "filter.safetensors"]
    shutil.copytree(made / "plain_3", "data")
    for _ in range(2):  # the picture of a filter is no data
        assert tdas("filter", "data", "--grey", "-o", "data/f.safetensors", "--no-progress") == 0
    assert tdas_ops.Preconditioner.load("data/f.safetensors").provenance["images"] == 4


def test_filter_says_what_it_left_out(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(made / "plain_3", tmp_path / "data")
    (tmp_path / "data/a\x1b[31m.png").write_bytes(b"no picture")
    command = ["filter", tmp_path / "data", "--grey", "--no-progress", "-o", tmp_path / "f.safetensors"]
    assert tdas(*command) == 0
    said = capsys.readouterr()
    assert said.err.startswith("tdas-ops: images: 1 of 5 pictures could not be read") and said.err.count("\n") == 1
    assert r"a\x1b[31m.png" in said.err and "from 4 pictures" in said.out
    assert tdas(*command, "--strict") == 2
    assert "which cannot be read as a picture" in capsys.readouterr().err


def test_filter_that_cannot_write_reads_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tdas_ops.Preconditioner, "from_images", lambda *a, **k: pytest.fail("pictures were read"))
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # beyond it writes fail, as on a full disk
        assert tdas("filter", made / "pds_3", "-o", tmp_path / "f.safetensors") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    assert tdas("filter", made / "pds_3", "-o", f"/proc/{'f'}.safetensors") == 2
    assert "/proc/f.png" in capsys.readouterr().err
