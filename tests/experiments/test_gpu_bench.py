"""The first contact with a GPU as far as it runs without one: what gpu.sh loses when a stage fails, hangs or lacks time
(nothing), what is measured and what is refused, the reading of other tools' reports."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import relative_rms

import tdas_ops
from benchmarks import gpu_device, gpu_profile, gpu_races, gpu_smoke, gpu_table, gpu_times, nvcc_reusing, rows

ROOT = Path(__file__).parents[2]

FAKE_PYTHON = """#!/bin/sh
echo "$GPU_EXTENSION $*" >> calls
case "$*" in
  *EXT_SUFFIX*) echo "${FAKE_CUDA:-True} .so /usr/bin" ;;
  *benchmarks.report*) cat "$3" ;;
  $FAKE_FAILS) echo "it is broken"; exit 3 ;;
  $FAKE_HANGS) trap '' TERM; echo '{"stage": "'$GPU_STAGE'", "case": "begun"}' >> "$GPU_ROWS"; sleep 60; sleep 60 ;;
  *benchmarks/gpu*) echo '{"stage": "'$GPU_STAGE'", "case": "one", "ok": true}' >> "$GPU_ROWS" ;;
esac
"""


class Script:
    """gpu.sh in a folder of its own, with a Python that notes what it is asked for, and without other tools."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "results"
        (folder / "benchmarks").mkdir()
        text = (ROOT / "benchmarks/gpu.sh").read_text()
        (folder / "benchmarks/gpu.sh").write_text(text.replace("[repeat]=25", "[repeat]=10"))
        self.python = folder / "python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def __call__(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        (self.folder / "calls").unlink(missing_ok=True)
        own = {"PYTHON": str(self.python), "RESULTS": str(self.results), "CUDA_HOME": "/nowhere"}
        own |= {"PATH": "/usr/bin:/bin", "FAKE_FAILS": "-", "FAKE_HANGS": "-"}
        done = subprocess.run(
            ["bash", "benchmarks/gpu.sh", *arguments],
            cwd=self.folder, env={**own, **environment}, capture_output=True, text=True,
        )  # fmt: skip
        calls = self.folder / "calls"
        return done.returncode, done.stdout + done.stderr, calls.read_text() if calls.exists() else ""

    def rows(self, mode: str = "first") -> list[dict]:
        return rows.read(self.results / f"gpu-{mode}.jsonl")

    def statuses(self, mode: str = "first") -> dict[str, int]:
        return {row["stage"]: row["status"] for row in self.rows(mode) if "status" in row}


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path)


def carry(script: Script, *names: str) -> None:
    for name in names:
        folder = script.folder / "build/gpu-wheel" / name
        folder.mkdir(parents=True)
        (folder / "_C.so").touch()


SMOKE = {f"smoke {group}" for group in ("normals", *gpu_smoke.GROUPS) if group != "variant"}


def test_a_stage_that_fails_or_hangs_loses_nothing_of_the_others(script):
    carry(script, "main", "faster")
    status, output, calls = script("first", FAKE_FAILS="*gpu_smoke.py?64*", FAKE_HANGS="*gpu_smoke.py?repeat*")
    statuses = script.statuses()
    stages = {"environment, carried extension", *SMOKE, "smoke faster", "repeat", "times", "turns", "tests", "compiled"}
    assert set(statuses) == stages | {"small"}
    assert {name for name, found in statuses.items() if found} == {"smoke 64", "repeat"} and status == 1
    assert statuses["smoke 64"] == 3 and statuses["repeat"] in (124, 137)
    kept = {row["stage"] for row in script.rows() if row.get("ok")}
    assert kept == set(statuses) - {"smoke 64", "repeat"}
    assert {"stage": "repeat", "case": "begun"} in script.rows()
    assert '"said": "it is broken"' in output and "no time is left" not in output
    main, faster = (f"{script.folder}/build/gpu-wheel/{name}/_C.so" for name in ("main", "faster"))
    assert f"{main} benchmarks/gpu_times.py headline" in calls
    assert f"{main} benchmarks/gpu_times.py turns {faster}" in calls
    assert f"{faster} benchmarks/gpu_smoke.py variant" in calls
    assert sorted(path.name for path in script.results.iterdir()) == [
        "gpu-first-log.txt.gz", "gpu-first.jsonl", "gpu-first.txt"
    ]  # fmt: skip


