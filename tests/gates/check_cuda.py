"""Gate for the CUDA kernels, which needs nvcc and no GPU: registers, spills, occupancy and instructions an element.

Builds every csrc/cuda/*.cu for each architecture with the flags of the extension, or takes what nvcc_reporting.py has
kept of these sources in a build of it, and counts the instructions of usual calls in the machine code of
check_cuda_count.cu. Fails on a spill beyond the allowance, and where fewer blocks fit on a multiprocessor, or a call
takes over 3 % more instructions, than is recorded in check_cuda.json. Figures belong to one nvcc; `--record` writes
them for the one at hand. With TDAS_OPS_NVCC_DEFINES, as setup.py reads it, the figures are those of a variant, held
against the record of the default.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_suffix(".json")
KEPT = ROOT / "build" / "check-cuda"
COUNTED_SOURCE = Path(__file__).with_name("check_cuda_count.cu")
# Bytes stored and loaded by any one kernel: room for one value of an address outside the inner code; in the passes over
# large planes, whose strides the compiler does not know, for two or three.
SPILL_ALLOWANCE, LARGE_SPILL_ALLOWANCE = 16, 40
TOLERANCE = 0.03

# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": shared memory of a multiprocessor. The
# rest is the same for all of these.
SHARED_BYTES = {"80": 164 << 10, "90": 228 << 10, "100": 228 << 10}
REGISTERS, WARPS, BLOCKS = 64 << 10, 64, 32
RESERVED_BYTES = 1 << 10  # a block, in the guide's sections on shared memory of compute capability 8.x, 9.0 and 10.0
SCHEDULERS = 4  # of a multiprocessor, each with its share of registers and warps

# enum class Kind and enum class Pass of csrc/cuda
NAMED = {"4KindE": ("drift", "skewed_drift", "noise", "pixels", "measure"), "4PassE": ("forward", "between", "inverse")}
COUNTED_ARCHITECTURE = "90"
COUNTED = {
    **{f"pds {size}x{size}": (size, size, "drift") for size in (32, 64, 128)},
    "pds 32x128": (32, 128, "drift"),
    "pds 128x32": (128, 32, "drift"),
    **{f"tdas {size}x{size}": (size, size, "noise") for size in (32, 64, 128)},
    **{f"both masks {size}x{size}": (size, size, "pixels") for size in (32, 64, 128)},
}
# Large planes: the passes of an update, rows by a Pass and columns by a Kind, each counted for a length of its lines;
# those of langevin_step by what they are of, an enum class Part of COUNTED_SOURCE.
COUNTED_LENGTHS = (256, 1024, 2048)
COUNTED_PASSES = {
    "pds": ("forward", "drift", "inverse"),
    "tdas": ("noise", "inverse"),
    "both masks": ("forward", "pixels", "between", "pixels", "inverse"),
    "snr rule, both masks": (
        *("forward", "pixels", "between of drift", "measure of drift"),
        *("forward of noise", "measure of drift"),  # as of noise
        *("pixels of both", "inverse"),
    ),
}
LARGE_WARPS = 8  # of a block of these passes
SNR_LENGTH = 64
COUNTED_SNR = {"pds": "drift", "tdas": "noise"}  # langevin_step in one launch
TARGETS = {"pds 32x32": 53, "pds 64x64": 66, "pds 128x128": 71}  # instructions an element
ELEMENTS = 64  # of a thread

# By the start of an opcode, the first that matches. HFMA2 only makes constants: nothing computes in half precision.
CLASSES = {
    "moves": r"U?MOV|IMAD\.MOV|HFMA2|U?SEL|C?S2U?R|R2UR|P2R|R2P|U?LDCU?\b",  # and constants
    "special": r"MUFU",  # functions: sine, cosine, roots, logarithms
    "convert": r"I2|F2|FRND",
    "floating": r"F(?!LO)|[HD](ADD|MUL|FMA|SET|MNMX)",
    "integer": r"U?(I|LOP|SHF\b|LEA|PRMT|POPC|FLO|BMSK|SGXT|BREV|PLOP)|V",
    "shared": r"LDS|STS|ATOMS|SHFL",  # memory, as are these two
    "local": r"LDL|STL",
    "global": r"LD|ST|ATOM|RED",
    "control": r"BRA|BRX|BSSY|BSYNC|BAR|BREAK|BMOV|EXIT|CALL|RET|WARPSYNC|YIELD|DEPBAR|MEMBAR",
    "other": r"",
}

Figures = dict[str, dict[str, float]]  # of a kernel and architecture, or of a counted case


class Kernel(NamedTuple):
    """What the compiler says of one kernel on one architecture."""

    name: str
    architecture: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    threads: int | None = None  # of a block, where the kernel states its launch bounds

    def blocks(self) -> int | None:
        """Blocks that fit on a multiprocessor."""
        if self.threads is None:
            return None
        warps = -(-self.threads // 32)
        registers_of_warp = -(-self.registers * 32 // 256) * 256
        of_registers = REGISTERS // SCHEDULERS // registers_of_warp * SCHEDULERS // warps
        shared = -(-self.shared_bytes // 128) * 128 + RESERVED_BYTES
        return min(of_registers, SHARED_BYTES[self.architecture] // shared, WARPS // warps, BLOCKS)

    def figures(self) -> dict[str, float]:
        named = {"registers": self.registers, "spill_bytes": self.spill_bytes, "shared_bytes": self.shared_bytes}
        if (blocks := self.blocks()) is not None:
            named |= {"blocks": blocks, "warps": blocks * -(-self.threads // 32)}
        return named


class Compiled(NamedTuple):
    report: str
    threads: dict[str, int]  # launch bounds by mangled name


class CompilationError(Exception):
    pass


def variant() -> list[str]:
    """NAME=VALUE of what differs from the defaults of csrc/cuda."""
    return os.environ.get("TDAS_OPS_NVCC_DEFINES", "").split()


def compile_flags() -> list[str]:
    """The flags that setup.py compiles CUDA with, variants included."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NVCC_FLAGS":
            return [*ast.literal_eval(node.value), *(f"-D{define}" for define in variant())]
    raise ValueError("setup.py: got no list NVCC_FLAGS, expected the flags of nvcc")


