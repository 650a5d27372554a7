"""The extension and its variants for a GPU machine without a compiler, or the time for one.

    python benchmarks/gpu_build.py [--out build/gpu-wheel] [NAME...]      make gpu-wheel starts this

Builds with the Python that runs it, for TORCH_CUDA_ARCH_LIST (default 9.0), without a GPU: `main` and every variant of
gpu_variants.txt, or those that are named, each into OUT/NAME, its library and its _C.*.so, where gpu.sh looks for them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ROOT / "benchmarks" / "gpu_variants.txt"
MAIN = "main"


def variants(path: Path = VARIANTS) -> dict[str, str]:
    """The macros of each variant: a line is `name NAME=VALUE ...`, and `#` begins a comment.

    Raises:
        SystemExit: a line is something else.
    """
    found: dict[str, str] = {MAIN: ""}
    for line in path.read_text().splitlines() if path.exists() else ():
        name, *defines = line.split("#")[0].split() or [""]
        if not name:
            continue
        wrong = [d for d in defines if not d.startswith("TDAS_OPS_") or "=" not in d]
        if name in found or not defines or wrong:
            raise SystemExit(f"{path.name}: got {line!r}, expected a new name and macros TDAS_OPS_NAME=VALUE")
        found[name] = " ".join(defines)
    return found


def build(name: str, defines: str, out: Path) -> None:
    """Objects that a variant has in common with the others are compiled once."""
    objects = out.with_name(f"{out.name}-objects")
    environment = os.environ | {
        "TDAS_OPS_BUILD": "cuda",
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST", "9.0"),
        "TDAS_OPS_NVCC_DEFINES": defines,
        "NVCC_APPEND_FLAGS": os.environ.get("NVCC_APPEND_FLAGS", "--compress-mode=size"),  # a third; all must travel
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # ninja
    }
    if name != MAIN:
        reusing = ROOT / "benchmarks" / "nvcc_reusing.py"
        environment |= {"PYTORCH_NVCC": str(reusing), "GPU_OBJECTS": str(objects / MAIN)}
    library = objects / "lib" / name
    folders = ["--build-temp", str(objects / "temp"), "--build-lib", str(library)]
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", *folders], cwd=ROOT, env=environment, check=True)
    if name == MAIN:
        shutil.rmtree(objects / MAIN, ignore_errors=True)
        shutil.copytree(objects / "temp" / "csrc" / "cuda", objects / MAIN)
    made = sorted((library / "tdas_ops").glob("*.so"))
    (out / name).mkdir(parents=True, exist_ok=True)
    for file in made:
        shutil.copy2(file, out / name / file.name)
        print(f"gpu_build: {out / name / file.name}, {file.stat().st_size / 2**20:.1f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-wheel")
    known = variants()
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}")
    chosen = parser.parse_args()
    for name in chosen.names:
        if name not in known:
            raise SystemExit(f"gpu_build: got {name!r}, expected one of {', '.join(known)}")
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True)
    for name in chosen.names or known:
        build(name, known[name], chosen.out.resolve())
    (chosen.out / "commit").write_bytes(commit.stdout)


if __name__ == "__main__":
    main()
