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
from pathlib import Path

ARCHITECTURES = (80, 90, 100)


def compiled(fn, signature: dict[str, str], constants: dict[str, object], arch: int, aligned: tuple[str, ...]) -> dict:
    """What the compiler says of one kernel; `aligned` names the arguments that are multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    attributes = {(fn.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
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


def main() -> int:
    os.environ.pop("TRITON_INTERPRET", None)  # it would replace the compiler
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        import triton  # noqa: F401
    except ImportError:
        print("check-triton: skipped, Triton is not installed")
        return int("--require" in sys.argv)
    from tdas_ops.triton_kernels.noise import BLOCK, normals_kernel

    sizes = ("blocks", "quads", "half", "width", "size", "first_sample")
    pointers = {"out": "*fp32", "seeds": "*i64", "draw": "*i64"}
    signature = pointers | dict.fromkeys(sizes, "i32") | {"SEED_PER_SAMPLE": "constexpr", "BLOCK": "constexpr"}
    rows = [
        compiled(
            normals_kernel,
            signature,
            {"SEED_PER_SAMPLE": per_sample, "BLOCK": BLOCK},
            arch,
            ("out", "seeds", "draw", "quads", "half", "width", "size"),
        )
        for arch in ARCHITECTURES
        for per_sample in (False, True)
    ]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    spills = [row for row in rows if row["spill bytes"]]
    if spills:
        print(f"check-triton: {len(spills)} kernels spill registers")
    return int(bool(spills))


if __name__ == "__main__":
    sys.exit(main())
