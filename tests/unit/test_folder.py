"""What `tdas-ops` may replace and remove: what its own record lists, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fresh import python

from tdas_ops import _folder, _runs, cli, models
from tdas_ops._files import LOCK, fresh_files, locked, shown, write_whole
from tdas_ops._record import PCRun

SMALL = ["--samples", "2", "--iterations", "2", "--no-distance", "--no-progress"]


def tdas(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[_runs.Run]:
    """Samples of nothing, at once; says what was sampled."""
    runs: list[_runs.Run] = []

    def sample(study: _runs.Study, run: _runs.Run, *more: object) -> torch.Tensor:
        runs.append(run)
        return torch.full((study.settings.samples, *study.model.shape), run[1] / 10)

    model = models.load("digits")
    monkeypatch.setattr(models, "load", lambda name, device="cpu": model)
    monkeypatch.setattr(_runs.Study, "sample", sample)
    return runs


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: links with their targets, files with their bytes; the lock and its like left out."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == LOCK:
            continue
        mode = path.lstat().st_mode
        content: object = os.readlink(path) if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else None
        found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), content)
    return found


def foreign_folder(out: Path) -> None:
    (out / "plain_2").mkdir(parents=True)
    (out / "plain_2/thesis.txt").write_text("mine")


def foreign_grid(out: Path) -> None:
    out.mkdir()
    (out / "grid.png").write_text("mine")


def foreign_file(out: Path) -> None:
    out.mkdir()
    (out / "plain_2").write_text("mine")


def folder_is_a_link(out: Path) -> None:
    out.mkdir()
    (out.parent / "elsewhere").mkdir()
    (out / "plain_2").symlink_to(out.parent / "elsewhere")


def grid_is_a_link(out: Path) -> None:
    out.mkdir()
    (out.parent / "precious").write_text("mine")
    (out / "grid.png").symlink_to(out.parent / "precious")


def record_is_a_link(out: Path) -> None:
    assert tdas("sample", *SMALL, "--out", out) == 0
    (out / "run.json").rename(out.parent / "record")
    (out / "run.json").symlink_to(out.parent / "record")
    (out / "plain_2/0000.png").unlink()


def lock_is_a_link(out: Path) -> None:
    out.mkdir()
    (out.parent / "precious").write_text("mine")
    (out / LOCK).symlink_to(out.parent / "precious")


def files_beside_a_missing_picture(out: Path) -> None:
    assert tdas("sample", *SMALL, "--out", out) == 0
    (out / "plain_2/notes.txt").write_text("mine")
    (out / "plain_2/0000.png").unlink()


def another_picture_under_a_listed_name(out: Path) -> None:
    assert tdas("sample", *SMALL, "--out", out) == 0
    (out / "plain_2/0000.png").unlink()
    shutil.copy(Path(__file__), out / "plain_2/0001.png")


def another_grid_under_the_listed_name(out: Path) -> None:
    assert tdas("sample", *SMALL, "--out", out) == 0
    (out / "plain_2/0000.png").unlink()
    (out / "grid.png").write_text("mine")


def a_picture_that_no_longer_reads(out: Path) -> None:
    assert tdas("sample", *SMALL, "--out", out) == 0
    (out / "plain_2/0000.png").write_text("mine")
    (out / "grid.png").unlink()


FOREIGN: list[Callable[[Path], None]] = [
    foreign_folder,
    foreign_grid,
    foreign_file,
    folder_is_a_link,
    grid_is_a_link,
    record_is_a_link,
    lock_is_a_link,
    files_beside_a_missing_picture,
    another_picture_under_a_listed_name,
    another_grid_under_the_listed_name,
    a_picture_that_no_longer_reads,
]


@pytest.mark.parametrize("make", FOREIGN)
def test_what_others_made_is_refused_before_anything_is_sampled(
    make: Callable[[Path], None], tmp_path: Path, sampled: list[_runs.Run], capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "out")
    before = tree(tmp_path)
    sampled.clear()
    capsys.readouterr()
    assert tdas("sample", *SMALL, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("tdas-ops: ") and error.count("\n") == 1 and "expected" in error
    assert tree(tmp_path) == before and sampled == []


def test_what_is_beside_the_runs_stays(tmp_path: Path, sampled: list[_runs.Run]) -> None:
    out = tmp_path / "out"
    (out / "mine").mkdir(parents=True)
    for name in ("notes.txt", ".plain_2.partial", ".grid.partial.png", "mine/a", ".run.partial.json"):
        (out / name).write_text(name)
    (out / ".grid.partial.png").unlink()
    (out / ".grid.partial.png").symlink_to(tmp_path / "nowhere")
    before = tree(out)
    assert tdas("sample", *SMALL, "--out", out) == 0
    (out / "plain_2/0000.png").unlink()
    assert tdas("sample", *SMALL, "--method", "plain", "--method", "tdas", "--out", out) == 0
    assert sampled == [("plain", 2), ("plain", 2), ("tdas", 2)]
    after = tree(out)
    assert {name: after[name] for name in before} == before and not (tmp_path / "nowhere").exists()
    assert sorted(set(after) - set(before)) == [
        "grid.png", "plain_2", "plain_2/0000.png", "plain_2/0001.png", "run.json",
        "tdas_2", "tdas_2/0000.png", "tdas_2/0001.png",
    ]  # fmt: skip


def test_a_finished_folder_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert tdas("sample", *SMALL, "--out", out) == 0
    (out / LOCK).unlink()
    (out / "plain_2/notes.txt").write_text("mine")
    stamps = {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
    assert tdas("sample", *SMALL, "--out", out) == 0
    assert "finished before, kept" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]} == stamps


@pytest.mark.parametrize("stopped", ["pictures", "record", "exchange", "grid"])
def test_whatever_stops_the_writing_loses_nothing(
    stopped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    both = ["--method", "plain", "--method", "tdas"]
    assert tdas("sample", *SMALL, "--out", out) == 0
    (out / "plain_2/0000.png").unlink()
    before = tree(out)
    full = OSError(28, "No space left on device")

    def fails(*arguments: object, **named: object) -> None:
        raise full

    def fails_for(name: str, real: Callable[..., object], call: int) -> Callable[..., object]:
        calls = [0]

        def method(path: Path, *arguments: object) -> object:
            calls[0] += path.name.startswith(name)
            if path.name.startswith(name) and calls[0] == call:
                raise full
            return real(path, *arguments)

        return method

    if stopped == "pictures":
        monkeypatch.setattr(Path, "write_bytes", fails_for("0001.png", Path.write_bytes, 1))
    elif stopped == "record":
        real, calls = _folder.write_whole, []
        monkeypatch.setattr(
            _folder, "write_whole", lambda *a: fails() if calls.append(1) or len(calls) > 1 else real(*a)
        )
    elif stopped == "exchange":
        monkeypatch.setattr(Path, "rename", fails_for("new", Path.rename, 1))
    else:
        monkeypatch.setattr(_folder.Folder, "put_grid", fails)
    assert tdas("sample", *SMALL, *both, "--out", out) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and "the same command makes the rest" in error
    after = tree(out)
    if stopped != "grid":
        after.pop("run.json")
        before.pop("run.json")
        assert after == before
    assert not [name for name in after if Path(name).name.startswith(".")]
    monkeypatch.undo()
    monkeypatch.setattr(_runs.Study, "sample", lambda self, run, *more: torch.zeros(2, *self.model.shape))
    assert tdas("sample", *SMALL, *both, "--out", out) == 0
    assert len(list(out.rglob("000*.png"))) == 4


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"""
import os, signal
from tdas_ops import _folder, cli
real = _folder.Folder._check_pictures
def check(folder, path, name):
    os.kill(os.getpid(), signal.SIGKILL) if path.name == "old" else real(folder, path, name)
