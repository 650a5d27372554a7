"""Builds tdas_ops._C. Everything else about the package is in pyproject.toml.

TDAS_OPS_BUILD: auto (the default: what torch can run, so CUDA kernels where torch and nvcc are of one CUDA), cpu, cuda
(beside any torch), or none (pure Python). CUDA kernels are compiled for the GPUs that torch sees, elsewhere for
ARCHITECTURES. TORCH_CUDA_ARCH_LIST and MAX_JOBS mean what they mean to torch.utils.cpp_extension. What was built, and
why, is left beside the package's modules as RECORD, which `tdas-ops info` prints. TDAS_OPS_NVCC_DEFINES: choices of
csrc/cuda/tuning.h that differ from the defaults, as "NAME=VALUE NAME=VALUE".
"""

import json
import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUILDS = ("auto", "cpu", "cuda", "none")
ARCHITECTURES = "8.0;9.0;10.0+PTX"
OLDEST = (8, 0)  # bfloat16 in hardware
RECORD = "_build.json"


def import_torch():
    """torch.utils.cpp_extension, from the invoking environment when pip builds in isolation.

    An isolated build runs the environment's own interpreter with its site-packages taken off the path. Put back at the
    end, after the isolated build tools, they give the torch that the extension must match.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        sys.path += site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
    try:
        import torch.utils.cpp_extension as cpp_extension
    except ImportError:
        raise SystemExit(
            "tdas_ops: the kernels are built against torch, and this build sees none: run `pip install torch "
            "setuptools ninja pybind11` and then `pip install --no-build-isolation .`, or set TDAS_OPS_BUILD=none "
            "to go without them."
        ) from None
    return cpp_extension


def find_cuda():
    """The CUDA toolkit folder that holds nvcc and the runtime headers, or None."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates += [Path(nvcc).resolve().parents[1] if nvcc else None, "/usr/local/cuda"]
    for home in (Path(candidate) for candidate in candidates if candidate):
        if (home / "bin/nvcc").exists() and (home / "include/cuda_runtime_api.h").exists():
            return home
    return None


def nvcc_says(home, option, pattern):
    return re.findall(pattern, subprocess.check_output([home / "bin/nvcc", option], text=True))


def seen_gpus():
    """The compute capabilities of the GPUs that torch sees, such as (9, 0)."""
    import torch

    return {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}


def cuda_obstacle(home, build):
    """Why the CUDA kernels cannot be built, or could not be run by this torch on this machine, in words, or None."""
    import torch

    if build == "auto":
        if not torch.version.cuda:
            return f"torch {torch.__version__} is one without CUDA"
        if max(seen_gpus(), default=OLDEST) < OLDEST:
            return "the GPUs that torch sees are older than compute capability 8.0"
    if home is None:
        return "nvcc is not found (set CUDA_HOME to the CUDA toolkit)"
    if torch.version.cuda:
        release = nvcc_says(home, "--version", r"release (\d+)")[0]
        if release != torch.version.cuda.split(".")[0]:
            return f"nvcc is of CUDA {release} and torch {torch.__version__} of CUDA {torch.version.cuda}"
    return None


def choose_architectures(home):
    """Sets TORCH_CUDA_ARCH_LIST unless it is set; returns in words what it is and why."""
    given = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if given:
        return f"for {given}, from TORCH_CUDA_ARCH_LIST"
    known = {divmod(int(number), 10) for number in nvcc_says(home, "--list-gpu-arch", r"compute_(\d+)")}
    # A GPU newer than nvcc runs the code for the newest that nvcc knows, as PTX.
    taken = sorted({max(n for n in known if n <= gpu) for gpu in seen_gpus() if gpu >= OLDEST})
    chosen = ";".join(f"{major}.{minor}" for major, minor in taken) + "+PTX" if taken else ARCHITECTURES
    os.environ["TORCH_CUDA_ARCH_LIST"] = chosen
    return f"for {chosen}, " + ("by the GPUs that torch sees" if taken else "since torch sees no GPU to choose by")


