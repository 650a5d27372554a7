"""The command line: what it writes, repeats, resumes and refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import tdas_ops
from tdas_ops import _pictures, _request, _runs, calibrate, cli, models
from tdas_ops._record import LadderRun

SMALL = ["--samples", "4", "--iterations", "3", "--no-progress"]


def tdas(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs."""
    out = tmp_path_factory.mktemp("made") / "out"
    assert tdas("sample", "--method", "plain", "--method", "tdas", "--method", "pds", *SMALL, "--out", out) == 0
    return out


def test_sample_writes_pictures_grid_and_record(made: Path) -> None:
    runs = record(made)["runs"]
    assert [run["method"] for run in runs] == ["plain", "tdas", "pds"]
    for run in runs:
        assert [p.name for p in sorted((made / f"{run['method']}_3").iterdir())] == [f"000{i}.png" for i in range(4)]
        assert run["iterations"] == 3 and run["network_evaluations"] == 6 and run["snr"] == models.load("digits").snr
        assert run["frechet"]["count"] == 4 and run["frechet"]["floor"] > 0
        assert run["environment"]["torch"] == torch.__version__
    assert runs[1]["filter"]["alpha"] == models.load("digits").preconditioner("tdas", iterations=3).provenance["alpha"]
    assert runs[2]["filter"]["alpha"] == models.load("digits").preconditioner("pds", iterations=3).provenance["alpha"]
    with Image.open(made / "grid.png") as sheet:
        assert sheet.height > 3 * 64 and sheet.width > 4 * 64


def test_pictures_and_distance_are_those_of_the_sampler(made: Path) -> None:
    model = models.load("digits")
    x = tdas_ops.samplers.pc(
        model.score,
        (4, *model.shape),
        model.sde,
        model.preconditioner("pds", iterations=3),
        noise=tdas_ops.NoiseStream(0),
        iterations=3,
        snr=model.snr,
        progress=False,
    )
    shown = torch.stack([_pictures.read_picture(made / f"pds_3/000{i}.png") for i in range(4)])
    assert (shown.int() - model.pictures(x).int()).abs().max() <= 1
    assert record(made)["runs"][2]["frechet"]["distance"] == pytest.approx(model.evaluator(x).distance, rel=1e-3)


def test_repeat_makes_the_same_pictures(made: Path, tmp_path: Path) -> None:
    assert tdas("sample", "--repeat", made / "run.json", "--out", tmp_path / "copy", "--no-progress") == 0
    assert pictures(tmp_path / "copy") == pictures(made)


def test_the_recorded_command_makes_the_same_run(made: Path, tmp_path: Path) -> None:
    words = shlex.split(record(made)["runs"][1]["command"])
    assert tdas(*words[1:], "--out", tmp_path / "again", "--no-progress") == 0
    assert pictures(tmp_path / "again")["tdas_3/0002.png"] == pictures(made)["tdas_3/0002.png"]


def test_batches_do_not_change_the_noise(tmp_path: Path) -> None:
    for batch in (4, 2):
        out = tmp_path / str(batch)
        assert tdas("sample", *SMALL, "--norm", "sample", "--batch", batch, "--out", out) == 0
    whole, split = (_pictures.read_picture(tmp_path / b / "plain_3/0003.png").int() for b in ("4", "2"))
    assert (whole - split).abs().max() <= 2


def test_every_setting_reaches_the_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple, dict]] = []
    real = tdas_ops.samplers.pc
    monkeypatch.setattr(tdas_ops.samplers, "pc", lambda *a, **k: calls.append((a, k)) or real(*a, **k))
    options = ["--samples", 5, "--batch", 2, "--seed", 9, "--snr", 0.3, "--norm", "sample", "--alpha", 3]
    assert tdas("sample", "--method", "tdas", *options, "--iterations", 2, "--out", tmp_path / "out") == 0
    assert [arguments[1][0] for arguments, _ in calls] == [2, 2, 1]
    assert [named["noise"].first_sample for _, named in calls] == [0, 2, 4]
    for arguments, named in calls:
        assert named["iterations"] == 2 and named["snr"] == 0.3 and named["norm"] == "sample"
        assert named["noise"].state_dict()["seeds"] == [9] and named["check_finite"]
        assert arguments[3].method == "tdas" and arguments[3].provenance["alpha"] == 3


