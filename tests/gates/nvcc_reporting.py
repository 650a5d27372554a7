#!/usr/bin/env python3
"""nvcc for a build of the extension, as PYTORCH_NVCC: keeps what check_cuda.py asks of every source of csrc/cuda, which
then need not be compiled for it again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import check_cuda


def main() -> int:
    toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc, arguments = shutil.which("nvcc") or shutil.which("nvcc", path=f"{toolkit}/bin"), sys.argv[1:]
    if nvcc is None:
        print("nvcc_reporting.py: nvcc is not found", file=sys.stderr)
        return 1
    sources = [Path(argument).resolve() for argument in arguments if argument.endswith(".cu")]
    of_kernels = [source.parent for source in sources] == [check_cuda.ROOT / "csrc/cuda"]
    if not of_kernels or not set(check_cuda.compile_flags()) <= set(arguments):
        return subprocess.run([nvcc, *arguments]).returncode
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *arguments, "-Xptxas=-v", "--keep", f"--keep-dir={folder}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            ptx = next(Path(folder).glob("*.ptx")).read_text()
            compiled = check_cuda.Compiled(done.stdout + done.stderr, check_cuda.launch_bounds(ptx))
            check_cuda.keep(nvcc, sources[0], compiled)
        else:
            print(done.stdout + done.stderr, file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
