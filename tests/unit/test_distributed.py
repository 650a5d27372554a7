"""Sampling on several processes: equal files for any number of them, resuming, and what happens where one fails."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import distributed_worker
import pytest
import torch
from conftest import relative_rms
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed import TCPStore

import tdas_ops
from tdas_ops import NoiseStream, cli, samplers
from tdas_ops.integrations import distributed

ROOT = Path(__file__).parents[2]
WORKER = str(Path(distributed_worker.__file__))
SAMPLE = ["sample", "--sampler", "dpmpp", "--samples", "5", "--batch", "1", "--evaluations", "2", "--no-distance"]


def ended(size: int, *command: str) -> list[tuple[int, str]]:
    """Exit code and stderr of as many processes of a command, with the environment that torchrun gives them."""
    # As torchrun does: the store is here, on a port that is free, and the processes find it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
    together = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    together |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", "OMP_NUM_THREADS": "1"}
    together["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [each.communicate(timeout=300) for each in processes]
    return [(each.returncode, err) for each, (_, err) in zip(processes, said, strict=True)]


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "run.json"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def same(folder: Path, other: Path) -> None:
    """Equal files, and equal samples of the batch that is spread over the processes."""
    got, expected = contents(folder), contents(other)
    del got["spread.pt"], expected["spread.pt"]
    assert got == expected
    assert torch.equal(torch.load(folder / "spread.pt"), torch.load(other / "spread.pt"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    distributed_worker.run(folder)
    return folder


def test_files_are_equal_for_any_number_of_processes(alone: Path, tmp_path: Path) -> None:
    for code, err in ended(3, WORKER, str(tmp_path)):
        assert code == 0, err
    assert len(contents(tmp_path)) == 6 + 11 + 4 + 3 + 1
    same(tmp_path, alone)
    M, stream = distributed_worker.pds(), NoiseStream(7, first_sample=0)
    settings = {"noise": stream, "iterations": 4, "norm": "batch", "progress": False}
    shape = (distributed_worker.COUNT, *distributed_worker.SHAPE)
    whole = samplers.pc(distributed_worker.score, shape, distributed_worker.SDE, M, **settings)
    assert relative_rms(torch.load(tmp_path / "spread.pt"), whole) < 1e-6


def test_a_process_that_fails_ends_the_others_and_the_run_goes_on(alone: Path, tmp_path: Path) -> None:
    (first, said), (second, own) = ended(2, WORKER, str(tmp_path), "raise")
    # The third batch, of samples 4 and 5, is that of rank 0 in the second round.
    assert first == second == 1
    assert own.strip().splitlines()[-1].endswith("RankError: rank 0 of 2: ArithmeticError: the network is broken")
    assert said.strip().splitlines()[-1].endswith("ArithmeticError: the network is broken")
    kept = contents(tmp_path)
    assert {"safetensors/000000000.safetensors", "safetensors/000000002.safetensors"} <= set(kept)
    assert all(content == contents(alone)[name] for name, content in kept.items())
    for code, err in ended(2, WORKER, str(tmp_path), "theirs"):
        assert code == 0, err
    same(tmp_path, alone)


def test_a_process_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    began = time.monotonic()
    (first, _), (second, said) = ended(2, WORKER, str(tmp_path), "exit")
    assert first == 9 and second == 1
    assert "another of 2 processes has ended without a word" in said
    assert time.monotonic() - began < 200
    assert load_file(tmp_path / "safetensors" / "000000002.safetensors")["samples"].shape == (2, 2, 8, 8)


def test_torchrun_of_the_command_line(tmp_path: Path) -> None:
    module = [sys.executable, "-m", "tdas_ops.cli", *SAMPLE, "--no-progress", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*module, str(tmp_path / "1")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m"]
    run = subprocess.run([*launch, *module[2:], str(tmp_path / "3")], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert contents(tmp_path / "3") == contents(tmp_path / "1") and len(contents(tmp_path / "1")) == 7
    assert run.stdout.replace("/3/", "/1/").splitlines()[-1] == done.stdout.splitlines()[-1]
    assert run.stdout.count("grid.png") == 1


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_first_process_alone_speaks(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "grid.png").write_text("mine")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as left:
        cli.main([*SAMPLE, "--out", str(tmp_path)])
    assert left.value.code == 2
    assert ("grid.png, which no run of" in capsys.readouterr().err) == (rank == "0")


@pytest.mark.parametrize("rank", [None, "", "x"])
def test_a_process_without_a_rank_complains(
    rank: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as left:
        cli.main([*SAMPLE, "--out", str(tmp_path)])
    assert left.value.code == 2
    assert "environment: got WORLD_SIZE=2" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "rank"), [("2", "2"), ("0", "0"), ("2", "x"), ("x", "0"), ("2", "-1")])
def test_an_environment_without_such_a_rank_is_refused(size: str, rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": size, "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"environment: got WORLD_SIZE={size} with RANK={rank}, expected"):
        distributed.world()


# One process


def white(noise: NoiseStream, n: int) -> Tensor:
    return noise.randn((n, 1, 4, 4))


def test_files_by_index_and_what_is_not_whole_is_made_again(tmp_path: Path) -> None:
    files = distributed.sample(white, 5, tmp_path / "a", noise=3, batch=2, progress=False)
    assert [file.name for file in files] == ["000000000.safetensors", "000000002.safetensors", "000000004.safetensors"]
    made = torch.cat([load_file(file)["samples"] for file in files])
    assert torch.equal(made, NoiseStream(3).randn((5, 1, 4, 4)))
    before = contents(tmp_path / "a")
    files[0].write_bytes(files[0].read_bytes()[:-5])
    files[2].unlink()
    asked: list[int] = []

    def watched(noise: NoiseStream, n: int) -> Tensor:
        asked.append(noise.first_sample)
        return white(noise, n)

    distributed.sample(watched, 5, tmp_path / "a", noise=3, batch=2, progress=False)
    assert asked == [0, 4] and contents(tmp_path / "a") == before
    seeds = distributed.sample(white, 3, tmp_path / "b", noise=[3, 5, 9], batch=2, progress=False)
    assert torch.equal(load_file(seeds[1])["samples"], NoiseStream(seeds=[9]).randn((1, 1, 4, 4)))
    shifted = distributed.sample(white, 2, tmp_path / "c", noise=NoiseStream(3, first_sample=3), progress=False)
    assert torch.equal(load_file(shifted[0])["samples"], made[3:])


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    files = distributed.sample(white, 3, tmp_path, noise=3, batch=2, kind="png", progress=False)
    assert [file.name for file in files] == ["000000000.png", "000000001.png", "000000002.png"]
    levels = (NoiseStream(3).randn((3, 1, 4, 4)).clamp(0, 1) * 255).round().to(torch.uint8)
    assert list(Image.open(files[2]).tobytes()) == levels[2].flatten().tolist()
    before = contents(tmp_path)
    files[2].write_bytes(before[files[2].name][:-6])
    files[0].write_bytes(b"")
    distributed.sample(white, 3, tmp_path, noise=3, batch=2, kind="png", progress=False)
    assert contents(tmp_path) == before


def test_what_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = lambda folder, **changes: distributed.sample(
        changes.pop("draw", white), **{"count": 4, "folder": folder, "batch": 2, "progress": False, **changes}
    )
    with pytest.raises(ValueError, match="count: got 0"):
        call(tmp_path / "a", count=0)
    with pytest.raises(ValueError, match="kind: got 'jpg'"):
        call(tmp_path / "a", kind="jpg")
    with pytest.raises(ValueError, match="noise: got 3 seeds, expected one for each of 4 samples"):
        call(tmp_path / "a", noise=[1, 2, 3])
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match=r"draw: got \(1, 1, 4, 4\) from it, expected samples \[2, C, H, W\]"):
        call(tmp_path / "a", draw=lambda noise, n: white(noise, 1))
    call(tmp_path / "b", noise=1)
    with pytest.raises(ValueError, match="which holds samples of another noise, batch, expected the same or another"):
        call(tmp_path / "b", noise=2, batch=4)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="c, which holds other files, expected a new or empty folder"):
        call(tmp_path / "c")
    (tmp_path / "b" / "samples.json").write_text("{")
    with pytest.raises(ValueError, match="which is no record of samples"):
        call(tmp_path / "b", noise=1)
    with pytest.raises(TypeError, match="noise: got Generator, expected a NoiseStream"):
        x = torch.zeros(1, 1, 4, 4)
        identity = tdas_ops.Preconditioner.identity((1, 4, 4))
        distributed.langevin_step(x, x, identity, 0.1, noise=torch.Generator())  # type: ignore[arg-type]
    stream = NoiseStream(0)
    with pytest.raises(ValueError, match="snr: got nan"):
        distributed.langevin_step(x, x, identity, float("nan"), noise=stream)
    with pytest.raises(ValueError, match=r"alpha: got -1\.0"):
        distributed.langevin_step(x, x, identity, 0.1, alpha=-1.0, noise=stream)
    assert stream.state_dict()["draw"] == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="environment: got WORLD_SIZE=2 without RANK"):
        distributed.world()


@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize(("dtype", "of_alpha"), [(torch.float32, torch.bfloat16), (torch.float64, torch.float32)])
def test_the_step_of_one_process_is_that_of_the_batch(method: str, dtype: torch.dtype, of_alpha: torch.dtype) -> None:
    x = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    images = torch.rand(8, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    M = tdas_ops.Preconditioner.from_images(images, alpha=2.0, method=method)  # type: ignore[arg-type]
    alpha = torch.tensor([0.9, 0.5, 0.2], dtype=of_alpha)  # which is widened, not what it is a factor of rounded
    broken = -x
    broken[1, 0, 2, 3] = math.inf  # left out of the average of the scores, not of that of the noise
    for score in (-x, 0 * x, broken, math.nan * x):
        ours, theirs = NoiseStream(4), NoiseStream(4)
        got = distributed.langevin_step(x, score, M, 0.16, noise=ours, alpha=alpha, return_mean=True)
        expected = tdas_ops.langevin_step(x, score, M, 0.16, noise=theirs, alpha=alpha, return_mean=True)
        finite = expected[1].isfinite().flatten(1).all(1)
        assert torch.equal(got[1].isfinite().flatten(1).all(1), finite)
        for a, b in zip(got, expected, strict=True):
            assert not finite.any() or relative_rms(a[finite], b[finite]) < (1e-6 if dtype is torch.float32 else 1e-14)
        assert int(ours.draw) == int(theirs.draw) == 1
