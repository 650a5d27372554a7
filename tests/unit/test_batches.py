"""A run of `tdas-ops sample` that was stopped goes on with its next batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdas_ops import calibrate, cli

SMALL = ["--samples", "4", "--iterations", "3", "--no-progress", "--no-distance"]


def tdas(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def stopping(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Stops the sampling where so many batches have been drawn; their sizes are in the list."""
    real, drawn = calibrate.Filtered.sample, list[int]()

    def sample(self: calibrate.Filtered, score: object, shape: tuple[int, ...], *more: object, **options: object):
        if len(drawn) == count:
            raise KeyboardInterrupt
        drawn.append(shape[0])
        return real(self, score, shape, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrate.Filtered, "sample", sample)
    return drawn


def test_a_stopped_run_goes_on_with_its_next_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = ["sample", *SMALL, "--samples", 5, "--batch", 2, "--iterations", 4]
    assert tdas(*command, "--out", whole) == 0
    drawn = stopping(monkeypatch, 4)  # in the second batch of the second run
    assert tdas(*command, "--out", out) == 130
    assert "interrupted; 1 of 2 runs are complete" in capsys.readouterr().err
    (batches,) = out.glob(".partial-*-batches/*")
    assert [path.name for path in batches.iterdir()] == ["000000000.safetensors"]
    drawn.clear()
    assert tdas(*command, "--out", out) == 0
    assert drawn == [2, 1]
    assert pictures(out) == pictures(whole)
    assert not [path for path in out.iterdir() if path.name.startswith(".partial")]


def test_batches_of_a_stopped_run_serve_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, command = tmp_path / "out", ["sample", *SMALL, "--samples", 3, "--batch", 1, "--out", tmp_path / "out"]
    drawn = stopping(monkeypatch, 2)
    assert tdas(*command) == 130
    (batches,) = out.glob(".partial-*-batches/*")
    torn = batches / "000000001.safetensors"
    torn.write_bytes(torn.read_bytes()[:-4])
    drawn.clear()
    drawn.append(0)
    assert tdas(*command) == 130  # the torn one is made again
    assert len(list(batches.iterdir())) == 2 and len(torn.read_bytes()) > 4 * 28 * 28
    monkeypatch.undo()
    assert tdas(*command, "--seed", 9) == 0  # no run is finished, so that other settings may have the folder
    assert not list(out.glob(".partial*"))
    assert tdas("sample", *SMALL, "--samples", 3, "--batch", 1, "--seed", 9, "--out", tmp_path / "else") == 0
    assert pictures(out) == pictures(tmp_path / "else")


def test_what_somebody_puts_among_the_batches_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    (mine / "000000000.safetensors").write_text("mine")
    command = ["sample", *SMALL, "--samples", 3, "--batch", 1, "--out", out]
    stopping(monkeypatch, 2)
    assert tdas(*command) == 130
    monkeypatch.undo()
    (batches,) = out.glob(".partial-*-batches/*")
    foreign = [batches / "notes.txt", batches.parent / "thesis.txt", batches.parent / "other/000000000.txt"]
    foreign[2].parent.mkdir()
    for path in foreign:
        path.write_text("mine")
    (batches.parent / "link").symlink_to(mine)
    assert tdas(*command) == 0
    assert [path.read_text() for path in foreign] == ["mine"] * 3
    assert (batches.parent / "link").is_symlink() and (mine / "000000000.safetensors").read_text() == "mine"
    assert not list(batches.glob("*.safetensors"))
    capsys.readouterr()


@pytest.mark.parametrize("place", ["", "-batches", "/thesis.txt"])
def test_what_stands_in_the_place_of_unfinished_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    out = tmp_path / "out"
    assert tdas("sample", *SMALL, "--out", out) == 0
    record = json.loads((out / "run.json").read_text())
    foreign = Path(f"{out / record['partial']}{place}")
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("mine")
    capsys.readouterr()
    assert tdas("sample", *SMALL, "--iterations", 2, "--out", out) == 2
    assert str(foreign) in capsys.readouterr().err and foreign.read_text() == "mine"
