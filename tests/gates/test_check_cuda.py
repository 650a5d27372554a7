"""The gate of the CUDA kernels: what it reads, counts and compares, and that it can fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import check_cuda
import nvcc_reporting
import pytest

ROOT = Path(__file__).parents[2]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not found")

PLANE_KERNEL = "_ZN8tdas_ops4cuda12plane_kernelILi64ELi128ELNS0_4KindE2EEEvNS0_9PlaneWorkE"
REPORT = f"""
ptxas info    : Compiling entry function '_ZN8tdas_ops4cuda10_GLOBAL__N11step_kernelILi64EEEvPf' for 'sm_90'
ptxas info    : Function properties for x
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 61 registers, used 1 barriers, 16 bytes cumulative stack size, 2048 bytes smem
ptxas info    : Compiling entry function '{PLANE_KERNEL}' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers
"""
SHAPES = """
ptxas info    : Compiling entry function '_ZN8tdas_ops4cuda5shapeILi64ELi128ELi34944EEEvv' for 'sm_90'
ptxas info    : Used 4 registers
"""
PTX = """
.visible .entry _Z5boundv(
	.param .u64 p
)
.maxntid 256, 1, 1
{ ret; }
.visible .entry _Z4freev() { ret; }
"""

# Two functions: a straight one, and a loop from 0010 with a way out at 0040 and a branch that stays within.
SASS = """
		Function : straight
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                  /* 0x00000a00ff017b82 */
                                                                           /* 0x000fe20000000800 */
        /*0010*/              @!P0 FFMA.FTZ R2, R2, R3, R4 ;               /* 0x0000000302027223 */
        /*0020*/                   IMAD.MOV.U32 R2, RZ, RZ, R3 ;
        /*0030*/                   IMAD.WIDE.U32 R2, R2, R3, R4 ;
        /*0040*/               @P0 EXIT ;
        /*0050*/                   EXIT ;
        /*0060*/                   BRA 0x60;
        /*0070*/                   NOP;
		Function : loop
        /*0000*/                   LDG.E.128 R4, desc[UR6][R2.64] ;
        /*0010*/                   MUFU.SIN R4, R4 ;
        /*0020*/               @P1 BRA 0x40 ;
        /*0030*/                   STS.128 [R4], R8 ;
        /*0040*/              @!P0 BRA 0x80 ;
        /*0050*/                   LDS.128 R8, [R4] ;
        /*0060*/                   STL [R1], R4 ;
        /*0070*/                   BRA 0x10 ;
        /*0080*/                   EXIT ;
        /*0090*/                   BRA 0x90;
"""

# 96 live values a thread where 1024 threads leave 64 registers.
SPILLING = """
__global__ void __launch_bounds__(1024) spilling_kernel(float* x, int rounds) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = x[threadIdx.x + 1024 * i];
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < 96; ++i) v[i] = fmaf(v[i], v[(i + 37) % 96], 1.0f);
  }
