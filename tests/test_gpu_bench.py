"""The GPU benchmarks as far as they run without a GPU: what gpu.sh remembers, the table, the reading of a profile."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import relative_rms

from benchmarks import gpu_bench, gpu_profile, gpu_table

ROOT = Path(__file__).parents[1]
SHAPE = (8, 3, 64, 64)

FAKE_PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$*" in
  *sys.executable*) echo /usr/bin/python3 ;;
  *capability*) echo 9.0 ;;
  *pytest*) echo "$FAKE_TESTS" ;;
esac
"""


@pytest.fixture
def script(tmp_path):
    """gpu.sh in a folder of its own, with a Python that finds a GPU and notes what it is asked for."""
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks/gpu.sh", tmp_path / "benchmarks")
    fake = tmp_path / "python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)

    def run(*parts: str, tests: str = "9 passed in 1 s", python: str = str(fake)) -> tuple[int, str, str]:
        (tmp_path / "calls").unlink(missing_ok=True)
        environment = {**os.environ, "PYTHON": python, "FAKE_TESTS": tests}
        command = ["bash", "benchmarks/gpu.sh", *parts]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        calls = tmp_path / "calls"
        return done.returncode, done.stdout + done.stderr, calls.read_text() if calls.exists() else ""

    return run


def test_the_script_goes_on_where_it_stopped(script):
    status, output, calls = script(tests="8 passed, 1 skipped in 1 s")
    assert status == 1 and "build passed" in output and "build_ext" in calls and "gpu_bench" not in calls
    status, output, calls = script()
    assert status == 0 and "build has passed before" in output and "build_ext" not in calls
    assert [f"gpu_bench.py {part} " in calls for part in gpu_bench.PARTS] == [True] * 8 and "gpu_profile.py" in calls
    assert "iteration.py --parts build/gpu" in calls
    status, output, calls = script()
    assert status == 0 and output.count("has passed before") == 18
    status, output, calls = script("bench")
    assert status == 0 and calls.count("gpu_bench.py") == 8 and calls.count("iteration.py") == 1
    assert "pytest" not in calls
    script("build")
    status, output, calls = script("bench-small")
    assert status == 1 and "no figure without passing tests" in output and "gpu_bench.py" not in calls


def test_curves_are_measured_where_they_are_named(script, tmp_path):
    status, output, calls = script("acceleration-faces")
    assert status == 1 and "build/acceleration/data/faces.safetensors is missing" in output and "train" not in calls
    folder = tmp_path / "build/acceleration/data"
    folder.mkdir(parents=True)
    for data in ("faces", "photos64", "photos128", "photos256"):
        (folder / f"{data}.safetensors").touch()
    status, output, calls = script("acceleration")
    assert status == 0 and output.count(" passed in ") == 4
    for name in ("train", "evaluate", "cost"):
        assert calls.count(f"benchmarks.acceleration.{name} ") == 4
    assert "--dataset photos256" in calls
    assert "acceleration" not in script()[2]


def test_the_script_says_what_is_wrong(script):
    status, output, calls = script("bench", "speed")
    assert status == 1 and output.startswith("gpu.sh: got 'speed', expected one of build test") and "gpu_b" not in calls
    status, output, _ = script(python="false")
    assert status == 1 and output == "gpu.sh: false has no torch that finds a CUDA device; name another with PYTHON=\n"


def circumstances(**more):
    build = {"cuda": "13.0", "cuda_architectures": ["9.0"]}
    about = {"device": "NVIDIA Some 1", "date": "2000-01-01", "driver": "1", "torch": "2", "torch_cuda": "13.0"}
    return {**about, "triton": "3", "python": "3.12", "build": build, "commit": "abc", "dirty": False, **more}


def rows(section, seconds, least_bytes=None, obstacles=None):
    labels = {"section": section, "case": "pds", "shape": list(SHAPE), "dtype": "float32"}
    return gpu_bench.rows_of(labels, seconds, obstacles or {}, least_bytes)