def test_the_table_has_the_rows_of_the_picture_in_its_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[str] = []
    real = _pictures.grid
    monkeypatch.setattr(_pictures, "grid", lambda rows, *a: labels.extend(row[0][0] for row in rows) or real(rows, *a))
    runs = ["--sampler", "pc", "--sampler", "dpmpp", "--evaluations", 4, "--evaluations", 6]
    methods = ["--method", "plain", "--method", "pds", "--method", "tdas", "--method", "schedule"]
    assert tdas("sample", *runs, *methods, "--samples", 2, "--out", tmp_path / "out", "--no-progress") == 0
    head, *rows = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()[10:-1]]
    assert head == ["sampler", "alpha", "evaluations", "speed-up", "seconds", "Frechet distance"]
    assert [row[0] for row in rows[:-1]] == labels and len(labels) == 10
    assert [row[2] for row in rows[:-1]] == ["6"] * 5 + ["4"] * 5
    alphas = {row[0]: row[1] for row in rows[5:-1]}
    # At two iterations the rule of "pds" is left with masks of 1.
    assert alphas.pop("pc tdas, 2 iterations") == "1.007"
    assert alphas.pop("pc schedule, 2 iterations") == "-"
    assert alphas == dict.fromkeys(("pc plain, 2 iterations", "pc pds, 2 iterations", "dpmpp 2, eta 0"), "none")
    assert re.fullmatch(r"[0-9.]+ ± [0-9.]+", rows[-1][-1]) and rows[-1][0] == "real images, n = 2"


SHORT = {
    "plain_3": ["--iterations", 3],
    "dpmpp_3_order2_eta1_gaussian_from5": ["--sampler", "dpmpp", "--evaluations", 3, "--eta", 1, "--start", "gaussian"],
}


@pytest.mark.parametrize("folder", SHORT)
def test_a_picture_can_be_made_again_alone(folder: str, tmp_path: Path) -> None:
    settings = [*SHORT[folder], "--no-progress"]
    assert tdas("sample", "--seeds", "5,7-8", *settings, "--out", tmp_path / "all") == 0
    assert tdas("sample", "--seeds", "8", *settings, "--out", tmp_path / "one") == 0
    together = _pictures.read_picture(tmp_path / "all" / folder / "0002_seed8.png").int()
    alone = _pictures.read_picture(tmp_path / "one" / folder / "0000_seed8.png").int()
    assert (together - alone).abs().max() <= 2
    assert together.float().std() > 10
    assert record(tmp_path / "one")["runs"][0]["frechet"] is None


def test_the_same_command_keeps_finished_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert tdas("sample", *SMALL, "--out", out) == 0
    before = record(out)["runs"][0]
    sampled: list[_runs.Run] = []
    real = _runs.Study.sample
    monkeypatch.setattr(_runs.Study, "sample", lambda self, run, *more: sampled.append(run) or real(self, run, *more))
    capsys.readouterr()
    assert tdas("sample", *SMALL, "--method", "plain", "--method", "tdas", "--out", out) == 0
    assert "pc plain, 3 iterations: finished before, kept" in capsys.readouterr().out
    assert sampled == [("tdas", 3)]
    assert record(out)["runs"][0] == before
    (out / "plain_3/0001.png").unlink()
    assert tdas("sample", *SMALL, "--out", out) == 0
    assert sampled[1:] == [("plain", 3)] and (out / "plain_3/0001.png").is_file()