#pragma unroll
  for (int i = 0; i < 96; ++i) x[threadIdx.x + 1024 * i] = v[i];
}
"""

KERNEL = check_cuda.Kernel("plane_kernel<64, 64, drift>", "90", 128, 0, 34944, 128)
COUNTS = {"pds 64x64": {"total": 60.0, "floating": 40.0, "integer": 20.0}}


def gate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests/gates/check_cuda.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_reports_are_read():
    step, plane = check_cuda.parse(REPORT, {PLANE_KERNEL: 128})
    assert step == check_cuda.Kernel("step_kernel<64>", "90", 61, 20, 2048)
    assert plane == check_cuda.Kernel("plane_kernel<64, 128, noise>", "90", 128, 0, 0, 128)
    assert check_cuda.with_shared_memory([step, plane], SHAPES) == [step, plane._replace(shared_bytes=34944)]


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("_Z15spilling_kernelPfi", "spilling_kernel"),
        ("_ZN8tdas_ops4cuda40_GLOBAL__N__ced3c9ff_8_noise_cu_1b4e3a5914advance_kernelEPl", "advance_kernel"),
        ("_Z1kILin3ELb1EEvv", "k<-3, 1>"),
    ],
)
def test_names(mangled, name):
    assert check_cuda.readable_name(mangled) == name


@pytest.mark.parametrize("enumeration", check_cuda.NAMED)
def test_kinds_and_passes_are_those_of_the_kernels(enumeration):
    headers = "".join(path.read_text() for path in sorted((ROOT / "csrc/cuda").glob("*.*h")))
    names = re.search(rf"enum class {enumeration[1:-1]} \{{(.*?)\}}", headers, re.DOTALL)[1]
    assert tuple(re.findall(r"^\s*(\w+),", names, re.MULTILINE)) == check_cuda.NAMED[enumeration]


LARGE_SHAPES = """
ptxas info    : Compiling entry function '_ZN8tdas_ops4cuda9row_shapeILi256ELi70656EEEvv' for 'sm_90'
ptxas info    : Used 4 registers
ptxas info    : Compiling entry function '_ZN8tdas_ops4cuda12column_shapeILi2048ELi67712EEEvv' for 'sm_90'
ptxas info    : Used 4 registers
"""


def test_large_planes_get_their_shared_memory():
    rows = check_cuda.Kernel("rows_kernel<256, between>", "90", 128, 0, 0, 256)
    columns = check_cuda.Kernel("columns_kernel<2048, drift>", "90", 128, 0, 0, 256)
    found = check_cuda.with_shared_memory([rows, columns], LARGE_SHAPES)
    assert [kernel.shared_bytes for kernel in found] == [70656, 67712]
    assert found[0].blocks() == 2
    assert check_cuda.readable_name("_ZN8tdas_ops4cuda11rows_kernelILi256ELNS0_4PassE1EEEvNS0_9LargeWorkE") == rows.name


def listing(warp: int, instructions: int) -> str:
    lines = "".join(f"        /*{16 * i:04x}*/                   FADD R1, R2, R3 ;\n" for i in range(instructions))
    return f"\n\t\tFunction : _ZN8tdas_ops4cuda14counted_kernelILi512ELi{warp}EEEvNS0_9LargeWorkE\n{lines}"


@pytest.mark.parametrize(("length", "of_rows", "like_first"), [(256, True, 2), (2048, True, 1), (2048, False, 4)])
def test_counts_of_two_warps_stand_for_all(length, of_rows, like_first):
    counts = check_cuda.of_all_warps(listing(7, 64) + listing(0, 128), length, of_rows)
    assert len(counts) == check_cuda.LARGE_WARPS
    assert check_cuda.per_element(counts)["total"] == pytest.approx((like_first * 2 + 8 - like_first) / 8, abs=1e-3)


def test_launch_bounds_are_read():
    assert check_cuda.launch_bounds(PTX) == {"_Z5boundv": 256}


@pytest.mark.parametrize(
    ("architecture", "registers", "threads", "shared_bytes", "blocks"),
    [
        ("90", 128, 128, 34944, 4),  # registers: 16 warps
        ("90", 129, 128, 34944, 3),  # 136 a thread, as registers are given out: 12 warps
        ("80", 65, 256, 0, 3),  # 72 a thread: 7 warps a scheduler
        ("80", 32, 128, 50 << 10, 3),  # shared memory, of which a block takes 51 KiB
        ("90", 32, 128, 50 << 10, 4),
        ("100", 32, 1024, 0, 2),  # threads
        ("100", 16, 32, 0, 32),  # blocks
        ("100", 16, None, 0, None),
    ],
)
def test_occupancy(architecture, registers, threads, shared_bytes, blocks):
    assert check_cuda.Kernel("k", architecture, registers, 0, shared_bytes, threads).blocks() == blocks


def test_machine_code_is_counted():
    straight, loop = check_cuda.count(SASS)
    assert straight == {"moves": 2, "floating": 1, "integer": 1, "control": 2}
    assert loop == {"global": 1, "special": 2, "shared": 2 + 1, "local": 1, "control": 2 + 2 + 1 + 1}
    assert check_cuda.per_element([straight, loop])["total"] == round((6 + 13) / 2 / 64, 3)


@pytest.mark.parametrize(
    ("opcode", "of_class"),
    [
        ("HFMA2.MMA", "moves"),
        ("S2UR", "moves"),
        ("LDC.64", "moves"),
        ("ULDC", "moves"),
        ("I2FP.F32.U32", "convert"),
        ("F2FP.F16.F32.PACK_AB", "convert"),
        ("FSEL", "floating"),
        ("FLO.U32", "integer"),
        ("UIADD3", "integer"),
        ("ULOP3.LUT", "integer"),
        ("SHFL.BFLY", "shared"),
        ("SHF.R.U32.HI", "integer"),
        ("STG.E.128", "global"),
        ("LDL", "local"),
        ("BAR.SYNC.DEFER_BLOCKING", "control"),
        ("HMMA.16816.F32", "other"),
    ],
)
def test_classes(opcode, of_class):
    assert check_cuda.class_of(opcode) == of_class


def test_figures_may_fall_and_counts_rise_a_little():
    recorded = {"k, sm_90": KERNEL.figures()}
    assert check_cuda.compare_kernels({"k, sm_90": KERNEL._replace(registers=96).figures()}, recorded) == []
    assert check_cuda.compare_counts({"pds 64x64": {"total": 61.7}}, COUNTS) == []
    assert check_cuda.spilling([KERNEL._replace(spill_bytes=check_cuda.SPILL_ALLOWANCE)]) == []


@pytest.mark.parametrize(
    ("figures", "problem"),
    [
        ({"pds 64x64": {"total": 63.0}}, "pds 64x64: 63.00 instructions an element, 5.0 % above 60.00"),
        ({}, "pds 64x64: not counted"),
        ({**COUNTS, "tdas 64x64": {"total": 1.0}}, "tdas 64x64: not recorded"),
    ],
)
def test_a_rise_of_the_counts_fails(figures, problem):
    assert check_cuda.compare_counts(figures, COUNTS) == [problem]


@pytest.mark.parametrize(
    ("figures", "problem"),
    [
        (
            {"k, sm_90": KERNEL._replace(registers=168).figures()},
            "k, sm_90: 3 blocks a multiprocessor (168 registers, 34944 B shared), "
            "recorded are 4 blocks a multiprocessor (128 registers, 34944 B shared)",
        ),
        ({}, "k, sm_90: not compiled"),
        ({"k, sm_90": KERNEL.figures(), "other, sm_90": KERNEL.figures()}, "other, sm_90: not recorded"),
    ],
)
def test_a_fall_of_the_occupancy_fails(figures, problem):
    assert check_cuda.compare_kernels(figures, {"k, sm_90": KERNEL.figures()}) == [problem]


def test_spills_beyond_the_allowance_fail():
    spilled = check_cuda.SPILL_ALLOWANCE + 4
    assert check_cuda.spilling([KERNEL._replace(spill_bytes=spilled)]) == [
        f"plane_kernel<64, 64, drift>, sm_90: {spilled} bytes of spills, expected at most {check_cuda.SPILL_ALLOWANCE}"
    ]


def test_what_is_recorded_is_compared(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(check_cuda, "RECORD", tmp_path / "record.json")
    more = {"pds 64x64": {"total": 66.0}}
    assert check_cuda.check_figures("nvcc 1.0", [KERNEL], COUNTS, record=True) == []
    assert check_cuda.check_figures("nvcc 1.0", [KERNEL], COUNTS, record=False) == []
    assert check_cuda.check_figures("nvcc 1.0", [KERNEL], more, record=False)[0].endswith("10.0 % above 60.00")
    assert "nothing is recorded" not in capsys.readouterr().out
    assert check_cuda.check_figures("nvcc 2.0", [KERNEL], more, record=False) == []
    assert "nothing is recorded for nvcc 2.0" in capsys.readouterr().out


def test_without_cuobjdump_the_rest_is_compared_and_what_was_counted_stays_recorded(monkeypatch, capsys, tmp_path):
    record = tmp_path / "record.json"
    monkeypatch.setattr(check_cuda, "RECORD", record)
    check_cuda.check_figures("nvcc 1.0", [KERNEL], COUNTS, record=True)
    check_cuda.check_figures("nvcc 1.0", [KERNEL], {}, record=True)
    assert json.loads(record.read_text())["nvcc 1.0"]["instructions"] == COUNTS
    assert check_cuda.check_figures("nvcc 1.0", [KERNEL._replace(registers=168)], {}, record=False) != []
    assert "instructions were not counted" in capsys.readouterr().out


def test_every_case_is_recorded():
    assert check_cuda.TARGETS.keys() <= check_cuda.COUNTED.keys()
    text = check_cuda.RECORD.read_text()
    records = json.loads(text)
    assert check_cuda.written(records) == text
    large = {f"{update} {n}x{n}" for update in check_cuda.COUNTED_PASSES for n in check_cuda.COUNTED_LENGTHS}
    large |= {
        f"{update} {check_cuda.SNR_LENGTH}x{check_cuda.SNR_LENGTH}, snr rule" for update in check_cuda.COUNTED_SNR
    }
    for figures in records.values():
        assert figures["instructions"].keys() == check_cuda.COUNTED.keys() | large
        architectures = {name.rpartition("sm_")[2] for name in figures["kernels"]}
        assert architectures == check_cuda.SHARED_BYTES.keys()


def test_the_flags_are_those_of_the_extension():
    assert {"-O3", "--fmad=true"} <= set(check_cuda.compile_flags())


def test_variants_are_choices_that_the_kernels_have():
    sources = "".join(path.read_text() for path in (ROOT / "csrc/cuda").iterdir())
    names = dict(re.findall(r"#ifndef (\w+)\n#define \1 (\w+)", sources))
    lines = (ROOT / "benchmarks/gpu_variants.txt").read_text().splitlines()
    for line in (line for line in lines if not line.startswith("#")):
        name, *defines = line.split()
        assert defines and all(names[d.partition("=")[0]] != d.partition("=")[2] for d in defines), name


def test_figures_of_a_variant_are_not_recorded(monkeypatch):
    defines = "TDAS_OPS_SOME=1 TDAS_OPS_OTHER=2"
    monkeypatch.setenv("TDAS_OPS_NVCC_DEFINES", defines)
    assert check_cuda.compile_flags()[-2:] == ["-DTDAS_OPS_SOME=1", "-DTDAS_OPS_OTHER=2"]
    done = gate("--record", TDAS_OPS_NVCC_DEFINES=defines)
    assert done.returncode == 2 and f"got {defines} with --record" in done.stderr


@needs_nvcc
def test_a_variant_that_the_kernels_do_not_have_is_refused():
    environment = {**os.environ, "TDAS_OPS_BUILD": "cuda", "TDAS_OPS_NVCC_DEFINES": "TDAS_OPS_PREFECH=0"}
    command = [sys.executable, "setup.py", "build_ext"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("tdas_ops: TDAS_OPS_NVCC_DEFINES has 'TDAS_OPS_PREFECH=0'; expected ")


WAITING = """
#include "csrc/cuda/platform.cuh"
__global__ void waiting_kernel(const uint32_t* counter) { tdas_ops::cuda::wait_until(counter, 7); }
"""


@needs_nvcc
def test_a_wait_empties_the_cache_once_and_not_at_every_look(tmp_path: Path):
    nvcc = shutil.which("nvcc")
    cuobjdump = check_cuda.find_cuobjdump(nvcc)
    if cuobjdump is None:
        pytest.skip("cuobjdump is not found")
    source, cubin = tmp_path / "waiting.cu", tmp_path / "waiting.cubin"
    source.write_text(WAITING.replace("csrc", str(ROOT / "csrc")))
    check_cuda.compile_source(nvcc, source, check_cuda.COUNTED_ARCHITECTURE, cubin)
    sass = subprocess.run([cuobjdump, "--dump-sass", cubin], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)([^;]*);", sass)
    branches = [(int(at, 16), int(re.search(r"0x([0-9a-f]+)\s*$", to)[1], 16)) for at, op, to in found if op == "BRA"]
    within = lambda loop, name: any(op.startswith(name) for at, op, _ in found if loop[1] <= int(at, 16) <= loop[0])
    looks = [loop for loop in branches if loop[1] < loop[0] and within(loop, "NANOSLEEP")]
    innermost = min(looks, key=lambda loop: loop[0] - loop[1])
    assert within(innermost, "LD") and not within(innermost, "CCTL")
    assert any(op == "CCTL.IVALL" for _, op, _ in found)


def test_without_nvcc_it_says_so_and_passes_unless_required():
    done = gate(PATH="")
    assert done.returncode == 0 and "skipped, nvcc is not found" in done.stdout
    assert gate("--require", PATH="").returncode == 1


@needs_nvcc
def test_a_spill_fails(tmp_path: Path):
    source = tmp_path / "spilling.cu"
    source.write_text(SPILLING)
    done = gate(str(source))
    assert done.returncode == 1
    assert re.search(r"spilling_kernel, sm_80: \d+ bytes of spills, expected at most", done.stdout)


@needs_nvcc
def test_what_does_not_compile_fails(tmp_path: Path):
    source = tmp_path / "broken.cu"
    source.write_text("__global__ void kernel() { missing(); }\n")
    done = gate(str(source))
    assert done.returncode == 1
    assert "broken.cu does not compile for sm_80" in done.stdout and "missing" in done.stdout


@needs_nvcc
def test_what_a_build_has_compiled_is_not_compiled_again(tmp_path: Path, monkeypatch):
    nvcc, source = shutil.which("nvcc"), ROOT / "csrc/cuda/noise.cu"
    monkeypatch.setattr(check_cuda, "KEPT", tmp_path / "kept")
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ("80", "90")]
    arguments = [*check_cuda.compile_flags(), *targets, "-c", str(source), "-o", str(tmp_path / "noise.o")]
    monkeypatch.setattr(sys, "argv", ["nvcc", *arguments])
    assert nvcc_reporting.main() == 0 and (tmp_path / "noise.o").exists()
    compile_source, compiled = check_cuda.compile_source, []

    def noted(nvcc, source, architecture):
        compiled.append(architecture)
        return compile_source(nvcc, source, architecture)

    monkeypatch.setattr(check_cuda, "compile_source", noted)
    with ThreadPoolExecutor(1) as pool:
        found = check_cuda.compile_kernels(nvcc, [source], pool)
        assert compiled == ["100"]
        assert [kernel.architecture for kernel in found if kernel.name == "normals_kernel"] == ["80", "90", "100"]
        assert {kernel.threads for kernel in found if kernel.name == "normals_kernel"} == {256}
        flags = check_cuda.compile_flags()
        monkeypatch.setattr(check_cuda, "compile_flags", lambda: [*flags, "-lineinfo"])
        assert check_cuda.kept(nvcc, source) == []  # not of these flags
    monkeypatch.setattr(sys, "argv", ["nvcc", "-c", str(source), "-o", str(tmp_path / "other.o"), "--missing-option"])
    assert nvcc_reporting.main() != 0


@needs_nvcc
def test_kernels_pass():
    """Those of noise.cu; `make check-cuda` compiles all, which takes minutes."""
    done = gate("--require", str(ROOT / "csrc/cuda/noise.cu"))
    assert done.returncode == 0, done.stdout
    assert re.search(r"^normals_kernel +\d+/\d+/\d+ +0/0/0 ", done.stdout, re.MULTILINE)
