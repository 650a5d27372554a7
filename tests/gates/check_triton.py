"""Gate for the Triton kernels, which needs Triton and no GPU: registers, shared memory and spills.

Compiles every kernel for each architecture, in the variants that the ops launch. Fails on a spill, and where a kernel
takes over REGISTER_ALLOWANCE registers more than is recorded in check_triton.json. Figures belong to one Triton;
`--record` writes them for the one at hand.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

from check_cuda import Figures, written

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_suffix(".json")
ARCHITECTURES = (80, 90, 100)
REGISTER_ALLOWANCE = 8  # registers of a thread are given out in eights
STRIDED = ("out", "mean", "cast", "x", "v", "z")
POINTERS = {
    **dict.fromkeys((*STRIDED, "t", "y", "more", "space", "freq", "skew", "d_each", "n_each", "alpha_each"), "*fp32"),
    **dict.fromkeys(("drift_squares", "noise_squares", "drift", "noise", "eta"), "*fp32"),
    **dict.fromkeys(("seeds", "draw"), "*i64"),
    "norms": "*fp64",
}
NUMBERS = dict.fromkeys(("d", "n", "gain", "root", "snr", "alpha"), "fp32")


class Variant(NamedTuple):
    """A kernel as an op launches it: its constants, the type of the score, and the sizes that are multiples of 16."""

    case: str
    kernel: object
    constants: dict[str, object]
    score: str = "fp32"
    multiples: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kernel.__name__}: {self.case}"


def variants() -> Iterator[Variant]:
    """Every variant that is compiled."""
    from tdas_ops.triton_kernels import noise, pixels, snr, spectral

    for each in (False, True):
        constants = {"SEED_PER_SAMPLE": each, "BLOCK": noise.BLOCK}
        yield Variant("seeds" if each else "one seed", noise.normals_kernel, constants, multiples=("quads", "size"))

    yield Variant("both norms", snr.norm_kernel, {"BLOCK": snr.BLOCK})
    for each in (False, True):
        constants = {"PER_SAMPLE": each, "BLOCK": snr.BLOCK} | ({} if each else {"alpha_each": None})
        yield Variant("sample" if each else "batch", snr.step_size_kernel, constants)

    squares = ("drift_squares", "noise_squares")
    for case, absent, power, drawn, parities in (
        ("filter, linear", ("t", "skew", *squares), 1, False, (True,)),
        ("R Z", ("v", "skew", *squares), None, False, (True,)),
        ("noise alone", ("v", "t", "skew", *squares), None, True, (True,)),
        ("drift and noise", ("t", "skew", *squares), 2, True, (True, False)),
        ("drift, skew and noise", ("t", *squares), 2, True, (True, False)),
        ("drift, skew and noise given", squares, 2, False, (True,)),
        ("norms, drift and noise", ("out", "t", "skew"), 2, True, (True, False)),
        ("norms, drift, skew and noise given", ("out",), 2, False, (True,)),
    ):
        for even in parities:
            # Numbers in the one, a step size each in the other.
            constants = dict.fromkeys(absent) | ({} if drawn else {"seeds": None, "draw": None})
            constants |= {"d_each": None} if even else {}
            constants |= {"n_each": None, "POWER": power, "DRAWN": drawn, "SEED_PER_SAMPLE": drawn and not even}
            constants |= {"EVEN_HEIGHT": even, "EVEN_WIDTH": even, "ROOT_OF_TWO_D": not even, "BLOCK": spectral.BLOCK}
            name = f"{case}, {'even' if even else 'odd'}"
            yield Variant(name, spectral.spectral_kernel, constants, multiples=("height",) if even else ())

    for case, there, drawn, formats in (
        ("x + y", ("out", "x", "y"), False, (False, True)),
        ("x + d v + y", ("out", "x", "v", "y"), False, (False, True)),
        ("x + d v + y, mean", ("out", "mean", "x", "v", "more"), False, (True,)),
        ("x + y, cast", ("out", "cast", "x", "y"), False, (False, True)),
        ("half-way", ("out", "v", "space"), True, (False,)),
        ("half-way, noise given", ("out", "v", "z", "space"), False, (True,)),
        ("noise alone", ("out", "space"), True, (False,)),
        ("no transform", ("out", "mean", "x", "v", "space"), True, (False, True)),
        ("skew alone, noise given", ("out", "mean", "x", "v", "z", "y", "space"), False, (True,)),
        ("norms, drift", ("v", *squares), False, (False, True)),
        ("norms, no transform", ("v", "space", *squares), True, (False, True)),
    ):
        for last in formats:
            optional = (*STRIDED, "y", "more", "space", *squares)
            constants = {name: None for name in optional if name not in there}
            constants |= {} if drawn else {"seeds": None, "draw": None}
            constants |= {"n_each": None, "ROOT_OF_TWO_D": True} if last else {"d_each": None, "n_each": None}
            constants |= {"FILTER_DRIFT": "space" in there, "DRAWN": drawn, "SEED_PER_SAMPLE": drawn and last}
            # The stride that is 1 is known when a kernel is compiled: of columns, or of channels in channels_last.
            constants |= {f"{name}{1 if last else 3}": 1 for name in STRIDED}
            constants = {"ROOT_OF_TWO_D": False, "BLOCK": pixels.BLOCK} | constants
            multiples = ("height", "width", *(f"{name}{axis}" for name in STRIDED for axis in range(4)))
            score = "bf16" if last else "fp32"
            name = f"{case}, {'channels_last, v bf16' if last else 'contiguous'}"
            yield Variant(name, pixels.pixel_kernel, constants, score, multiples)


def parse(report: str, shared_bytes: int) -> dict[str, float]:
    """Figures of the one kernel in a `ptxas -v` report."""
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    return {"registers": registers, "spill_bytes": int(spills[1]) + int(spills[2]), "shared_bytes": shared_bytes}


@cache
def _variants() -> list[Variant]:
    return list(variants())


def compiled(job: tuple[int, int]) -> dict[str, float]:
    """What the compiler says of a variant, by its number, on an architecture."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    variant, architecture = _variants()[job[0]], job[1]
    types = POINTERS | NUMBERS | {"v": f"*{variant.score}", "cast": "*bf16"}
    names = variant.kernel.arg_names
    signature = {name: "constexpr" if name in variant.constants else types.get(name, "i32") for name in names}
    aligned = [i for i, name in enumerate(names) if name in POINTERS or name in variant.multiples]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned if signature[names[i]] != "constexpr"}
    source = ASTSource(variant.kernel, signature, variant.constants, attributes)
    with contextlib.redirect_stdout(io.StringIO()) as report:
        kernel = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
    return parse(report.getvalue(), kernel.metadata.shared)