def test_an_interrupted_command_leaves_finished_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real = _runs.Study.sample

    def interrupted(self: _runs.Study, run: _runs.Run, *more: object) -> torch.Tensor:
        if run[1] == 4:
            raise KeyboardInterrupt
        return real(self, run, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(_runs.Study, "sample", interrupted)
    assert tdas("sample", *SMALL, "--iterations", 4, "--out", out) == 130
    assert "interrupted; 1 of 2 runs are complete" in capsys.readouterr().err
    assert [run["iterations"] for run in record(out)["runs"]] == [3]
    assert sorted(p.name for p in out.iterdir()) == [".tdas-ops.lock", "plain_3", "run.json"]
    monkeypatch.undo()
    assert tdas("sample", *SMALL, "--iterations", 4, "--out", out) == 0
    assert [run["iterations"] for run in record(out)["runs"]] == [3, 4]


def test_a_picture_that_cannot_be_written_leaves_no_half_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, picture = tmp_path / "out", _pictures.picture

    def full(levels: torch.Tensor) -> Image.Image:
        raise OSError("no space left on device")

    monkeypatch.setattr(_pictures, "picture", full)
    assert tdas("sample", *SMALL, "--out", out) == 1
    assert "no space left on device; 0 of 1 runs are complete" in capsys.readouterr().err
    assert not list(out.rglob("*.png")) and list(out.rglob("*.safetensors"))
    monkeypatch.setattr(calibrate.Filtered, "sample", None)  # what has been sampled is there
    monkeypatch.setattr(_pictures, "picture", picture)
    assert tdas("sample", *SMALL, "--out", out) == 0


# Its own disposition of the signal: a scheduler or a shell's background job hands an ignored one down.
CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from tdas_ops import cli
cli.main(sys.argv[1:])
"""


def test_control_c_ends_with_130(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    # One thread: several would wait for each other where other programs have the cores.
    options = ["--samples", "8", "--threads", "1", "--no-progress", "--iterations", "2", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, "sample", *options, "--iterations", "20000"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, b"")
        assert any(line.startswith(b"pc plain, 2 iterations: ") for line in lines)
        # The folder is in use: nobody else may write there.
        assert tdas("sample", *options, "--method", "tdas") == 2
        assert "where another tdas-ops is at work" in capsys.readouterr().err
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"1 of 2 runs are complete" in error and b"Traceback" not in error
    assert len(record(out)["runs"]) == 1 and len(list((out / "plain_2").iterdir())) == 8


REFUSED = {
    "--method: got 'ddim', expected one of plain, tdas, pds, schedule": ["--method", "ddim"],
    "--model: got 'faces', expected one of digits": ["--model", "faces"],
    "--sampler: got 'ddim', expected one of pc, dpmpp, ancestral": ["--sampler", "ddim"],
    "--evaluations: got 5 for pc, expected an even number": ["--evaluations", "5"],
    "--evaluations: got --iterations or --speedup beside it": ["--evaluations", "6", "--iterations", "3"],
    "'--evaluations'": ["--sampler", "dpmpp", "--evaluations", "0"],
    "--evaluations: got 8, expected an odd number": ["--sampler", "heun", "--evaluations", "8"],
    "--order: got 3, expected 1, 2 or 3 and at most": ["--sampler", "dpmpp", "--order", "3", "--evaluations", "2"],
    "'--order'": ["--sampler", "dpmpp", "--order", "4"],
    "--order: got it with --sampler ancestral, expected dpmpp": ["--sampler", "ancestral", "--order", "2"],
    "--eta: got it with --sampler heun, expected dpmpp or ancestral": ["--sampler", "heun", "--eta", "1"],
    "--start: got it with --sampler pc, expected dpmpp or": ["--start", "mean"],
    "--alpha: got it with --sampler dpmpp, expected pc": ["--sampler", "dpmpp", "--alpha", "2"],
    "--method: got it with --sampler dpmpp, expected pc": ["--sampler", "dpmpp", "--method", "tdas"],
    "--eta: got 1.5, expected a number from 0 to 1": ["--sampler", "ancestral", "--eta", "1.5"],
    "--eta: got nan, expected a number from 0 to 1": ["--sampler", "dpmpp", "--eta", "nan"],
    "--ladder: got 'linear', expected one of": ["--sampler", "dpmpp", "--ladder", "linear"],
    "--start: got 'data', expected one of none, mean, gaussian": ["--sampler", "dpmpp", "--start", "data"],
    "--sigma: got 17.0, expected a level of the SDE, from 0.01 to 16": ["--sampler", "dpmpp", "--sigma", "17"],
    "--sigma: got 0.0, expected a level of the SDE": ["--sampler", "dpmpp", "--start", "mean", "--sigma", "0"],
    "--speedup: got 0, expected a number from 0.0006 to 60 (native)": ["--speedup", "0"],
    "--speedup: got -3, expected a number from": ["--speedup", "-3"],
    "--speedup: got 1e-300, expected a number from": ["--speedup", "1e-300"],
    "--speedup: got nan, expected a number from": ["--speedup", "nan"],
    "'--iterations'": ["--iterations", "0"],
    "'--iterations':": ["--iterations", str(10**18)],
    "--iterations: got 100000 for schedule": ["--method", "schedule", "--iterations", "100000"],
    "'--threads'": ["--threads", "100000"],
    "'--batch'": ["--batch", "1000000000"],
    "'--samples':": ["--samples", "1000000000000"],
    "'--samples'": ["--samples", "none"],
    "--seed: got -1, expected an integer from 0": ["--seed", "-1"],
    "--seeds: got '3,x', expected seeds such as": ["--seeds", "3,x"],
    "--seeds: got '5-3', expected seeds such as": ["--seeds", "5-3"],
    "--seeds: got '0-1000000000000000000', expected at most": ["--seeds", "0-1000000000000000000"],
    "--seeds: got '²', expected seeds such as": ["--seeds", "²"],
    "--seeds: got --seed beside it": ["--seeds", "3", "--seed", "4"],
    "--seeds: got 2, expected one for each of 3 samples": ["--seeds", "3,4", "--samples", "3"],
    "--snr: got 0.0, expected a finite number": ["--snr", "0"],
    "--norm: got 'image', expected 'batch' or 'sample'": ["--norm", "image"],
    "--alpha: got 1.0, expected a finite number greater than 1": ["--alpha", "1", "--method", "tdas"],
    "--alpha: got it with --method plain, expected tdas or pds": ["--alpha", "2", "--method", "plain"],
    "--alpha: got it with --method schedule, expected tdas or pds": ["--alpha", "2", "--method", "schedule"],
    "--device: got 'tpu9', expected 'cpu', 'cuda' or 'cuda:N'": ["--device", "tpu9"],
    "--device: got 'cuda:77', expected 'cpu' or one of": ["--device", "cuda:77"],
    "--filter: got nothing.safetensors, which is no file": ["--filter", "nothing.safetensors"],
    "--filter: got --method plain beside it": ["--filter", "f", "--method", "plain"],
    "--filter: got --alpha beside it": ["--filter", "f", "--alpha", "2"],
    "run.json: got nothing.json (No such file or directory), expected a file that": ["--repeat", "nothing.json"],
    "--repeat: got --snr beside it": ["--repeat", "nothing.json", "--snr", "0.1"],
    "No such option: --colour": ["--colour"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_one_sentence_and_writes_nothing(
    message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert tdas("sample", *REFUSED[message], "--out", out) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("tdas-ops: ") and error.count("\n") == 1
    assert not out.exists()


def test_a_folder_of_other_settings_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = pictures(made)
    assert tdas("sample", *SMALL, "--seed", 1, "--out", made) == 2
    assert "which holds runs with seed 0, expected 1 or another folder" in capsys.readouterr().err
    assert pictures(made) == before
    (tmp_path / "file").write_text("")
    assert tdas("sample", *SMALL, "--out", tmp_path / "file") == 2
    assert "which is a file, expected a folder" in capsys.readouterr().err
    (tmp_path / "run.json").write_text('{"format": "else"}')
    assert tdas("sample", *SMALL, "--out", tmp_path) == 2
    assert "expected a file that `tdas-ops sample` wrote" in capsys.readouterr().err


def test_a_state_that_diverges_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.Model, "score", lambda self, x, sigma: x * float("nan"))
    assert tdas("sample", *SMALL, "--out", tmp_path / "out") == 1
    assert "iteration 1 of 3: got non-finite values" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_few_step_runs_stand_beside_those_of_pc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, model = tmp_path / "out", models.load("digits")
    small = ["--samples", 4, "--batch", 3, "--no-progress", "--out", out]
    start = ["--evaluations", 4, "--start", "gaussian", "--eta", 0.5, "--order", 1, "--ladder", "snr", "--sigma", 3]
    assert tdas("sample", "--sampler", "dpmpp", "--sampler", "pc", *start, *small) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("pc plain, 2 iterations: 4 evaluations, ")
    row = next(line for line in printed if line.startswith("dpmpp 1, snr, eta 0.5, start gaussian at 3  "))
    assert row.split()[9:12] == ["none", "4", "30"]
    assert tdas("sample", "--sampler", "heun", "--sampler", "ancestral", "--evaluations", 3, *small) == 0
    entries = {entry["sampler"]: entry for entry in record(out)["runs"]}
    assert list(entries) == ["pc", "dpmpp", "ancestral", "heun"]
    settings = ("evaluations", "order", "eta", "ladder", "start", "sigma", "network_evaluations")
    assert [entries["dpmpp"][name] for name in settings] == [4, 1, 0.5, "snr", "gaussian", 3.0, 4]
    assert [entries["ancestral"][name] for name in settings] == [3, None, 1.0, "karras", "none", None, 3]
    assert [entries["heun"][name] for name in settings] == [3, None, None, "karras", "none", None, 3]
    run = model.few_step(4, eta=0.5, order=1, ladder="snr", start="gaussian", sigma=3.0)
    assert entries["dpmpp"]["levels"] == run.levels and entries["dpmpp"]["speedup"] == 30
    assert run.start is not None and run.start.basis == "fourier"
    x = run.sample(model.score, (4, *model.shape), tdas_ops.NoiseStream(0), progress=False)
    shown = torch.stack([_pictures.read_picture(out / entries["dpmpp"]["pictures"][i]) for i in range(4)])
    assert (shown.int() - model.pictures(x).int()).abs().max() <= 1
    with Image.open(out / "grid.png") as sheet:
        assert sheet.height > 4 * 64
    assert tdas("sample", "--repeat", out / "run.json", "--out", tmp_path / "copy", "--no-progress") == 0
    assert pictures(tmp_path / "copy") == pictures(out)
    again = shlex.split(entries["dpmpp"]["command"])[1:]
    assert tdas(*again, "--out", tmp_path / "again", "--no-progress") == 0
    name = entries["dpmpp"]["pictures"][3]
    assert pictures(tmp_path / "again")[name] == pictures(out)[name]
    capsys.readouterr()
    assert tdas("sample", *again[1:], "--out", out, "--no-progress") == 0
    assert "dpmpp 1, snr, eta 0.5, start gaussian at 3: finished before, kept" in capsys.readouterr().out


def test_runs_that_differ_in_one_setting_have_folders_of_their_own() -> None:
    changes: list[dict] = [
        {}, {"sampler": "ancestral"}, {"evaluations": 6}, {"order": 3}, {"eta": 0.25}, {"eta": 0.25000000000000006},
        {"ladder": "time"}, {"start": "mean"}, {"start": "gaussian"}, {"sigma": 2.0}, {"sigma": 2.5},
    ]  # fmt: skip
    found = [
        LadderRun(**{"sampler": "dpmpp", "evaluations": 5, "order": 2, "eta": 0.0, **change}) for change in changes
    ]
    assert len({run.folder for run in found}) == len(changes)
    assert found[0].folder == "dpmpp_5_order2_eta0" and found[-1].folder == "dpmpp_5_order2_eta0_from2.5"
    assert all(re.fullmatch(r"[a-z]+(_[a-z0-9.]+)+", run.folder) for run in found)


def test_defaults_of_a_sampler_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _request.Request
    assert _request.runs(asked(), "digits") == [("plain", 60)]
    assert _request.runs(asked(evaluations=[24]), "digits") == [("plain", 12)]
    assert _request.runs(asked(samplers=["dpmpp", "heun", "ancestral"], start="mean"), "digits") == [
        LadderRun("dpmpp", 8, 2, 0.0, start="mean", sigma=5.0),
        LadderRun("heun", 9, start="mean", sigma=5.0),
        LadderRun("ancestral", 8, None, 1.0, start="mean", sigma=5.0),
    ]
    assert _request.runs(asked(samplers=["dpmpp"], evaluations=[1]), "digits") == [LadderRun("dpmpp", 1, 1, 0.0)]
    both = asked(samplers=["pc", "dpmpp"], evaluations=[5], iterations=[12], methods=["tdas"])
    assert _request.runs(both, "digits") == [("tdas", 12), LadderRun("dpmpp", 5, 2, 0.0)]


def test_demo_compares_samplers_at_equal_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert tdas("demo", "--samples", 4, "--evaluations", 6, "--evaluations", 5, "--out", out, "--no-progress") == 0
    runs = record(out)["runs"]
    assert [(r["sampler"], r.get("method", r.get("start"))) for r in runs] == [
        *(("dpmpp", start) for start in models.STARTS),
        *(("pc", method) for method in ("plain", "tdas", "schedule")),
        *(("dpmpp", start) for start in models.STARTS),
    ]
    assert [run["network_evaluations"] for run in runs] == [5] * 3 + [6] * 6
    printed = capsys.readouterr().out
    assert "Frechet distance" in printed and "\nreal images, n = 4  " in printed
    assert (out / "grid.png").is_file()
    default = _request.demonstrated("digits")
    assert default[0] == ("plain", 60) and {run.network_evaluations for run in default[1:]} == {24, 8, 5}
    assert [run[:2] for run in _request.pictured(default)] == [("plain", 60), ("plain", 4), ("tdas", 4), ("dpmpp", 8)]
    assert _request.pictured(_request.demonstrated("digits", [24, 5])) == []
    with Image.open(out / "grid.png") as grid:  # of 6 evaluations: pc plain and tdas, dpmpp from a Gaussian
        assert 3 * 64 < grid.height < 4 * 64 + 40


def test_tune_prints_a_table_the_best_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = torch.Generator().manual_seed(0)
    for i in range(40):
        pixels = (torch.rand(32, 32, generator=g) * 255 * (torch.arange(32) < 16)).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{i}.png")
    settings = ["--evaluations", "2", "--samples", "16", "--calls", "18", "--images", str(tmp_path), "--no-progress"]
    assert tdas("tune", *settings) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == f"digits: 2 evaluations, judged by 40 pictures of {tmp_path.name}, 16 samples a trial, seed 0"
    assert "start mean at" in printed and "real images" in printed
    best = lines[2].split("  ")[0]
    assert re.fullmatch(rf"best of \d+ in (\d+) evaluations of a batch: {re.escape(best)}", lines[-1])
    assert int(lines[-1].split(" in ")[1].split()[0]) <= 18
    assert tdas("tune", *settings, "--calls", "1") == 2
    assert "calls: got 1, expected at least 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "--device: got 'tpu', expected 'cpu', 'cuda' or 'cuda:N'"),
        (["--device", "cuda:77"], "--device: got 'cuda:77', expected 'cpu' or one of"),
        (["--seed", "-1"], "--seed: got -1, expected an integer from 0"),
        (["--calls", "7"], "--calls: got 7, expected at least 8"),
        (["--threads", "100000"], "'--threads'"),
        (["--samples", "1000000000000"], "'--samples'"),
        (["--evaluations", "1000000000000"], "'--evaluations'"),
        (["--model", "faces"], "--model: got 'faces', expected one of digits"),
        (["--images", "nowhere"], "--images: got nowhere, expected a folder"),
    ],
)
def test_tune_refuses_before_it_samples(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.Model, "score", lambda *a: pytest.fail("the network was evaluated"))
    assert tdas("tune", *arguments, "--no-progress") == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize(("output", "code"), [("closed", 1), ("ascii", 0), ("full", 1)])
def test_an_output_that_takes_nothing_is_no_traceback(output: str, code: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "tdas_ops", "sample", "--samples", "2", "--iterations", "1", "--no-progress"]
    reader, writer = os.pipe()
    with open("/dev/full", "wb") as full, open(tmp_path / "said", "wb") as said:
        os.close(reader)  # what is written meets nobody
        target = {"closed": writer, "ascii": said, "full": full}[output]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "out")], env=environment, stdout=target, stderr=subprocess.PIPE
        )
        os.close(writer)
    assert done.returncode == code and b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    if output == "ascii":
        assert re.search(rb"real images, n = 2 +[0-9.]+ \+- [0-9.]+\n", (tmp_path / "said").read_bytes())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert tdas("--version") == 0
    assert capsys.readouterr().out == f"tdas-ops {tdas_ops.__version__}\n"


def test_info_has_a_line_a_path(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def info() -> list[tuple[str, str]]:
        assert tdas("info") == 0
        lines = [line.partition(" ") for line in capsys.readouterr().out.splitlines()]
        return [(name.rstrip(":"), value.strip()) for name, _, value in lines]

    machine = tdas_ops.machine_info()
    said = dict(info())
    assert said["tdas_ops"].startswith(tdas_ops.__version__) and said["torch"].startswith(torch.__version__)
    assert {"python", "cpu", "gpu", "build", "on"} <= set(said) and machine["cpu"] in said["cpu"]
    gpu = {"name": "GPU", "capability": "9.0", "multiprocessors": 132, "memory_gib": 79, "l2_mib": 50}
    machine |= {"gpus": [gpu, gpu], "driver": "570.1", "cuda": "13.0", "triton": None, "commit": None, "dirty": False}
    paths = {
        "normals": "one",
        "step": "first for some; second for others",
        "noise": "first for some; second for others",
    }
    missing = {"triton": "not installed"}
    machine["backends"] = {
        "available": ["reference"],
        "chosen": "reference",
        "missing": missing,
        "paths": {"cpu": paths},
    }
    monkeypatch.setattr(cli, "machine_info", lambda: machine)
    said = info()
    assert said.count(("gpu", "GPU, capability 9.0, 132 multiprocessors, 79 GiB, L2 50 MiB, driver 570.1")) == 2
    assert ("torch", f"{torch.__version__}, CUDA 13.0, without triton") in said
    assert said[-5:] == [
        ("chosen", "reference"),
        ("no", "triton:  not installed"),
        ("on", "cpu:     normals: one"),
        ("", "step, noise: first for some"),
        ("", "second for others"),
    ]
    machine |= {"gpus": []}
    assert not [value for name, value in info() if name == "no"]  # what only a GPU could run is no news without one
    assert tdas("info", "--json") == 0
    assert json.loads(capsys.readouterr().out) == machine


def test_the_package_is_a_program() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tdas_ops", "nothing"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"tdas-ops: No such command 'nothing'.* \(tdas-ops --help lists what there is\)\n", done.stderr)


def test_nothing_given_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert tdas() == 0
    printed = capsys.readouterr().out
    assert "filter" in printed and "calibrate" not in printed


def test_the_list_of_commands_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert tdas("--help") == 0
    lines = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["sample", "demo", "filter", "tune", "info"]
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("command", [[], ["sample"], ["demo"], ["filter"], ["tune"], ["info"]])
def test_help_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert tdas(*command, "--help") == 0
    printed = capsys.readouterr().out
    assert "Usage: tdas-ops" in printed and not re.search("--[a-z]+ <", printed)
    assert not command or f"    tdas-ops {command[0]}" in printed


def test_the_grid_holds_colour_and_wide_pictures() -> None:
    red = torch.zeros(3, 40, 100, dtype=torch.uint8)
    red[0] = 255
    sheet = _pictures.grid([(["one"], [red, red]), (["two"], [red])])
    assert _pictures.grid([(["a setting " * 10], [red, red])]).width > sheet.width + 200
    assert sheet.mode == "RGB" and sheet.getpixel((sheet.width - 20, 20)) == (255, 0, 0)