def test_without_time_what_is_known_is_printed(script):
    status, output, calls = script("first", "14")
    assert status == 0 and "gpu_smoke" not in calls and not script.statuses()
    assert output.count("skipped, no time is left") >= 10 and "benchmarks.report" in calls
    assert '"stage": "compiled", "why": "skipped, no time is left"' in output


def test_the_limits_add_up():
    text = (ROOT / "benchmarks/gpu.sh").read_text()
    limits = dict(pair.strip("[]").split("]=") for pair in text.split("LIMIT=(")[1].split(")")[0].split())
    assert sum(int(value) for name, value in limits.items() if name != "racecheck") == 470  # which is beside memcheck
    assert limits["memcheck"] == limits["racecheck"]


def test_again_runs_what_is_named(script):
    status, output, calls = script(
        "again", "60", "speed", "times", "tests/kernels/gpu/test_gpu_dispatch.py::test_opcheck[a b]"
    )
    assert status == 1 and "gpu.sh: got 'speed', expected first [SECONDS], again [SECONDS] STAGE..." in output
    assert set(script.statuses("again")) == {"build", "times", "tests"}  # there is no extension
    assert (
        "gpu_tests.py 10 60 tests/kernels/gpu/test_gpu_dispatch.py::test_opcheck[a b]" in calls
        and "gpu_smoke.py 64" not in calls
    )
    status, output, calls = script("again")
    assert status == 1 and output.startswith("gpu.sh: got 'again', expected") and "gpu_smoke" not in calls


def test_the_script_says_what_is_wrong(script):
    status, output, calls = script("speed")
    assert status == 1 and output.startswith("gpu.sh: got 'speed', expected first [SECONDS], again") and not calls
    status, output, _ = script("first", PYTHON="false")
    assert status == 1 and output == "gpu.sh: PYTHON: got 'false', expected a Python with torch\n"
    status, output, _ = script("first", FAKE_CUDA="False")
    wrong = "gpu.sh: DEVICE: got 'cuda', but torch finds no CUDA device; DEVICE=cpu rehearses without one\n"
    assert (status, output) == (1, wrong)
    status, output, _ = script("first", DEVICE="gpu")
    assert (status, output) == (1, "gpu.sh: DEVICE: got 'gpu', expected cuda or cpu\n")
    carry(script, "main")
    unwritable = script.folder / "python/results"
    status, output, calls = script("first", RESULTS=str(unwritable), FAKE_HANGS="-")
    assert f"RESULTS: got '{unwritable}', expected a folder that can be written" in output
    assert '"stage": "times", "status": 0' in output and status == 0
    for tool, stages in (("compute-sanitizer", ("memcheck", "racecheck")), ("ncu", ("counters",))):
        for stage in stages:
            assert f"{stage}: skipped, {tool} is not found" in output
    assert "turns: skipped, build/gpu-wheel has no variant of the extension" in output


def test_an_extension_of_no_use_is_built_anew(script):
    carry(script, "main")
    status, output, calls = script("again", "times", FAKE_FAILS="*environment*")
    statuses = script.statuses("again")
    assert list(statuses.values()) == [3, 1, 0] and status == 1
    assert list(statuses) == ["environment, carried extension", "build", "times"]
    assert "nvcc is not found: the extension can come from make gpu-wheel" in output
    assert " benchmarks/gpu_times.py headline" in calls.splitlines()  # with the extension in place, if there is one
    (script.folder / "build/gpu-wheel/main/_C.so").rename(script.folder / "build/gpu-wheel/main/_C.other.so")
    status, output, calls = script("again", "times")
    assert "carried extension: skipped, got _C.other.so, expected _C.so of this Python" in output
    assert list(script.statuses("again")) == ["build", "times"]


def test_the_long_parts(script):
    folder = script.folder / "build/acceleration/data"
    status, output, calls = script("chunks", "iteration")
    assert status == 0 and "gpu_times.py chunks" in calls and "iteration.py" in calls
    status, output, calls = script("acceleration-faces")
    assert status == 1 and "build/acceleration/data/faces.safetensors is missing" in output and "train" not in calls
    status, output, _ = script("acceleration-dogs")
    assert status == 1 and "got 'acceleration-dogs', expected acceleration-NAME of faces photos64" in output
    folder.mkdir(parents=True)
    for data in ("faces", "photos64", "photos128", "photos256"):
        (folder / f"{data}.safetensors").touch()
    status, output, calls = script("acceleration")
    assert status == 0 and "--dataset photos256" in calls
    for name in ("train", "evaluate", "cost"):
        assert calls.count(f"experiments.acceleration.{name} ") == 4