def compiler_version(nvcc: str) -> str:
    """Such as "nvcc 13.0.88"."""
    return "nvcc " + re.search(r"release .*V([\d.]+)", subprocess.check_output([nvcc, "--version"], text=True))[1]


def readable_name(mangled: str) -> str:
    """The function's own name, with its template arguments if these are numbers: "plane_kernel<64, 128, drift>"."""
    name, rest = mangled, mangled.removeprefix("_ZN").removeprefix("_Z")
    while found := re.match(r"\d+", rest):
        end = found.end() + int(found[0])
        name, rest = rest[found.end() : end], rest[end:]
    if not rest.startswith("I"):
        return name
    arguments = []
    while found := re.match(r"I?L([a-z]|N\w*?E)(n?)(\d+)E", rest):
        named = NAMED.get(found[1][-6:])
        arguments.append(named[int(found[3])] if named else found[2].replace("n", "-") + found[3])
        rest = rest[found.end() :]
    return f"{name}<{', '.join(arguments)}>"


def parse(report: str, threads: Mapping[str, int] = MappingProxyType({})) -> list[Kernel]:
    """The kernels of one `ptxas -v` report; `threads` has launch bounds by mangled name."""
    kernels = []
    for entry in re.split(r"Compiling entry function ", report)[1:]:
        name, architecture = re.match(r"'(\w+)' for 'sm_(\w+)'", entry).groups()
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", entry))
        registers = int(re.search(r"Used (\d+) registers", entry)[1])
        shared = re.search(r"(\d+) bytes smem", entry)
        shared_bytes = int(shared[1]) if shared else 0
        kernels.append(Kernel(readable_name(name), architecture, registers, spills, shared_bytes, threads.get(name)))
    return kernels


