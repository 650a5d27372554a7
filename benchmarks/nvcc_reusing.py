#!/usr/bin/env python3
"""nvcc for the build of a variant of the extension, as PYTORCH_NVCC: a source that no macro of TDAS_OPS_NVCC_DEFINES
reaches, neither in it nor in a header of ours that it includes, is taken from the objects of another build,
GPU_OBJECTS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def reached(source: Path, macros: list[str]) -> bool:
    """Whether the source, or a header that it includes from its own tree, has a macro."""
    waiting, seen, word = [source.resolve()], set[Path](), re.compile(rf"\b({'|'.join(macros)})\b")
    while waiting:
        path = waiting.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        text = path.read_text()
        if word.search(text):
            return True
        folders = path.parent, path.parents[1]
        waiting += [(folder / name).resolve() for name in INCLUDE.findall(text) for folder in folders]
    return False


def main(arguments: list[str]) -> int:
    toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{toolkit}/bin")
    if nvcc is None:
        print("nvcc_reusing.py: nvcc is not found", file=sys.stderr)
        return 1
    macros = [define.split("=")[0] for define in os.environ.get("TDAS_OPS_NVCC_DEFINES", "").split()]
    sources = [Path(argument) for argument in arguments if argument.endswith(".cu")]
    if macros and len(sources) == 1 and "-o" in arguments and "GPU_OBJECTS" in os.environ:
        target = Path(arguments[arguments.index("-o") + 1])
        made = list(Path(os.environ["GPU_OBJECTS"]).rglob(target.name))
        if len(made) == 1 and not reached(sources[0], macros):
            shutil.copy2(made[0], target)
            dependencies = made[0].with_name(f"{target.name}.d")
            if dependencies.exists():
                shutil.copy2(dependencies, target.with_name(dependencies.name))
            return 0
    return subprocess.run([nvcc, *arguments]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
