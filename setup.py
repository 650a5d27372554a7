"""Builds tdas_ops._C. Everything else about the package is in pyproject.toml.

TDAS_OPS_BUILD: auto (the default: CUDA kernels where nvcc is found), cpu, cuda, or none (pure Python).
TORCH_CUDA_ARCH_LIST and MAX_JOBS mean what they mean to torch.utils.cpp_extension.
"""

import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

from setuptools import setup

BUILDS = ("auto", "cpu", "cuda", "none")


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


def cuda_obstacle(home):
    """Why the CUDA kernels cannot be built, in words, or None."""
    import torch

    if home is None:
        return "nvcc is not found (set CUDA_HOME to the CUDA toolkit)"
    if torch.version.cuda:
        version = subprocess.check_output([home / "bin/nvcc", "--version"], text=True)
        release = re.search(r"release (\d+)", version)[1]
        if release != torch.version.cuda.split(".")[0]:
            return f"nvcc is of CUDA {release} and torch {torch.__version__} of CUDA {torch.version.cuda}"
    return None


def extension(build):
    cpp_extension = import_torch()
    import pybind11
    import torch

    home = None
    if build != "cpu":
        home = find_cuda()
        obstacle = cuda_obstacle(home)
        if obstacle and build == "cuda":
            raise SystemExit(f"tdas_ops: TDAS_OPS_BUILD is 'cuda', but {obstacle}.")
        home = None if obstacle else home
    # Contraction: `a * b + c` is rounded once where the machine can. -fopenmp compiles and does not link: at run time
    # the symbols are those of the OpenMP that torch has loaded, so that torch.set_num_threads rules here too.
    cxx = ["-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-Wno-psabi"]
    arguments = {
        "sources": sorted(str(path) for path in Path("csrc").rglob("*.cpp") if home or path.name != "cuda_ops.cpp"),
        "depends": sorted(map(str, Path("csrc").rglob("*.*h"))),
        "include_dirs": [pybind11.get_include()],
        "extra_compile_args": {"cxx": cxx, "nvcc": ["-O3", "--expt-relaxed-constexpr"]},
    }
    if home:
        cpp_extension.CUDA_HOME = str(home)  # a CPU-only torch leaves it empty
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0+PTX")
        arguments["sources"] += sorted(map(str, Path("csrc/cuda").glob("*.cu")))
        arguments["include_dirs"].append(str(home / "include"))
        arguments["library_dirs"] = [str(home / "lib64")]
        arguments["libraries"] = ["cudart"] if torch.version.cuda else ["cudart_static", "dl", "rt", "pthread"]
        cxx.append("-DTDAS_OPS_WITH_CUDA")
    return cpp_extension.CppExtension("tdas_ops._C", **arguments), cpp_extension.BuildExtension


def main():
    build = os.environ.get("TDAS_OPS_BUILD", "auto")
    if build not in BUILDS:
        raise SystemExit(f"tdas_ops: TDAS_OPS_BUILD is '{build}'; expected one of {', '.join(BUILDS)}.")
    if build == "none" or not {"build_ext", "bdist_wheel", "editable_wheel", "develop", "install"} & set(sys.argv):
        setup()
        return
    module, build_extension = extension(build)
    setup(ext_modules=[module], cmdclass={"build_ext": build_extension})


main()
