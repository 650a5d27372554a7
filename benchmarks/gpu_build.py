"""The extension and its variants for a GPU machine that has no compiler, or no time for it; `make gpu-wheel` starts this.

    python benchmarks/gpu_build.py [--out build/gpu-wheel] [NAME...]

Builds with the torch and the Python that run it, for TORCH_CUDA_ARCH_LIST (default 9.0), on a machine without a GPU: `main`
and every variant of gpu_variants.txt, each into OUT/NAME/_C.*.so; those that are named, or all. gpu.sh looks for them there.
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


def variants(path: Path = VARIANTS) -> dict[str, str]:
    """The macros of each variant: a line is `name NAME=VALUE ...`, and `#` begins a comment.

    Raises:
        SystemExit: a line is something else.
    """
    found: dict[str, str] = {"main": ""}
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
    objects, library = out.with_name(f"{out.name}-objects"), out.with_name(f"{out.name}-objects") / "lib"
    environment = os.environ | {
        "TDAS_OPS_BUILD": "cuda",
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST", "9.0"),
        "TDAS_OPS_NVCC_DEFINES": defines,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # ninja
    }
    if name != "main":
        environment |= {
            "PYTORCH_NVCC": str(ROOT / "benchmarks" / "nvcc_reusing.py"),
            "GPU_OBJECTS": str(objects / "main"),
        }
    folders = ["--build-temp", str(objects / name), "--build-lib", str(library / name)]
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", *folders], cwd=ROOT, env=environment, check=True)
    (made,) = (library / name).rglob("_C*.so")
    (out / name).mkdir(parents=True, exist_ok=True)
    shutil.copy2(made, out / name / made.name)
    print(f"gpu_build: {out / name / made.name}, {made.stat().st_size / 2**20:.1f} MiB", flush=True)


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