def launch_bounds(ptx: str) -> dict[str, int]:
    """Threads of a block, by mangled name, of the kernels that state them."""
    entries = (re.match(r"(\w+)(?:[^{]*\.maxntid (\d+))?", entry) for entry in ptx.split(".entry ")[1:])
    return {entry[1]: int(entry[2]) for entry in entries if entry[2]}


def compile_source(
    nvcc: str, source: Path, architecture: str, cubin: Path | None = None, defines: Sequence[str] = ()
) -> Compiled:
    """Compiles for one architecture, into `cubin` where that is to be kept."""
    with tempfile.TemporaryDirectory() as folder:
        target = [
            f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
            *(f"-D{define}" for define in defines),
        ]
        output = ["-Xptxas=-v", "--keep", f"--keep-dir={folder}", "-cubin", "-o", str(cubin or f"{folder}/out.cubin")]
        command = [nvcc, *compile_flags(), *target, *output, str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        report = done.stdout + done.stderr
        if done.returncode != 0:
            raise CompilationError(f"{source.name} does not compile for sm_{architecture}:\n{report}")
        return Compiled(report, launch_bounds(next(Path(folder).glob("*.ptx")).read_text()))


def digest(nvcc: str) -> str:
    """Of all that the machine code of a source of csrc/cuda depends on."""
    said = hashlib.sha256(f"{compiler_version(nvcc)} {compile_flags()}".encode())
    for path in sorted([*ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/cuda/*")]):
        said.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return said.hexdigest()


def keep(nvcc: str, source: Path, compiled: Compiled) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{source.stem}.json").write_text(json.dumps({"digest": digest(nvcc), **compiled._asdict()}))


def kept(nvcc: str, source: Path) -> list[Kernel]:
    """The kernels of a source on those architectures for which nothing has changed since its report was kept."""
    path = KEPT / f"{source.stem}.json"
    if source.resolve().parent != ROOT / "csrc/cuda" or not path.exists():
        return []
    found = json.loads(path.read_text())
    kernels = parse(found["report"], found["threads"]) if found["digest"] == digest(nvcc) else []
    return [kernel for kernel in kernels if kernel.architecture in SHARED_BYTES]


def compile_kernels(nvcc: str, sources: list[Path], pool: ThreadPoolExecutor) -> list[Kernel]:
    """What the compiler says of every kernel, for all architectures."""
    kernels = [kernel for source in sources for kernel in kept(nvcc, source)]
    known = {(source, kernel.architecture) for source in sources for kernel in kept(nvcc, source)}
    jobs = [(nvcc, source, arch) for source in sources for arch in SHARED_BYTES if (source, arch) not in known]
    kernels += [kernel for done in pool.map(lambda job: compile_source(*job), jobs) for kernel in parse(*done)]
    return sorted(kernels, key=lambda kernel: list(SHARED_BYTES).index(kernel.architecture))


def find_cuobjdump(nvcc: str) -> str | None:
    """From the toolkit, or from Triton's wheel."""
    triton = importlib.util.find_spec("triton")
    beside = [Path(nvcc).resolve().parent]
    beside += [Path(triton.origin).parent / "backends/nvidia/bin"] if triton and triton.origin else []
    return shutil.which("cuobjdump") or next(filter(None, (shutil.which("cuobjdump", path=p) for p in beside)), None)


def class_of(opcode: str) -> str:
    return next(name for name, pattern in CLASSES.items() if re.match(pattern, opcode))


def count(sass: str) -> list[Counter[str]]:
    """Instructions by class that a warp issues, for each function of a listing.

    A warp goes through both sides of a branch on which its threads disagree. The only loop is that over the two passes
    of "both masks", which is left from its middle: what comes before the way out is counted twice.
    """
    counts = []
    for function in re.split(r"\n\s*Function : ", sass)[1:]:
        found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z]\w*(?:\.\w+)*)([^;]*);", function)
        instructions = [(int(address, 16), opcode, operands) for address, opcode, operands in found]
        targets = {
            address: int(re.search(r"0x([0-9a-f]+)\s*$", operands)[1], 16)
            for address, opcode, operands in instructions
            if opcode.startswith("BRA")
        }
        again = set()
        for end, start in targets.items():
            if start < end:
                ways_out = [at for at, target in targets.items() if start <= at < end < target]
                again |= {address for address, *_ in instructions if start <= address <= min(ways_out, default=end)}
        counted: Counter[str] = Counter()
        for address, opcode, _ in instructions:
            if opcode != "NOP" and targets.get(address) != address:  # the end of a function is padded
                counted[class_of(opcode)] += 2 if address in again else 1
        counts.append(counted)
    return counts


def per_element(counts: list[Counter[str]]) -> dict[str, float]:
    """Instructions an element, the mean of all warps: the total, and by class."""
    classes = {name: sum(c[name] for c in counts) / (len(counts) * ELEMENTS) for name in CLASSES}
    return {"total": round(sum(classes.values()), 3)} | {name: round(n, 3) for name, n in classes.items() if n}


SHAPED = {"shape": "plane_kernel", "row_shape": "rows_kernel", "column_shape": "columns_kernel"}
SHAPED |= {"snr_shape": "snr_plane_kernel"}


def with_shared_memory(kernels: list[Kernel], report: str) -> list[Kernel]:
    """The kernels with the shared memory that they get at launch, from the report on the kernels of SHAPED."""
    shared = {}
    for shape in parse(report):
        *lengths, size = re.findall(r"\d+", shape.name)
        shared[f"{SHAPED[shape.name.partition('<')[0]]}<{', '.join(lengths)}"] = int(size)
    return [k._replace(shared_bytes=shared.get(k.name.rpartition(",")[0], k.shared_bytes)) for k in kernels]


def disassembled(nvcc: str, cuobjdump: str, defines: Mapping[str, object], folder: Path) -> str:
    """The machine code of COUNTED_SOURCE."""
    cubin = folder / ("_".join(map(str, defines.values())) + ".cubin")
    named = [f"TDAS_OPS_COUNTED_{name}={value}" for name, value in defines.items()]
    compile_source(nvcc, COUNTED_SOURCE, COUNTED_ARCHITECTURE, cubin, named)
    return subprocess.run([cuobjdump, "--dump-sass", cubin], capture_output=True, text=True, check=True).stdout


def of_all_warps(sass: str, length: int, of_rows: bool) -> list[Counter[str]]:
    """The counts of the warps of a block of a pass, from those of the first and the last.

    Of rows the first warps have long lines of frequency 0, one a row, and others where there are fewer than 32; of
    columns of 2048 the second half of the threads has the odd frequencies.
    """
    warps = [int(name) for name in re.findall(r"Function : \S*counted_kernelILi\d+ELi(\d+)E", sass)]
    of_warp = dict(zip(warps, count(sass), strict=True))
    like_first = max(1, LARGE_WARPS // (length // 64)) if of_rows else LARGE_WARPS // 2
    return like_first * [of_warp[0]] + (LARGE_WARPS - like_first) * [of_warp[LARGE_WARPS - 1]]


def count_all(nvcc: str, cuobjdump: str, folder: Path, pool: ThreadPoolExecutor) -> Figures:
    """Instructions an element of all of COUNTED, COUNTED_SNR and, by length, COUNTED_PASSES."""

    def count_case(case: tuple[int, int, str]) -> list[Counter[str]]:
        defines = dict(zip(("HEIGHT", "WIDTH", "KIND"), case, strict=True))
        return count(disassembled(nvcc, cuobjdump, defines, folder))

    def count_pass(case: tuple[int, str]) -> list[Counter[str]]:
        length, of_pass = case
        kind, _, part = of_pass.partition(" of ")
        of_rows = kind in NAMED["4PassE"]
        defines = {"PASS" if of_rows else "COLUMNS": kind, "LENGTH": length, "PART": part or "update"}
        return of_all_warps(disassembled(nvcc, cuobjdump, defines, folder), length, of_rows)

    def count_snr(kind: str) -> list[Counter[str]]:
        defines = {"SNR": 1, "HEIGHT": SNR_LENGTH, "WIDTH": SNR_LENGTH, "KIND": kind}
        return count(disassembled(nvcc, cuobjdump, defines, folder))

    passes = sorted({of_pass for of_update in COUNTED_PASSES.values() for of_pass in of_update})
    cases = [(length, of_pass) for length in COUNTED_LENGTHS for of_pass in passes]
    on_chip, in_passes = pool.map(count_case, COUNTED.values()), pool.map(count_pass, cases)
    in_one_launch = pool.map(count_snr, COUNTED_SNR.values())
    counts = {name: per_element(found) for name, found in zip(COUNTED, on_chip, strict=True)}
    found = dict(zip(cases, in_passes, strict=True))
    for length in COUNTED_LENGTHS:
        for name, of_update in COUNTED_PASSES.items():
            warps = zip(*(found[length, of_pass] for of_pass in of_update), strict=True)
            counts[f"{name} {length}x{length}"] = per_element([sum(of_warp, Counter()) for of_warp in warps])
    for name, of_warps in zip(COUNTED_SNR, in_one_launch, strict=True):
        counts[f"{name} {SNR_LENGTH}x{SNR_LENGTH}, snr rule"] = per_element(of_warps)
    return counts


def compare_kernels(found: Figures, recorded: Figures) -> list[str]:
    """A sentence for every kernel of which fewer blocks fit on a multiprocessor, or that is gone, or not recorded."""
    problems = []
    for name in sorted(recorded.keys() | found.keys()):
        new, old = found.get(name), recorded.get(name)
        if new is None or old is None:
            problems.append(f"{name}: {'not compiled' if new is None else 'not recorded'}")
        elif new.get("blocks", 0) < old.get("blocks", 0):
            circumstances = "{blocks} blocks a multiprocessor ({registers} registers, {shared_bytes} B shared)"
            problems.append(f"{name}: {circumstances.format(**new)}, recorded are {circumstances.format(**old)}")
    return problems


def compare_counts(found: Figures, recorded: Figures) -> list[str]:
    """A sentence for every case that takes more instructions, or is gone, or not recorded."""
    problems = []
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found or name not in recorded:
            problems.append(f"{name}: {'not counted' if name not in found else 'not recorded'}")
            continue
        new, old = found[name]["total"], recorded[name]["total"]
        if new > old * (1 + TOLERANCE):
            problems.append(f"{name}: {new:.2f} instructions an element, {100 * (new / old - 1):.1f} % above {old:.2f}")
    return problems


def allowed_spills(kernel: Kernel) -> int:
    large = kernel.name.startswith(("rows_kernel<", "columns_kernel<"))
    return LARGE_SPILL_ALLOWANCE if large else SPILL_ALLOWANCE


def spilling(kernels: list[Kernel]) -> list[str]:
    return [
        f"{k.name}, sm_{k.architecture}: {k.spill_bytes} bytes of spills, expected at most {allowed_spills(k)}"
        for k in kernels
        if k.spill_bytes > allowed_spills(k)
    ]


def print_kernels(kernels: list[Kernel]) -> None:
    """One line a kernel, with a number for each architecture."""
    print(f"{'sm_' + '/'.join(SHARED_BYTES):<38}{'registers':>13}{'spill B':>12}{'shared B':>10}{'blocks an SM':>14}")
    for name in dict.fromkeys(k.name for k in kernels):
        of_name = [k for k in kernels if k.name == name]
        joined = lambda values: "/".join("-" if value is None else str(value) for value in values)
        registers, spills = joined(k.registers for k in of_name), joined(k.spill_bytes for k in of_name)
        blocks = joined(k.blocks() for k in of_name)
        print(f"{name:<38}{registers:>13}{spills:>12}{of_name[0].shared_bytes:>10}{blocks:>14}")


def print_counts(counts: Figures, recorded: Figures) -> None:
    """One line a case: the total, and what it is made of."""
    title = f"instructions an element, sm_{COUNTED_ARCHITECTURE}"
    print(f"\n{title:<32}{'now':>8}{'recorded':>10}{'target':>8}" + "".join(f"{name:>9}" for name in CLASSES))
    for name, figures in counts.items():
        columns = "".join(f"{figures.get(of_class, 0):>9.2f}" for of_class in CLASSES)
        old, target = recorded.get(name, {}).get("total", float("nan")), TARGETS.get(name, "")
        print(f"{name:<32}{figures['total']:>8.2f}{old:>10.2f}{target:>8}{columns}")


def written(records: dict[str, dict[str, Figures]]) -> str:
    """JSON with one line a kernel and a case."""
    text = json.dumps(records, indent=2, sort_keys=True)
    return re.sub(r"\{\s*([^{}]*?)\s*\}", lambda found: "{" + re.sub(r"\s*\n\s*", " ", found[1]) + "}", text) + "\n"


def check_figures(version: str, kernels: list[Kernel], counts: Figures, record: bool) -> list[str]:
    """Prints and records, or compares: a sentence for each figure that got worse."""
    records: dict[str, dict[str, Figures]] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    recorded = records.get(version, {"kernels": {}, "instructions": {}})
    figures = {f"{k.name}, sm_{k.architecture}": k.figures() for k in kernels}
    if counts:
        print_counts(counts, recorded["instructions"])
    else:
        print("check-cuda: cuobjdump is not found; instructions were not counted.")
    if record:
        records[version] = {"kernels": figures, "instructions": counts or recorded["instructions"]}
        RECORD.write_text(written(records))
        print(f"check-cuda: recorded for {version}")
        return []
    if version not in records:
        print(f"check-cuda: nothing is recorded for {version}.")
        return []
    worse = compare_kernels(figures, recorded["kernels"])
    worse += compare_counts(counts, recorded["instructions"]) if counts else []
    return [*worse, "`make check-cuda RECORD=1` records figures that are wanted"] if worse else []


def check(nvcc: str, sources: list[Path], record: bool) -> list[str]:
    """Compiles, prints and compares: a sentence for each figure that is not as it should be."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        if sources:
            kernels = compile_kernels(nvcc, sources, pool)
            print_kernels(kernels)
            return spilling(kernels)
        cuobjdump = find_cuobjdump(nvcc)
        shapes = pool.submit(compile_source, nvcc, COUNTED_SOURCE, COUNTED_ARCHITECTURE)
        counts = count_all(nvcc, cuobjdump, Path(folder), pool) if cuobjdump else {}
        kernels = compile_kernels(nvcc, sorted((ROOT / "csrc/cuda").glob("*.cu")), pool)
        kernels = with_shared_memory(kernels, shapes.result().report)
    print_kernels(kernels)
    return spilling(kernels) + check_figures(compiler_version(nvcc), kernels, counts, record)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--require", action="store_true", help="fail where nvcc is not found")
    parser.add_argument("--record", action="store_true", help="write the figures of this nvcc to check_cuda.json")
    parser.add_argument("sources", nargs="*", type=Path, help="looked at for spills alone; default: csrc/cuda/*.cu")
    arguments = parser.parse_args()
    if arguments.record and variant():
        parser.error(f"TDAS_OPS_NVCC_DEFINES: got {' '.join(variant())} with --record, expected the default")
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("check-cuda: skipped, nvcc is not found; the CUDA kernels were not compiled.")
        return int(arguments.require)
    try:
        problems = check(nvcc, arguments.sources, arguments.record)
    except CompilationError as error:
        problems = [str(error)]
    print("\n".join(["check-cuda: failed", *problems]) if problems else "check-cuda: passed")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