def test_shares_and_ratios_are_of_one_group():
    seconds = {"tdas_ops": 2e-6, "best torch": 8e-6, "compiled torch": 6e-6, "published": 70e-6, "copy": 1e-3}
    own, *others = rows(gpu_table.UPDATE, seconds, least_bytes=2 << 20)
    assert own["ratios"] == {"best torch": 4.0, "compiled torch": 3.0, "published": 35.0}
    assert own["share_of_copy"] == pytest.approx((2 << 20) / 2e-6 / ((2 << 30) / 1e-3), rel=1e-3)
    assert [row["name"] for row in others] == ["best torch", "compiled torch", "published"]


def test_parts_of_one_build_become_one_table(tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()

    def keep(part, rows, **about):
        kept = {"circumstances": circumstances(**about), "rows": rows}
        (parts / f"bench-{part}.json").write_text(json.dumps(kept))

    seconds = {"tdas_ops": 2e-6, "best torch": 8e-6, "published": 70e-6}
    obstacles = {"compiled torch": "torch.compile fails here: no compiler"}
    keep("small", rows(gpu_table.GRAPH, seconds), date="2000-01-02")
    keep("update", rows(gpu_table.UPDATE, {**seconds, "copy": 1e-3}, 2 << 20, obstacles))
    keep("noise", rows(gpu_table.WHITE, {"tdas_ops": 1.0}), commit="another")
    table = gpu_table.write(gpu_table.merge(parts, "update"), tmp_path / "results")
    assert table.name == "gpu-nvidia-some-1.md"
    text = table.read_text()
    assert "| pds | 8x3x64x64 | 2 | 8 | 70 | (1) | 49% | 1049 | 4 | 35 |" in text
    assert "| pds | 8x3x64x64 | 2 | 8 | 70 | 4 | 35 |" in text  # in a graph: no bandwidth
    assert text.endswith("(1) torch.compile fails here: no compiler\n")
    assert "## Update" in text and "## In a graph" in text and "## White noise" not in text
    result = json.loads(table.with_suffix(".json").read_text())
    assert result["circumstances"] == circumstances() and len(result["rows"]) == 7


class Limits(list):
    """The scratch limits set, in place of the extension's."""

    def build_info(self):
        return {"cuda": "13.0"}

    limit_scratch = list.append

    def use_tickets(self, chosen):
        self.append(chosen)

    use_cooperative = use_tickets


@pytest.fixture
def faked(monkeypatch):
    """What is asked of the device is done by the CPU; every call takes a millisecond and as many bytes."""
    limits = Limits()
    on_cpu = lambda make: lambda *args, device=None, **options: make(*args, **options)
    masks, stream = gpu_bench.contenders.masks, gpu_bench.tdas_ops.NoiseStream

    def in_turns(runs):
        return {name: 1e-3 for name, run in runs.items() if [run(0), run(1)]}

    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", on_cpu(torch.randn))
        patch.setattr(torch, "compile", lambda function, **options: function)
        patch.setattr(torch.Tensor, "cuda", lambda self: self)
        patch.setattr(gpu_bench.contenders, "masks", lambda shape, method, space, device: masks(shape, method, space))
        patch.setattr(gpu_bench.tdas_ops, "NoiseStream", on_cpu(stream))
        patch.setattr(gpu_bench.tdas_ops._extension, "load", lambda: limits)
        patch.setattr(gpu_bench, "COLD_BYTES", 1)
        patch.setattr(gpu_bench, "in_turns", in_turns)
        patch.setattr(gpu_bench, "copying", lambda: lambda i: None)
        patch.setattr(gpu_bench, "scratch_bytes", lambda run, returned: 1 << 20 if run(0) is not None else 0)
        patch.setattr(gpu_bench, "IN_PASSES", [(3, 1, 64, 256), (2, 1, 128, 512), (1, 1, 256, 256)])
        patch.setattr(gpu_bench, "COMPOSED", [(2, 1, 21, 40)])
        yield limits


@pytest.mark.parametrize(("part", "section", "kinds"), [("planes", gpu_table.UPDATE, 3), ("snr", gpu_table.OPS, 2)])
def test_large_planes_and_their_memory_are_measured(faked, part, section, kinds):
    """Every contender passes the check against the reference first."""
    rows = gpu_bench.PARTS[part]()
    names = {"tdas_ops", "best torch", "compiled torch", "published", "cuFFT alone"}
    for kept, key in ((section, "microseconds"), (gpu_table.SCRATCH, "mib")):
        found = [row for row in rows if row["section"] == kept]
        assert len(found) == 4 * kinds * 5 and all(row[key] for row in found)
        assert {row["name"] for row in found} == names
        assert len({(row["case"], tuple(row["shape"]), row["name"]) for row in found}) == len(found)
    own = [row for row in rows if row["name"] == "tdas_ops" and row["section"] == section]
    assert all(set(row["ratios"]) == {"best torch", "compiled torch", "published"} for row in own)
    assert all(row["least_bytes"] == 12 * math.prod(row["shape"]) for row in own)
    assert not faked


@pytest.mark.parametrize("part", ["planes", "snr"])
def test_a_contender_that_is_wrong_is_not_measured(faked, part, monkeypatch):
    right = gpu_bench.contenders.package
    monkeypatch.setattr(
        gpu_bench.contenders,
        "package",
        lambda op, M: lambda x, v, noise: right(op, M)(x, v, noise) * (1 if x.dtype is torch.float64 else 1 + 1e-5),
    )
    with pytest.raises(AssertionError, match="deterministic part"):
        gpu_bench.PARTS[part]()


def test_the_chunk_is_swept(faked):
    rows = gpu_bench.chunks_part()
    names = ["tdas_ops", "8 MiB", "16 MiB", "32 MiB", "64 MiB", "128 MiB", "256 MiB", "1024 MiB"]
    assert [row["name"] for row in rows] == names * (2 * 5)
    assert {row["section"] for row in rows} == {gpu_table.CHUNKS}
    assert [limit >> 20 for limit in dict.fromkeys(faked)] == [0, 8, 16, 32, 64, 128, 256, 1024] and faked[-1] == 0
    (head, _, line, *_) = gpu_table._table(rows, [])
    assert head.startswith("| what | shape | tdas_ops | 8 MiB |") and line.startswith("| step, pds, frequency mask")


def test_tickets_are_compared_with_passes(faked, monkeypatch):
    monkeypatch.setattr(gpu_bench, "WITH_TICKETS", [(2, 1, 64, 256)])
    rows = gpu_bench.tickets_part()
    assert [row["name"] for row in rows] == ["tdas_ops", "tickets"] * 3
    assert {row["section"] for row in rows} == {gpu_table.TICKETS}
    assert True in faked and faked[-1] is False


def test_cooperative_launches_are_compared_with_others(faked, monkeypatch):
    monkeypatch.setattr(gpu_bench, "COOPERATIVE", [(2, 1, 32, 32)])
    monkeypatch.setattr(gpu_bench, "captured", lambda run, calls: run)
    rows = gpu_bench.cooperative_part()
    assert [row["name"] for row in rows] == ["tdas_ops", "cooperative"] * 2
    assert {row["section"] for row in rows} == {gpu_table.SNR}
    assert True in faked and faked[-1] is False


def test_an_iteration_is_measured_and_resumed(tmp_path, capsys):
    """At a tiny size on the CPU: three updates with one network, and nothing measured twice."""
    pytest.importorskip("diffusers")
    from benchmarks import iteration

    arguments = ["--networks", "tiny", "--device", "cpu", "--modes", "eager", "captured"]
    arguments += ["--parts", str(tmp_path / "parts"), "--out", str(tmp_path / "results")]
    with torch.no_grad():
        iteration.main(arguments)
    first = capsys.readouterr().out
    (path,) = (tmp_path / "results").glob("*.json")
    rows = json.loads(path.read_text())["rows"]
    timed = [row for row in rows if row["section"] == gpu_table.ITERATION and row["case"].endswith("eager")]
    assert [row["name"] for row in timed] == ["tdas_ops", "best torch", "published"] * 2
    assert all(row["microseconds"] > 0 for row in timed) and {row["dtype"] for row in timed} == {"float32", "bfloat16"}
    shares = [row["percent"] for row in rows if row["section"] == gpu_table.SHARE and "percent" in row]
    assert len(shares) == 6 and all(0 < share < 150 for share in shares)
    assert "| tiny, bfloat16, captured | 2x3x32x32 | (1) | (1) | (1) |" in first
    assert "(1) captured fails here: CUDA graphs need a CUDA device" in first
    with torch.no_grad():
        iteration.main(arguments)
    assert capsys.readouterr().out.count("was measured before") == 4
    assert json.loads(path.read_text())["rows"] == rows


def test_the_three_updates_of_an_iteration_agree():
    """With the noise turned down they differ by rounding alone."""
    from benchmarks import contenders, iteration

    shape = (2, 3, 16, 16)
    m = contenders.masks(shape, "pds", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iteration, "N", 0.0)
        patch.setattr(iteration, "SNR", 1e-30)  # eta far below rounding
        for dtype in (torch.float32, torch.bfloat16):
            results = {}
            for name in (gpu_table.PACKAGE, gpu_table.TORCH, gpu_table.PUBLISHED):
                torch.manual_seed(1)
                calls: list[torch.Tensor] = []
                network = lambda x, calls=calls: calls.append(x.clone()) or torch.tanh(x.float()).to(x.dtype)
                results[name] = iteration.updates(shape, m, dtype, "cpu")[name](network)
                assert [x.dtype for x in calls] == [dtype] * 2 and torch.equal(calls[0], calls[1])
            for other in (gpu_table.TORCH, gpu_table.PUBLISHED):
                assert relative_rms(results[gpu_table.PACKAGE], results[other]) < 1e-6


def test_every_profiled_call_runs_in_its_range(faked, monkeypatch):
    ranges = []
    normals, M = torch.ops.tdas_ops.normals, gpu_bench.tdas_ops.Preconditioner
    monkeypatch.setattr(gpu_profile, "ELEMENTS", 3 << 20)
    monkeypatch.setattr(gpu_bench.tdas_ops, "use_backend", lambda backend: contextlib.nullcontext())
    monkeypatch.setattr(M, "to", lambda self, device: self)
    monkeypatch.setattr(torch, "empty", lambda *shape, device, **options: torch.zeros(*shape, **options))
    monkeypatch.setattr(normals, "cuda", normals.reference)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", ranges.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: None)
    gpu_profile.launch()
    assert ranges == gpu_profile.labels() and len(ranges) == 32
    one_chunk = 4 * gpu_profile.ELEMENTS // gpu_profile.IN_PASSES * (gpu_profile.IN_PASSES + 1)
    assert len(faked) == 1 and faked[0] >= one_chunk


def test_a_profile_is_read():
    counters = {
        "gpu__time_duration.sum": "70,000", "launch__registers_per_thread": "128",
        "smsp__thread_inst_executed.sum": str(53 * gpu_profile.ELEMENTS),
        "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "1.5",
        "smsp__average_warps_issue_stalled_selected_per_issue_active.ratio": "9",
        "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "2.25",
    }  # fmt: skip
    ranges = "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
    kernel = "void tdas_ops::cuda::plane_kernel<64, 64, (tdas_ops::cuda::Kind)0>(tdas_ops::cuda::PlaneWork)"
    written = io.StringIO()
    out = csv.writer(written, quoting=csv.QUOTE_ALL)
    out.writerow(["ID", "Kernel Name", ranges, *counters])
    out.writerow(["", "", "", *("unit" for _ in counters)])
    out.writerow(["0", kernel, '1  "<default domain>:step pds R 64:none:none:none:none:none:none"', *counters.values()])
    out.writerow(["1", "tdas_ops::cuda::advance_kernel(long *)", "", *counters.values()])
    (row,) = gpu_profile.parse("==PROF== Connected\n" + written.getvalue() + "==PROF== Disconnected\n")
    assert row["call"] == "step pds R 64" and row["microseconds"] == 70.0 and row["registers"] == 128
    assert row["kernel"] == "tdas_ops::cuda::plane_kernel<64, 64, (tdas_ops::cuda::Kind)0>"
    assert row["thread_instructions_per_element"] == 53 and row["dram_percent"] is None
    assert row["stalls_per_issue"] == "long_scoreboard=2.25 barrier=1.50"
    assert gpu_profile.formatted([row])[0]["dram_percent"] == ""


def test_a_profiler_that_may_not_read_counters_is_one_sentence(tmp_path):
    ncu = tmp_path / "ncu"
    ncu.write_text("#!/bin/sh\necho '==ERROR== ERR_NVGPUCTRPERM - The user does not have permission'\nexit 1\n")
    ncu.chmod(0o755)
    assert gpu_profile.profile(str(ncu)) == ([], "ERR_NVGPUCTRPERM - The user does not have permission")