# Programs of the stages


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """The file of rows."""
    path = tmp_path / "rows.jsonl"
    monkeypatch.setenv("GPU_ROWS", str(path))
    monkeypatch.setenv("GPU_STAGE", "stage")
    monkeypatch.setenv("DEVICE", "cpu")
    return lambda: rows.read(path)


@pytest.fixture
def on_cpu(monkeypatch):
    for module in (gpu_device, gpu_smoke, gpu_times):
        monkeypatch.setattr(module, "DEVICE", "cpu")
        monkeypatch.setattr(module, "ON_GPU", False)
    monkeypatch.setattr(gpu_device, "COPY_WORDS", 1 << 10)
    monkeypatch.setattr(gpu_device, "COLD_BYTES", 1)
    monkeypatch.setattr(gpu_times, "ELEMENTS", 1)
    gpu_device._place.cache_clear()
    yield
    gpu_device._place.cache_clear()


def wrong_masks(monkeypatch):
    """The CPU's kernels get a mask that is off by ten roundings."""
    right = tdas_ops.Preconditioner.masks
    off = lambda mask: None if mask is None else mask * (1 + 4e-6)
    patched = lambda self, dtype: tuple(map(off, right(self, dtype))) if dtype is torch.float32 else right(self, dtype)
    monkeypatch.setattr(tdas_ops.Preconditioner, "masks", patched)


def test_smoke_holds_every_op_against_float64(on_cpu, kept, monkeypatch):
    cases = [((3, 32, 32), masks, "pds", 2) for masks in ("R", "RA", "Rw", "RAw", "A", "")]
    monkeypatch.setitem(gpu_smoke.GROUPS, "few", [*cases, ((3, 32, 32), "Rw", "tdas", 2), ((3, 9, 10), "R", "tdas", 2)])
    assert gpu_smoke.smoke("few") == 1  # there is no skew part in tdas
    rows = kept()
    assert [row["ok"] for row in rows] == [True] * 6 + [False, True] and "skew" in rows[6]["why"]
    assert set(rows[0]) >= {"step", "given", "snr", "noise", "MMt"} and "snr" not in rows[3]
    wrong_masks(monkeypatch)
    assert gpu_smoke.smoke("few") == 7  # all with a mask
    monkeypatch.setattr(gpu_device, "DEADLINE", 0.0)
    assert gpu_smoke.smoke("few") == 1 and kept()[-1]["why"].startswith("out of time before")


def test_white_noise_is_that_of_the_reference(on_cpu, kept, monkeypatch):
    monkeypatch.setattr(gpu_smoke, "NORMALS", [(2, 3, 5, 8), (3, 2, 7, 33)])
    assert gpu_smoke.normals() == 0 and [row["ok"] for row in kept()] == [True] * 4


def test_results_that_move_are_a_race(on_cpu, kept, monkeypatch):
    monkeypatch.setattr(gpu_smoke, "ELEMENTS", 1)
    monkeypatch.setattr(gpu_smoke, "REPEATED", (32,))
    assert gpu_smoke.repeat() == 0 and len(kept()) == 8
    right, calls = tdas_ops.step, []

    def racy(*args, **options):
        calls.append(1)
        return right(*args, **options).add_(len(calls) == 5)

    monkeypatch.setattr(tdas_ops, "step", racy)
    assert gpu_smoke.repeat() == 1
    assert [row["moved"] for row in kept()[8:] if not row["ok"]] == [1]


