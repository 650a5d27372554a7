"""`run.json` from anywhere: what is not as this program writes it is one sentence, before anything is done."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tdas_ops import Preconditioner, _filters, cli
from tdas_ops._record import LadderRun, Settings, read_record, run_of


def tdas(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A record as the program writes it."""
    out = tmp_path_factory.mktemp("written") / "out"
    assert tdas("sample", "--samples", 2, "--iterations", 1, "--seeds", "3,5", "--no-progress", "--out", out) == 0
    return json.loads((out / "run.json").read_text())


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], Any]:
    def changed(record: dict[str, Any]) -> Any:
        inner: Any = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to
        return record

    return changed


def without(*path: Any) -> Callable[[dict[str, Any]], Any]:
    def changed(record: dict[str, Any]) -> Any:
        inner: Any = record
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return record

    return changed


def few(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """The only run as one of another sampler."""

    def changed(record: dict[str, Any]) -> Any:
        entry = record["runs"][0]
        for name in ("method", "iterations", "filter"):
            del entry[name]
        settings = {"sampler": "dpmpp", "evaluations": 1, "order": 1, "eta": 0.0, "ladder": "karras", "start": "none"}
        entry.update({**settings, "sigma": None, "pictures": FEW_PICTURES, **changes})
        return record

    return changed


FEW_PICTURES = ["dpmpp_1_order1_eta0/0000_seed3.png", "dpmpp_1_order1_eta0/0001_seed5.png"]


def again(record: dict[str, Any]) -> Any:
    record["runs"] *= 2
    return record


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda r: [r], "no or another format"),
    "a number": (lambda r: 3, "no or another format"),
    "null": (lambda r: None, "no or another format"),
    "another format": (change("format", to="tdas_ops runs/9"), "no or another format"),
    "a format that is a list": (change("format", to=[]), "no or another format"),
    "no settings": (without("settings"), "settings is missing"),
    "settings in a list": (change("settings", to=[]), "settings is [], expected an object"),
    "a setting of tomorrow": (change("settings", "sampler\x1b", to=1), "settings.sampler"),
    "no runs": (without("runs"), "runs is missing"),
    "runs in a table": (change("runs", to={}), "runs is {}, expected a list"),
    "a run that is text": (change("runs", to=["a"]), "runs is ['a'], expected a list"),
    "the same run twice": (again, "runs[1].method and iterations are those of another run"),
    "a model that is a list": (change("settings", "model", to=[]), "settings.model is []"),
    "samples of text": (change("settings", "samples", to="2"), "settings.samples is '2', expected an integer from 1"),
    "no samples": (change("settings", "samples", to=0), "settings.samples is 0"),
    "half a sample": (change("settings", "samples", to=1.5), "settings.samples is 1.5"),
    "true samples": (change("settings", "samples", to=True), "settings.samples is True"),
    "samples without end": (change("settings", "samples", to=10**18), "settings.samples is 1000000000000000000"),
    "a batch below zero": (change("settings", "batch", to=-1), "settings.batch is -1"),
    "threads without end": (change("settings", "threads", to=10**6), "settings.threads is 1000000"),
    "a seed of text": (change("settings", "seeds", to=[3, "5"]), "settings.seeds is [3, '5']"),
    "a seed below zero": (change("settings", "seeds", to=[3, -5]), "settings.seeds is [3, -5]"),
    "too few seeds": (change("settings", "seeds", to=[3]), "settings.seeds is not one seed a sample"),
    "seed and seeds": (change("settings", "seed", to=0), "settings.seeds is not one seed a sample"),
    "neither": (change("settings", "seeds", to=None), "settings.seeds is not one seed a sample"),
    "an snr that is no number": (change("settings", "snr", to=float("nan")), "settings.snr is nan"),
    "an snr of text": (change("settings", "snr", to="0.1"), "settings.snr is '0.1'"),
    "another norm": (change("settings", "norm", to="image"), "settings.norm is 'image', expected one of batch, sample"),
    "a norm in a table": (change("settings", "norm", to={}), "settings.norm is {}"),
    "infinite alpha": (change("settings", "alpha", to=float("inf")), "settings.alpha is inf"),
    "a filter that is a number": (change("settings", "filter", to=3), "settings.filter is 3"),
    "a device that is a number": (change("settings", "device", to=0), "settings.device is 0"),
    "a distance of text": (
        change("settings", "distance", to="no"),
        "settings.distance is 'no', expected true",
    ),
    "another method": (change("runs", 0, "method", to="ddim"), "runs[0].method is 'ddim', expected one of plain"),
    "a method in a list": (change("runs", 0, "method", to=["plain"]), "runs[0].method is ['plain']"),
    "another sampler": (few(sampler="ddim"), "runs[0].sampler is 'ddim', expected one of pc, dpmpp, ancestral"),
    "a sampler in a list": (few(sampler=["dpmpp"]), "runs[0].sampler is ['dpmpp']"),
    "evaluations of text": (few(evaluations="1\x1b"), r"runs[0].evaluations is '1\x1b'"),
    "evaluations without end": (few(evaluations=10**18), "runs[0].evaluations is 1000000000000000000"),
    "an order of tomorrow": (few(order=4), "runs[0].order is 4, expected null or an integer from 1 to 3"),
    "no order": (few(order=None), "runs[0].order is None, expected a number for dpmpp"),
    "an order too many": (few(sampler="ancestral"), "runs[0].order is 1, expected null for ancestral"),
    "an eta too many": (few(sampler="heun", order=None), "runs[0].eta is 0.0, expected null for heun"),
    "an eta that is no number": (few(eta=float("nan")), "runs[0].eta is nan"),
    "an eta above 1": (few(eta=2), "runs[0].eta is 2, expected null or a number from 0 to 1"),
    "a ladder elsewhere": (few(ladder="../.."), "runs[0].ladder is '../..', expected one of"),
    "a start elsewhere": (few(start="/etc"), "runs[0].start is '/etc', expected one of none, mean, gaussian"),
    "a level below 0": (few(sigma=-1.0), "runs[0].sigma is -1.0, expected null or a number above 0"),
    "a level without end": (few(sigma=float("inf")), "runs[0].sigma is inf"),
    "few steps elsewhere": (few(pictures=["../a.png", "b.png"]), "runs[0].pictures are not one a sample"),
    "no iterations": (without("runs", 0, "iterations"), "runs[0].iterations is missing"),
    "iterations without end": (change("runs", 0, "iterations", to=10**18), "runs[0].iterations is 1000000000000000000"),
    "iterations of text": (change("runs", 0, "iterations", to="1"), "runs[0].iterations is '1'"),
    "a speed-up of text": (change("runs", 0, "speedup", to="\x1b[31m"), r"runs[0].speedup is '\x1b[31m'"),
    "seconds in a list": (change("runs", 0, "seconds", to=[]), "runs[0].seconds is []"),
    "a filter that is none": (change("runs", 0, "filter", to=None), "runs[0].filter is None"),
    "alpha that steers": (change("runs", 0, "filter", to={"alpha": "\x1b[2J"}), r"runs[0].filter.alpha is '\x1b[2J'"),
    "half a distance": (change("runs", 0, "frechet", to={"distance": 1.0}), "runs[0].frechet.count is missing"),
    "a distance without end": (change("runs", 0, "frechet", "distance", to=10**400), "runs[0].frechet.distance is 1"),
    "pictures that are numbers": (change("runs", 0, "pictures", to=[1, 2]), "runs[0].pictures is [1, 2]"),
    "pictures elsewhere": (change("runs", 0, "pictures", to=["../a.png", "/b.png"]), "runs[0].pictures are not"),
    "too few pictures": (change("runs", 0, "pictures", to=[]), "runs[0].pictures are not"),
    "a machine that nests": (
        change("runs", 0, "environment", to=json.loads("[" * 200 + "]" * 200)),
        "nested too deeply",
    ),
    "files in a list": (change("files", to=[]), "files is []"),
    "files without digests": (change("files", to={"grid.png": 3}), "files is {'grid.png': 3}"),
    "unfinished files elsewhere": (change("partial", to="../precious"), "partial is '../precious'"),
    "unfinished files here": (change("partial", to=".partial-../../../aa/b"), "partial is"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_one_sentence(
    name: str, written: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = HOSTILE[name]
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(json.dumps(make(copy.deepcopy(written))))
    before = (out / "run.json").read_bytes()
    commands = (
        ["--repeat", out / "run.json", "--out", tmp_path / "copy"],
        ["--iterations", 1, "--seeds", "3,5", "--out", out],
    )
    for command in commands:
        assert tdas("sample", *command) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("tdas-ops: run.json: got ") and error.count("\n") == 1
        assert error.rstrip("\n").isprintable() and len(error) < 1000
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out) == ["run.json"]
    assert (out / "run.json").read_bytes() == before


def test_a_run_of_another_sampler_is_read(written: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(few()(copy.deepcopy(written))))
    _, record = read_record(tmp_path / "run.json")
    assert run_of(record["runs"][0]) == LadderRun("dpmpp", 1, 1, 0.0)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_text(""), "Expecting value"),
    "half": (lambda p: p.write_text('{"format": "tdas_ops runs/1", "sett'), "Unterminated string"),
    "bytes": (lambda p: p.write_bytes(b"\xff\xfe\x00\x01\x81"), "decode"),
    "deep": (lambda p: p.write_text("[" * 10**5), "nested too deeply"),
    "deep inside": (lambda p: p.write_text('{"a":' * 10**5 + "1" + "}" * 10**5), "nested too deeply"),
    "a long number": (lambda p: p.write_text("9" * 5000), "limit"),
    "a folder": (lambda p: p.mkdir(), "s a directory"),
    "a pipe": (os.mkfifo, "not a regular file"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
    "a name that steers": (lambda p: p.write_text("\x1b[2J"), "Expecting value"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_record_is_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = UNREADABLE[name]
    path = tmp_path / "a\x1b[31m\n.json"
    make(path)
    assert tdas("sample", "--repeat", path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("tdas-ops: run.json: got ") and error.count("\n") == 1
    assert r"a\x1b[31m\n.json" in error and not (tmp_path / "out").exists()


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "run.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than 1073741824 bytes"):
        read_record(tmp_path / "run.json")


def test_a_record_of_an_earlier_version_is_repeated(written: dict[str, Any], tmp_path: Path) -> None:
    older = {key: value for key, value in written.items() if key not in ("files", "partial")}
    older["runs"] = [{key: value for key, value in run.items() if key != "sampler"} for run in written["runs"]]
    (tmp_path / "run.json").write_text(json.dumps(older))
    settings, _ = read_record(tmp_path / "run.json")
    assert settings == Settings(samples=2, seed=None, seeds=(3, 5), norm="sample")
    assert tdas("sample", "--repeat", tmp_path / "run.json", "--no-progress", "--out", tmp_path / "copy") == 0
    assert json.loads((tmp_path / "copy/run.json").read_text())["files"] == written["files"]


DEEP = "[" * 10**5 + "]" * 10**5
FILTERS = {
    "shape": {"shape": DEEP},
    "method": {"method": DEEP},
    "provenance": {"provenance": DEEP},
    "provenance that nests": {"provenance": '{"a":' + "[" * 90 + "]" * 90 + "}"},
    "alpha that steers": {"provenance": json.dumps({"alpha": "\x1b[2J"})},
    "not JSON": {"shape": "\x1b"},
    "format": {"format": "\x1b[2J"},
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_hostile_filter_is_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"format": "tdas_ops.Preconditioner/1", "shape": "[1, 32, 32]", "method": '"tdas"', "provenance": "{}"}
    file = tmp_path / "a\x1b.safetensors"
    save_file({"space": torch.ones(1, 32, 32, dtype=torch.float64)}, file, metadata=plain | FILTERS[name])
    assert tdas("sample", "--filter", file, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("tdas-ops: --filter: got ") and error.rstrip("\n").isprintable()
    assert not (tmp_path / "out").exists()
    save_file({"space": torch.ones(1, 32, 32, dtype=torch.float64)}, file, metadata=plain)
    assert isinstance(_filters.load_filter(str(file)), Preconditioner)
