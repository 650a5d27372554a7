"""Compiles every Triton kernel for sm_80, sm_90 and sm_100, with no GPU: registers, spills, vector width of the stores.

    python benchmarks/check_triton.py [--require]

Exits with 1 on a register spill. Where Triton is not installed it says so and exits with 0, or with 1 under --require.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ARCHITECTURES = (80, 90, 100)


def compiled(fn, signature: dict[str, str], constants: dict[str, object], arch: int, aligned: tuple[str, ...]) -> dict:
    """What the compiler says of one kernel; `aligned` names the arguments that are multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    there = [name for name in aligned if signature.get(name, "constexpr") != "constexpr"]
    attributes = {(fn.arg_names.index(name),): [["tt.divisibility", 16]] for name in there}
    source = ASTSource(fn=fn, signature=signature, constexprs=constants, attrs=attributes)
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32))
    assembler = tools / ("ptxas-blackwell" if arch >= 100 else "ptxas")
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(kernel.asm["ptx"])
        target = re.search(r"\.target (sm_\w+)", kernel.asm["ptx"])[1]
        command = [assembler, "-v", f"--gpu-name={target}", ptx, "-o", Path(folder) / "kernel.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    return {
        "kernel": fn.__name__,
        "arch": target,
        "registers": int(re.search(r"Used (\d+) registers", said)[1]),
        "spill bytes": int(spilled[1]) + int(spilled[2]),
        "shared bytes": kernel.metadata.shared,
    }


def arguments(fn, known: dict[str, str], constants: dict[str, object]) -> tuple[dict[str, str], dict[str, object]]:
    """Signature and constants of a kernel: `known` arguments that `constants` does not fix, and 32-bit integers."""
    signature = {name: "constexpr" if name in constants else known.get(name, "i32") for name in fn.arg_names}
    return signature, constants


def kernels() -> Iterator[tuple]:
    """(name, kernel, signature, constants, aligned arguments) of every variant that is compiled."""
    from tdas_ops.triton_kernels import noise, pixels, spectral

    floats = ("out", "mean", "x", "v", "t", "z", "y", "more", "space", "freq", "skew", "d_each", "n_each")
    known = dict.fromkeys(floats, "*fp32") | {"seeds": "*i64", "draw": "*i64", "d": "fp32", "n": "fp32", "root": "fp32"}
    pointers = (*floats, "seeds", "draw")
    for per_sample in (False, True):
        fixed = {"SEED_PER_SAMPLE": per_sample, "BLOCK": noise.BLOCK}
        fn, aligned = noise.normals_kernel, (*pointers, "quads", "half", "width", "size")
        yield f"seeds {per_sample}", fn, *arguments(fn, known, fixed), aligned

    for case, absent, power, drawn in (
        ("filter, linear", ("t", "skew"), 1, False),
        ("filter, R Z", ("v", "skew"), 0, False),
        ("noise alone", ("v", "t", "skew"), 0, True),
        ("drift and noise", ("t", "skew"), 2, True),
        ("drift, skew and noise", ("t",), 2, True),
        ("drift, skew and noise given", (), 2, False),
    ):
        for even in (True, False):
            for each in (False, True):
                fixed = dict.fromkeys(absent) | ({} if drawn else {"seeds": None, "draw": None})
                fixed |= {} if each else {"d_each": None, "n_each": None}
                fixed |= {"POWER": power, "DRAWN": drawn, "SEED_PER_SAMPLE": drawn and each, "EVEN_HEIGHT": even}
                fixed |= {"EVEN_WIDTH": even, "ROOT_OF_TWO_D": not each, "BLOCK": spectral.BLOCK}
                fn = spectral.spectral_kernel
                name = f"{case}, {'even' if even else 'odd'}, {'a scale each' if each else 'one scale'}"
                yield name, fn, *arguments(fn, known, fixed), (*pointers, "height")

    everything = ("mean", "x", "v", "z", "y", "more", "space")
    for case, there, drawn in (
        ("x + y", ("x", "y"), False),
        ("x + d v + y", ("x", "v", "more"), False),
        ("x + y, mean", ("mean", "x", "y", "more"), False),
        ("x + d v + y, mean", ("mean", "x", "v", "more"), False),
        ("half-way", ("v", "space"), True),
        ("half-way, noise given", ("v", "z", "space"), False),
        ("noise alone", ("space",), True),
        ("no transform", ("mean", "x", "v", "space"), True),
        ("skew alone", ("mean", "x", "v", "y", "space"), True),
        ("skew alone, noise given", ("mean", "x", "v", "z", "y", "space"), False),
    ):
        for score in ("*fp32", "*bf16"):
            for last in (False, True):
                fixed = {name: None for name in everything if name not in there}
                fixed |= {} if drawn else {"seeds": None, "draw": None}
                fixed |= {"FILTER_DRIFT": "space" in there, "DRAWN": drawn, "SEED_PER_SAMPLE": drawn and last}
                fixed |= {"ROOT_OF_TWO_D": False, "BLOCK": pixels.BLOCK}
                # The stride that is 1 is known when a kernel is compiled: of columns, or of channels in channels_last.
                fixed |= {f"{name}{1 if last else 3}": 1 for name in ("out", "mean", "x", "v", "z")}
                fn = pixels.pixel_kernel
                name = f"{case}, v {score[1:]}, {'channels_last' if last else 'contiguous'}"
                multiples = [f"{name}{axis}" for name in ("out", "mean", "x", "v", "z") for axis in range(3)]
                yield name, fn, *arguments(fn, known | {"v": score}, fixed), (*pointers, "height", "width", *multiples)


def main() -> int:
    os.environ.pop("TRITON_INTERPRET", None)  # it would replace the compiler
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        import triton  # noqa: F401
    except ImportError:
        print("check-triton: skipped, Triton is not installed")
        return int("--require" in sys.argv)
    rows = [
        {**compiled(fn, signature, constants, arch, aligned), "case": case}
        for arch in ARCHITECTURES
        for case, fn, signature, constants, aligned in kernels()
    ]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    spills = [row for row in rows if row["spill bytes"]]
    if spills:
        print(f"check-triton: {len(spills)} kernels spill registers")
    return int(bool(spills))


if __name__ == "__main__":
    sys.exit(main())