def compile_all() -> Figures:
    """Figures of every variant on every architecture, compiled anew in processes without Triton's interpreter."""
    jobs = [(i, architecture) for i in range(len(_variants())) for architecture in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"TRITON_CACHE_DIR": folder, "TRITON_DUMP_PTXAS_LOG": "1"}
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(compiled, jobs, chunksize=4))
    return {f"{_variants()[i].name}, sm_{a}": figures for (i, a), figures in zip(jobs, found, strict=True)}


def spilling(found: Figures) -> list[str]:
    return [
        f"{name}: {f['spill_bytes']} bytes of spills, expected none" for name, f in found.items() if f["spill_bytes"]
    ]


def compare(found: Figures, recorded: Figures) -> list[str]:
    """A sentence for every kernel that takes more registers, or is gone, or not recorded."""
    problems = []
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found or name not in recorded:
            problems.append(f"{name}: {'not compiled' if name not in found else 'not recorded'}")
        elif found[name]["registers"] > recorded[name]["registers"] + REGISTER_ALLOWANCE:
            new, old = found[name]["registers"], recorded[name]["registers"]
            problems.append(f"{name}: {new} registers, recorded are {old}, {REGISTER_ALLOWANCE} more are allowed")
    return problems


def print_figures(found: Figures) -> None:
    """One line a variant, with a number for each architecture."""
    print(f"{'sm_' + '/'.join(map(str, ARCHITECTURES)):<64}{'registers':>13}{'spill B':>10}{'shared B':>16}")
    for variant in _variants():
        rows = [found[f"{variant.name}, sm_{architecture}"] for architecture in ARCHITECTURES]
        columns = ["/".join(str(row[key]) for row in rows) for key in ("registers", "spill_bytes", "shared_bytes")]
        print(f"{variant.name:<64}{columns[0]:>13}{columns[1]:>10}{columns[2]:>16}")


def check(record: bool) -> list[str]:
    """Compiles, prints, and records or compares: a sentence for each figure that is not as it should be."""
    import triton

    version, found = f"triton {triton.__version__}", compile_all()
    print_figures(found)
    problems = spilling(found)
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if record:
        RECORD.write_text(written(records | {version: found}))
        print(f"check-triton: recorded for {version}")
    elif version not in records:
        print(f"check-triton: nothing is recorded for {version}.")
    elif worse := compare(found, records[version]):
        problems += [*worse, "`make check-triton RECORD=1` records figures that are wanted"]
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--require", action="store_true", help="fail where Triton is not installed")
    parser.add_argument("--record", action="store_true", help="write the figures of this Triton to check_triton.json")
    arguments = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)  # it would replace the compiler
    if importlib.util.find_spec("triton") is None:
        print("check-triton: skipped, Triton is not installed")
        return int(arguments.require)
    problems = check(arguments.record)
    print("\n".join(["check-triton: failed", *problems]) if problems else "check-triton: passed")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