def test_an_extension_for_another_machine_is_one_sentence(on_cpu, monkeypatch):
    class Module:
        build_info = staticmethod(lambda: {"cuda": "13.0", "cuda_architectures": ["8.0", "9.0"]})

    assert gpu_smoke.obstacle() is None
    monkeypatch.setattr(gpu_smoke, "ON_GPU", True)
    monkeypatch.setattr(gpu_smoke._extension, "load", Module)
    monkeypatch.setattr(tdas_ops, "backend_info", lambda: {"missing": {}})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some 1")
    for capability, sentence in (
        ((7, 5), "extension: got one built for 8.0, 9.0, expected one for 7.5 of Some 1"),
        ((10, 0), "extension: got one built for 8.0, 9.0, expected one for 10.0 of Some 1"),
        ((8, 6), None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert gpu_smoke.obstacle() == sentence


def case(op: str = "step", kind: str = "pds", size: int = 32) -> gpu_times.Case:
    return gpu_times.Case(op, size, kind)


def test_times_of_every_op_are_kept_as_they_are_measured(on_cpu, kept, monkeypatch):
    cases = [case(op, kind) for op in gpu_device.WORDS for kind in gpu_times.KINDS]
    monkeypatch.setattr(gpu_device, "in_turns", lambda runs: {name: 1e-3 for name, run in runs.items() if [run(0)]})
    measured = gpu_times.measure([case("step", "none"), *cases], gpu_times.headline, lambda i: None)
    rows = kept()
    assert measured == 1 and not rows[0]["ok"] and "none" in rows[0]["why"]
    assert [row["case"] for row in rows[1:]] == [str(each) for each in cases]


def test_shares_and_ratios(on_cpu):
    row = gpu_times.row_of(case(), {"tdas_ops": 2e-6, "torch": 8e-6, "fft": 1e-6, "16 MiB": 4e-6, "copy": 1e-6})
    bandwidth = 8 * gpu_device.COPY_WORDS / 1e-6
    assert row["share"] == {
        "tdas_ops": round(12 * 3072 / 2e-6 / bandwidth, 3),
        "16 MiB": round(3072 * 3e6 / bandwidth, 3),
    }
    assert row["us"] == {"tdas_ops": 2.0, "torch": 8.0, "fft": 1.0, "16 MiB": 4.0}
    assert row["ratio"] == {"torch": 4.0, "fft": 0.5}
    assert gpu_times.row_of(case(), {"tdas_ops": 4e-5}, 40) == {"us": {"tdas_ops": 1.0}, "ratio": {}}


def test_what_is_kept_is_not_measured_again_and_what_is_wrong_not_at_all(on_cpu, kept, monkeypatch):
    copy = gpu_device.copying()
    assert gpu_times.measure([case()], gpu_times.headline, copy) == 0
    assert gpu_times.measure([case(), case(kind="tdas")], gpu_times.headline, copy) == 0
    assert [row["case"].split()[2] for row in kept()] == ["pds", "tdas"]
    assert all({"tdas_ops", "torch", "fft"} == set(row["us"]) for row in kept())
    wrong_masks(monkeypatch)
    assert gpu_times.measure([case(kind="both")], gpu_times.headline, copy) == 1
    assert "relative RMS error" in kept()[-1]["why"] and "us" not in kept()[-1]
    monkeypatch.setenv("GPU_STAGE", "another")
    monkeypatch.setattr(gpu_device, "DEADLINE", 0.0)
    assert gpu_times.measure([case()], gpu_times.headline, copy) == 1
    assert kept()[-1]["why"] == f"out of time before {case()}"


def test_choices_are_compared_and_undone(on_cpu, kept, monkeypatch):
    chosen = []
    module = tdas_ops._extension.load()
    limits = type("Module", (), {"limit_scratch": chosen.append, "build_info": module.build_info})
    monkeypatch.setattr(tdas_ops._extension, "load", lambda: limits)
    monkeypatch.setattr(gpu_device, "captured", lambda run, calls: run)
    assert gpu_times.measure([case()], gpu_times.chunks, gpu_device.copying()) == 0
    assert "24 MiB" in kept()[-1]["us"] and 24 << 20 in chosen and chosen[-1] == 0
    monkeypatch.setenv("GPU_STAGE", "small")
    assert gpu_times.measure([case(), case("langevin_step")], gpu_times.small, None, host=True) == 0
    assert set(kept()[-2]["host_us"]) == {"tdas_ops", "torch", "fft", "torch.add alone"}
    assert set(kept()[-1]["us"]) == {"tdas_ops", "torch", "torch.add alone"}


def test_builds_are_measured_in_turns(on_cpu, kept, monkeypatch, tmp_path):
    """Two processes with the same extension, and one with something else."""
    broken = tmp_path / "broken" / "_C.so"
    broken.parent.mkdir()
    broken.write_text("no extension")
    monkeypatch.setattr(gpu_times, "OF_TURNS", [case()])
    assert gpu_times.turns([tdas_ops._extension.load().__file__, str(broken)]) == 1
    right, wrong = kept()
    assert list(right["us"]) == list(right["share"]) == ["main", "tdas_ops", "main again"]
    assert wrong["why"].startswith("broken: ") and "does not load" in wrong["why"]


def test_a_build_that_does_not_answer_loses_its_case(on_cpu, kept, monkeypatch):
    """And is started anew for the next ones, though not for ever."""

    class Silent(gpu_times.Server):
        def start(self):
            self.command = ["cat"] if self.name == "main" or self.starts == 1 else ["sleep", "60"]
            super().start()

        def answer(self):
            answer = super().answer()
            return {"tdas_ops": 1e-3, "copy": 1e-3} if isinstance(answer, list) else answer

    monkeypatch.setattr(gpu_times, "Server", Silent)
    monkeypatch.setattr(Silent, "answer_seconds", 1)
    monkeypatch.setattr(gpu_times, "OF_TURNS", [case(), case(kind="tdas")])
    assert gpu_times.turns(["/a/slow/_C.so"]) == 1
    first, lost, second = kept()
    assert list(first["us"]) == ["main", "main again"] and lost["why"] == "slow: no answer within 3 s"
    assert list(second["us"]) == ["main", "slow", "main again"]
    monkeypatch.setattr(Silent, "most_starts", 1)
    assert gpu_times.turns(["/a/slow/_C.so"]) == 2
    assert kept()[-1]["why"] == "slow: the process ended"


TESTS = """
import os, signal, time
import pytest
def test_right(): pass
def test_wrong(): assert 1 == 2
def test_hangs(): time.sleep(600)
def test_between(): pass
def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
def test_lost(): raise RuntimeError("CUDA error: an illegal memory access")
def test_skipped(): pytest.skip("no")
def test_last(): pass
"""


OF_OURS = "tests/unit/test_arguments.py::test_seeds_of_64_bits_keep_them"  # its conftest is what may be shadowed


def test_no_test_takes_the_others_along(kept, tmp_path):
    """Foreign packages of the names of our folders are in the way, as they may be."""
    for name in ("tests", "benchmarks"):
        (tmp_path / "foreign" / name).mkdir(parents=True)
        (tmp_path / "foreign" / name / "__init__.py").write_text("raise RuntimeError('foreign')")
    file = tmp_path / "test_some.py"
    file.write_text(TESTS)
    environment = {**os.environ, "DEVICE": "cpu", "PYTHONPATH": str(tmp_path / "foreign")}
    command = [sys.executable, "benchmarks/gpu_tests.py", "1", "6", str(file), OF_OURS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    rows = {row.get("test", "").split("::")[-1]: row for row in kept()}
    assert done.returncode == 1, done.stdout
    assert rows["test_wrong"]["why"] == "assert 1 == 2"
    assert rows["test_hangs"]["why"] == "no end within 6 s"
    assert rows["test_dies"]["why"] == "its process ended with status -9"
    assert "illegal memory access" in rows["test_lost"]["why"]
    assert rows[""]["counts"] == {"passed": 4, "failed": 4, "skipped": 1}


# Reports of other tools

HAZARD = """========= Error: Potential {kind} hazard detected at __shared__ 0x404 in block (0,0,0) :
=========     Write Thread ({first},0,0) at {kernel}+0x1a0
=========     Read Thread ({second},0,0) at {kernel}+0x1c0
=========     Current Value : 2, Incoming Value : 3
=========
"""
PLANE = "void tdas_ops::cuda::plane_kernel<(int){}, (int){}, (tdas_ops::cuda::Kind)0>(tdas_ops::cuda::PlaneWork)"
ROWS = "void tdas_ops::cuda::rows_kernel<(int)1024, (tdas_ops::cuda::Pass)0>(tdas_ops::cuda::LargeWork)"


def test_hazards_within_a_warp_of_small_planes_are_told_apart():
    found = [
        ("RAW", PLANE.format(32, 32), 3, 4, True),
        ("RAW", PLANE.format(32, 64), 33, 63, True),
        ("WAR", PLANE.format(32, 32), 31, 32, False),
        ("WAW", PLANE.format(64, 32), 1, 2, True),
        ("RAW", PLANE.format(64, 64), 3, 4, False),
        ("RAW", ROWS, 3, 4, False),
    ]
    report = "".join(HAZARD.format(kind=k, kernel=n, first=a, second=b) for k, n, a, b, _ in found)
    hazards = list(gpu_races.hazards(["line of the program\n", *report.splitlines(), "======== RACECHECK SUMMARY"]))
    assert [hazard.excused for hazard in hazards] == [excused for *_, excused in found]
    assert [hazard.kind for hazard in hazards] == [kind for kind, *_ in found]
    assert hazards[0].kernel.startswith("plane_kernel<") and hazards[-1].kernel == "rows_kernel"


def test_races_are_counted_even_if_the_stage_is_ended(kept):
    """Its time over, everything in it is told to end."""
    command = [sys.executable, "benchmarks/gpu_races.py"]
    reader = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    report = HAZARD.format(kind="RAW", kernel=PLANE.format(32, 32), first=0, second=1) * 3
    reader.stdin.write(report + HAZARD.format(kind="RAW", kernel=ROWS, first=0, second=1) + "of the program\n")
    reader.stdin.flush()
    assert reader.stdout.readline() == "of the program\n"
    reader.terminate()
    reader.communicate()
    assert reader.returncode == 1
    assert [(row["ok"], row["hazards"]) for row in kept()] == [(True, 3), (False, 1)]


def test_a_profile_is_read():
    elements = gpu_profile.SAMPLES[64] * 3 * 64 * 64
    counters = {
        "gpu__time_duration.sum": "70,000", "launch__registers_per_thread": "128",
        "smsp__thread_inst_executed.sum": str(53 * elements),
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
    out.writerow(["0", kernel, '1  "<default domain>:step 64 pds:none:none:none:none:none:none"', *counters.values()])
    out.writerow(["1", "tdas_ops::cuda::advance_kernel(long *)", "", *counters.values()])
    (row,) = gpu_profile.parse("==PROF== Connected\n" + written.getvalue() + "==PROF== Disconnected\n")
    assert row["case"] == "step 64 pds" and row["microseconds"] == 70.0 and row["registers"] == 128
    assert row["kernel"].startswith("plane_kernel<64, 64")
    assert row["instructions_per_element"] == 53 and row["dram_percent"] is None
    assert row["stalls_per_issue"] == "long_scoreboard=2.25 barrier=1.50"
    assert "step 64 pds plane_kernel<64, 64" in "\n".join(gpu_table.counters([row]))


NCU = """#!/bin/sh
case "$*" in
  *--page?raw*) cat "$0.csv" ;;
  *--page?source*) echo source ;;
  *$REFUSED*) echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1 ;;
  *) while [ "$1" != -o ]; do shift; done; touch "$2.ncu-rep" ;;
esac
"""


def test_a_profiler_is_used_as_far_as_it_goes(on_cpu, kept, monkeypatch, tmp_path):
    """It may not know a counter, or may not count at all."""
    ncu = tmp_path / "ncu"
    ncu.write_text(NCU)
    ncu.chmod(0o755)
    row = '"0","rows_kernel<64>(LargeWork)","1 <default>:step 1024 pds:none","70,000"'
    (tmp_path / "ncu.csv").write_text(f'"ID","Kernel Name","Range","gpu__time_duration.sum"\n{row}\n')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("REFUSED", "--metrics")
    assert gpu_profile.profile(str(tmp_path / "out")) == 0
    assert [(row["case"], row["microseconds"]) for row in kept()] == [("step 1024 pds", 70.0)]
    assert (tmp_path / "out.csv").exists() and (tmp_path / "out-source.csv.gz").exists()
    monkeypatch.setenv("REFUSED", "--nvtx")
    assert gpu_profile.profile(str(tmp_path / "out")) == 1 and "no launch was profiled" in kept()[-1]["why"]


def test_the_table_has_what_matters_within_its_characters():
    shape = "2048x3x64x64"
    time = {"stage": "times", "case": f"step 64 pds {shape}", "copy_tb_s": 3.0, "share": {"tdas_ops": 0.91}}
    time |= {"us": {"tdas_ops": 101.5, "torch": 700.0}, "ratio": {"torch": 6.9}}
    rows = [
        {"stage": "end", "clocks": "1980 MHz"},
        time,
        {"stage": "tests", "test": "tests/kernels/gpu/test_gpu_parity.py::test_a", "ok": False, "why": "assert 1 == 2"},
        {"stage": "smoke 64", "case": "3x64x64 R pds", "ok": True},
        {"stage": "smoke 64", "status": 0, "seconds": 9, "said": ""},
        {"stage": "repeat", "status": 124, "seconds": 22, "said": "waiting"},
    ]
    text = gpu_table.text(rows)
    assert "step 64 pds of 2048: 101.5us 0.910, torch 700us 6.90x" in text and "[times, copy 3 to 3 TB/s]" in text
    assert (
        "tests  tests/kernels/gpu/test_gpu_parity.py::test_a: assert 1 == 2" in text and "clocks, end: 1980 MHz" in text
    )
    assert text.endswith("== stages\nsmoke 64: ok 9s 1/1; repeat: OUT OF TIME 22s") and "repeat: waiting" in text
    assert len(gpu_table.text(rows * 300)) <= 10_000 and "... 2" in gpu_table.text(rows * 300)


# Builds


def test_a_source_that_no_macro_reaches_is_not_compiled_again(tmp_path, monkeypatch):
    sources, objects, made = (tmp_path / name for name in ("csrc", "main", "made"))
    for folder in (sources, objects, made):
        folder.mkdir()
    (sources / "a.cu").write_text('#include "b.cuh"\n')
    (sources / "b.cuh").write_text('#include "deep.cuh"\n')
    (sources / "deep.cuh").write_text('#include "b.cuh"\n#ifndef TDAS_OPS_SOME\n#define TDAS_OPS_SOME 0\n#endif\n')
    (sources / "c.cu").write_text('#include "elsewhere.cuh"\nint TDAS_OPS_SOME_MORE;\n')
    (sources / "d.cu").write_text("#if TDAS_OPS_SOME\n#endif\n")
    for name in ("a", "c", "d"):
        (objects / f"{name}.o").write_text("of main")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\nfor last in "$@"; do :; done\necho compiled > "$last"\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("GPU_OBJECTS", str(objects))
    monkeypatch.setenv("TDAS_OPS_NVCC_DEFINES", "TDAS_OPS_SOME=1")
    for name in ("a", "c", "d"):
        assert nvcc_reusing.main(["-c", str(sources / f"{name}.cu"), "-o", str(made / f"{name}.o")]) == 0
    assert [(made / f"{name}.o").read_text() for name in ("a", "c", "d")] == ["compiled\n", "of main", "compiled\n"]


# Whole iterations


def test_an_iteration_is_measured_and_resumed(on_cpu, kept, monkeypatch, capsys):
    """At a tiny size on the CPU: three updates with one network, and nothing measured twice."""
    pytest.importorskip("diffusers")
    from benchmarks import iteration

    monkeypatch.setattr(iteration, "DEVICE", "cpu")
    monkeypatch.setattr(iteration, "ON_GPU", False)
    arguments = ["--networks", "tiny", "--modes", "eager", "captured"]
    with torch.no_grad():
        iteration.main(arguments)
    rows = kept()
    assert [row["case"] for row in rows] == [f"tiny, {d}, {m}" for m in ("eager", "captured") for d in iteration.DTYPES]
    for row in rows[:2]:
        assert list(row["us"]) == ["tdas_ops", "torch", "published"] and min(row["us"].values()) > 0
        assert all(0 < share < 150 for share in row["update_percent"].values())
    assert rows[2]["obstacles"]["torch"].endswith("CUDA graphs need a CUDA device")
    with torch.no_grad():
        iteration.main(arguments)
    assert capsys.readouterr().out.count("was measured before") == 4 and kept() == rows


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
            for name in (iteration.PACKAGE, iteration.TORCH, iteration.PUBLISHED):
                torch.manual_seed(1)
                calls: list[torch.Tensor] = []
                network = lambda x, calls=calls: calls.append(x.clone()) or torch.tanh(x.float()).to(x.dtype)
                results[name] = iteration.updates(shape, m, dtype, "cpu")[name](network)
                assert [x.dtype for x in calls] == [dtype] * 2 and torch.equal(calls[0], calls[1])
            for other in (iteration.TORCH, iteration.PUBLISHED):
                assert relative_rms(results[iteration.PACKAGE], results[other]) < 1e-6