def nvcc_defines():
    """The flags of TDAS_OPS_NVCC_DEFINES, whose names csrc/cuda/tuning.h has."""
    names = re.findall(r"#ifndef (\w+)", Path("csrc/cuda/tuning.h").read_text())
    defines = os.environ.get("TDAS_OPS_NVCC_DEFINES", "").split()
    for define in defines:
        if not re.fullmatch(rf"({'|'.join(names)})=\w+", define):
            raise SystemExit(
                f"tdas_ops: TDAS_OPS_NVCC_DEFINES has '{define}'; expected {'=VALUE, '.join(names)}=VALUE."
            )
    return [f"-D{define}" for define in defines]


def extension(build):
    """The extension, the command that builds it, and in words whether CUDA kernels are in it and why."""
    cpp_extension = import_torch()
    import pybind11
    import torch

    home, cuda = None, "no: TDAS_OPS_BUILD is 'cpu'"
    if build != "cpu":
        home = find_cuda()
        obstacle = cuda_obstacle(home, build)
        if obstacle and build == "cuda":
            raise SystemExit(f"tdas_ops: TDAS_OPS_BUILD is 'cuda', but {obstacle}.")
        home = None if obstacle else home
        cuda = f"no: {obstacle}" if obstacle else choose_architectures(home)
    # Contraction: `a * b + c` is rounded once where the machine can. -fopenmp compiles and does not link: at run time
    # the symbols are those of the OpenMP that torch has loaded, so that torch.set_num_threads rules here too. On a GPU
    # kernels that share a formula shall share its bits, so that contraction is not left to the environment.
    cxx = ["-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-Wno-psabi"]
    arguments = {
        "sources": sorted(str(path) for path in Path("csrc").rglob("*.cpp") if home or path.name != "cuda_ops.cpp"),
        "depends": sorted(map(str, Path("csrc").rglob("*.*h"))),
        "include_dirs": [pybind11.get_include()],
        "extra_compile_args": {"cxx": cxx, "nvcc": ["-O3", "--expt-relaxed-constexpr", "--fmad=true"]},
    }
    if home:
        cpp_extension.CUDA_HOME = str(home)  # a CPU-only torch leaves it empty
        arguments["sources"] += sorted(map(str, Path("csrc/cuda").glob("*.cu")))
        arguments["include_dirs"].append(str(home / "include"))
        arguments["library_dirs"] = [str(home / "lib64")]
        arguments["libraries"] = ["cudart"] if torch.version.cuda else ["cudart_static", "dl", "rt", "pthread"]
        cxx.append("-DTDAS_OPS_WITH_CUDA")
        arguments["extra_compile_args"]["nvcc"] += nvcc_defines()
    # Objects for another torch are others, whatever the times of its headers.
    cxx.append(f"-DTDAS_OPS_TORCH={torch.__version__}")
    return cpp_extension.CppExtension("tdas_ops._C", **arguments), cpp_extension.BuildExtension, cuda


def recorded(command, **facts):
    """A build command that leaves a record where it leaves the package."""

    class Recorded(command):
        record = facts

        def run(self):
            super().run()
            in_tree = self.editable_mode or getattr(self, "inplace", False)
            folder = Path("tdas_ops") if in_tree else Path(self.build_lib) / "tdas_ops"
            (folder / RECORD).write_text(json.dumps(self.record))

    return Recorded


def main():
    build = os.environ.get("TDAS_OPS_BUILD") or "auto"
    if build not in BUILDS:
        raise SystemExit(f"tdas_ops: TDAS_OPS_BUILD is '{build}'; expected one of {', '.join(BUILDS)}.")
    if not {"build_ext", "bdist_wheel", "editable_wheel", "develop", "install"} & set(sys.argv):
        setup()
    elif build == "none":
        setup(cmdclass={"build_py": recorded(build_py, asked=build)})
    else:
        module, build_extension, cuda = extension(build)
        command = recorded(build_extension, asked=build, cuda_kernels=cuda)
        setup(ext_modules=[module], cmdclass={"build_ext": command})


main()