_folder.Folder._check_pictures = check
cli.main({["sample", *SMALL, "--iterations", "1", "--out", str(out)]!r})
"""
    assert python(code).returncode == -signal.SIGKILL
    left = sorted(path for path in out.iterdir() if path.name.startswith(".partial-"))
    assert (
        left[1:] == [out / f"{left[0].name}-batches"] and (left[0] / "new/0000.png").is_file() and (out / LOCK).exists()
    )
    # The lock of a process that is gone is free, and its settings bind nobody while no run is finished.
    assert tdas("sample", *SMALL, "--seed", 3, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == [LOCK, "grid.png", "plain_2", "run.json"]


def test_two_commands_do_not_meet_in_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sampled: list[_runs.Run]
) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        assert tdas("sample", *SMALL, "--out", tmp_path / "out") == 2
        assert "where another tdas-ops is at work, expected another folder" in capsys.readouterr().err
        assert sampled == [] and tree(tmp_path / "out") == {}
    assert tdas("sample", *SMALL, "--out", tmp_path / "out") == 0


def test_what_another_process_finished_meanwhile_is_kept(tmp_path: Path, sampled: list[_runs.Run]) -> None:
    settings = _runs.Settings(samples=2, distance=False)
    late = _runs.Study(settings, [PCRun("plain", 1), PCRun("plain", 2)], tmp_path / "out")
    early = _runs.Study(settings, [PCRun("plain", 2), PCRun("plain", 3)], tmp_path / "out")
    with early.opened():
        early.execute(lambda line: None, False)
    with late.opened():
        assert len(late.execute(lambda line: None, False)) == 2
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert [run["iterations"] for run in record["runs"]] == [2, 3, 1] and sampled[2:] == [("plain", 1)]


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("/proc/self/tdas", "No such file or directory"),
        ("file/sub", "File exists"),
        ("dangling", "File exists"),
        ("n" * 300, "File name too long"),
        ("loop/sub", "File exists"),
    ],
)
def test_an_impossible_folder_is_found_before_sampling(
    out: str,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    sampled: list[_runs.Run],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    before = tree(tmp_path)
    assert tdas("sample", *SMALL, "--out", out) == 2
    error = capsys.readouterr().err
    assert reason in error and error.startswith("tdas-ops: --out: got ") and error.count("\n") == 1
    assert sampled == [] and tree(tmp_path) == before


def test_a_folder_without_room_is_found_before_sampling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sampled: list[_runs.Run]
) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # beyond it writes fail, as on a full disk
        assert tdas("sample", *SMALL, "--samples", 500, "--out", tmp_path / "a/b/c") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert "a/b/c (File too large), expected a folder that can be written" in error and error.count("\n") == 1
    assert sampled == [] and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_found_before_sampling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sampled: list[_runs.Run]
) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    assert tdas("sample", *SMALL, "--out", tmp_path / "out") == 2
    assert "Permission denied" in capsys.readouterr().err and sampled == []


@pytest.mark.parametrize("command", ["sample", "demo"])
def test_the_default_folder_takes_the_second_command_too(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampled: list[_runs.Run]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = {"sample": "samples", "demo": "demo"}[command]
    option = {"sample": "--speedup", "demo": "--evaluations"}[command]
    options = ["--samples", "1", option, "30", "--no-progress"]
    assert tdas(command, *options) == 0
    count = len(sampled)
    assert tdas(command, *options) == 0 and len(sampled) == count
    assert tdas(command, *options, "--seed", 1) == 0
    assert tdas(command, *options, "--seed", 1) == 0 and len(sampled) == 2 * count
    Path(f"{name}-3").mkdir()
    Path(f"{name}-3/thesis.txt").write_text("mine")
    assert tdas(command, *options, "--seed", 2) == 0
    assert sorted(os.listdir()) == [name, f"{name}-2", f"{name}-3", f"{name}-4"]
    assert os.listdir(f"{name}-3") == ["thesis.txt"]


def test_a_repeated_record_does_not_meet_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tdas("sample", *SMALL) == 0 and tdas("sample", "--repeat", "samples/run.json", "--no-progress") == 0
    assert Path("samples-2/plain_2/0000.png").read_bytes() == Path("samples/plain_2/0000.png").read_bytes()


def test_files_have_the_permissions_of_the_user(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a.json", lambda path: path.write_text("a"))
        assert tdas("sample", *SMALL, "--out", tmp_path / "out") == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "a.json", *(tmp_path / "out").rglob("*.*n*")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640, path


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(KeyError), fresh_files(one, two) as (a, b):
        a.write_text("1")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with fresh_files(one, two) as (a, b):
        a.write_text("1")
        b.write_text("2")
        assert sorted(tmp_path.iterdir()) == sorted([a, b])
    assert (one.read_text(), two.read_text(), len(list(tmp_path.iterdir()))) == ("1", "2", 2)


def test_names_cannot_steer_a_terminal() -> None:
    assert shown("naïve été 漢") == "naïve été 漢"
    assert shown("a\x1b[31mb\nc\x9b\udcff\u202e") == r"a\x1b[31mb\nc\x9b\udcff\u202e"
