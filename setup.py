"""Builds the compiled kernels: the library libtdas_ops.so, and tdas_ops._C beside it. The rest is in pyproject.toml.

Neither is of any one torch, and none is needed to build them (csrc/torch_abi.h).

TDAS_OPS_BUILD: auto (the default: CUDA kernels where nvcc is found, unless the torch that is seen could not run them),
cpu, cuda, or none (pure Python). CUDA kernels are compiled for TORCH_CUDA_ARCH_LIST, else for the GPUs that torch sees,
else for ARCHITECTURES. CXX, CXXFLAGS, LDFLAGS, CUDA_HOME, PYTORCH_NVCC (in the place of nvcc) and MAX_JOBS mean what
they mean elsewhere. What was built, and why, is left beside the package's modules as RECORD, which `tdas-ops info`
prints. TDAS_OPS_NVCC_DEFINES: macros of csrc/cuda that differ from their defaults, as "NAME=VALUE NAME=VALUE".
"""

import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

BUILDS = ("auto", "cpu", "cuda", "none")
ARCHITECTURES = "8.0;9.0;10.0+PTX"
OLDEST = (8, 0)  # bfloat16 in hardware
RECORD, LIBRARY, BINDING = "_build.json", "libtdas_ops.so", "csrc/binding.cpp"

# Contraction: `a * b + c` is rounded once where the machine can. On a GPU kernels that share a formula shall share its
# bits, so that contraction is not left to the environment.
CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-DNDEBUG",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
]
NVCC_FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "--fmad=true"]
SHARED = ["-fPIC", "-fvisibility=hidden"]


def seen_torch():
    """The torch of the environment, also from within an isolated build of pip, or None.

    Such a build runs the environment's own interpreter with its site-packages taken off the path. Put back at the end,
    after the isolated build tools, they have its torch.
    """
    path = list(sys.path)
    sys.path += site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
    try:
        import torch
    except (ImportError, OSError):  # or one that lacks a library
        return None
    finally:
        sys.path[:] = path
    return torch


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
    """What nvcc says of itself, at least one thing."""
    nvcc = home / "bin/nvcc"
    try:
        if said := re.findall(pattern, subprocess.check_output([nvcc, option], text=True)):
            return said
        problem = "does not say what was asked"
    except (OSError, subprocess.CalledProcessError) as error:
        problem = getattr(error, "strerror", None) or f"leaves with {error.returncode}"
    raise SystemExit(f"tdas_ops: {nvcc} {option} {problem}: set CUDA_HOME to a CUDA toolkit, or TDAS_OPS_BUILD=cpu.")


def seen_gpus(torch):
    """The compute capabilities of the GPUs that torch sees, such as (9, 0)."""
    return {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())} if torch else set()


def cuda_obstacle(home, build, torch):
    """Why the CUDA kernels cannot be built, or could not be run by this torch on this machine, in words, or None."""
    if build == "auto" and torch:
        if not torch.version.cuda:
            return f"torch {torch.__version__} is one without CUDA"
        if max(seen_gpus(torch), default=OLDEST) < OLDEST:
            return "the GPUs that torch sees are older than compute capability 8.0"
    if home is None:
        return "nvcc is not found (set CUDA_HOME to the CUDA toolkit)"
    if build == "auto" and torch:  # its driver may be no newer
        release = nvcc_says(home, "--version", r"release (\d+)")[0]
        if release != torch.version.cuda.split(".")[0]:
            return f"nvcc is of CUDA {release} and torch {torch.__version__} of CUDA {torch.version.cuda}"
    return None


def choose_architectures(home, torch):
    """As in TORCH_CUDA_ARCH_LIST; and in words what they are and why."""
    if given := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return given, f"for {given}, from TORCH_CUDA_ARCH_LIST"
    known = {divmod(int(number), 10) for number in nvcc_says(home, "--list-gpu-arch", r"compute_(\d+)")}
    # A GPU newer than nvcc runs the code for the newest that nvcc knows, as PTX.
    taken = sorted({max(n for n in known if n <= gpu) for gpu in seen_gpus(torch) if gpu >= OLDEST})
    if taken:
        chosen = ";".join(f"{major}.{minor}" for major, minor in taken) + "+PTX"
        return chosen, f"for {chosen}, by the GPUs that torch sees"
    return (
        ARCHITECTURES,
        f"for {ARCHITECTURES}, since {'torch sees no GPU' if torch else 'no torch is seen'} to choose by",
    )


def code_flags(architectures):
    """The flags of nvcc for architectures such as "8.0;9.0a;10.0+PTX"."""
    flags = []
    for name in re.split(r"[;,\s]+", architectures.strip("; ")):
        found = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", name)
        if not found:
            raise SystemExit(f"tdas_ops: TORCH_CUDA_ARCH_LIST has '{name}'; expected versions such as {ARCHITECTURES}.")
        if int(found[1]) < OLDEST[0]:
            raise SystemExit(f"tdas_ops: TORCH_CUDA_ARCH_LIST has '{name}'; expected versions from 8.0 on.")
        number = found[1] + found[2]
        kinds = ("sm", "compute") if found[3] else ("sm",)
        flags += [f"-gencode=arch=compute_{number},code={kind}_{number}" for kind in kinds]
    return flags


def nvcc_defines():
    """The flags of TDAS_OPS_NVCC_DEFINES, whose names have a default (#ifndef) in csrc/cuda."""
    found = {name for path in Path("csrc/cuda").iterdir() for name in re.findall(r"#ifndef (\w+)", path.read_text())}
    names = ", ".join(f"{name}=VALUE" for name in sorted(found)) or "nothing: the kernels have no macros"
    defines = os.environ.get("TDAS_OPS_NVCC_DEFINES", "").split()
    for define in defines:
        if not re.fullmatch(r"\w+=\w+", define) or define.partition("=")[0] not in found:
            raise SystemExit(f"tdas_ops: TDAS_OPS_NVCC_DEFINES has '{define}'; expected {names}.")
    return [f"-D{define}" for define in defines]


def words(name, default=""):
    given = os.environ.get(name, "")
    try:
        return shlex.split(given) or shlex.split(default)
    except ValueError:
        raise SystemExit(f"tdas_ops: {name} is {given!r}; expected words of a shell, with quotes in pairs.") from None


def check_environment():
    """The variables that a build reads late, or setuptools before it."""
    for name in ("CC", "CXX", "CPPFLAGS", "CFLAGS", "CXXFLAGS", "LDFLAGS"):
        words(name)
    jobs = os.environ.get("MAX_JOBS", "")
    if not re.fullmatch(r"\d*", jobs):
        raise SystemExit(f"tdas_ops: MAX_JOBS is {jobs!r}; expected a number of jobs such as 4.")


class Ninja:
    """A build file for ninja."""

    def __init__(self, **rules):
        self.lines = []
        for name, command in rules.items():
            depends = ["  depfile = $out.d", "  deps = gcc"] if "$out.d" in command else []
            self.lines += [f"rule {name}", f"  command = {command}", f"  description = {name} $out", *depends]

    def build(self, target, rule, inputs, options=(), after=()):
        named = [re.sub(r"([$ :])", r"$\1", str(path)) for path in (target, *inputs, "|", *after)]
        self.lines += [f"build {named[0]}: {rule} {' '.join(named[1:])}"]
        self.lines += [f"  options = {shlex.join(map(str, options)).replace('$', '$$')}"]
        return target

    def run(self, folder):
        (folder / "build.ninja").write_text("\n".join([*self.lines, ""]))
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        try:
            if subprocess.run(["ninja", "-C", folder, *jobs]).returncode:
                raise SystemExit("tdas_ops: the kernels do not compile; the compiler says why above.")
        except FileNotFoundError:
            raise SystemExit("tdas_ops: ninja is not found: install it, such as by `pip install ninja`.") from None


class Kernels(build_ext):
    """Compiles and links with ninja, and leaves library, module and record where the package is."""

    def choose(self):
        """Whether CUDA kernels are built, and for what."""
        build, torch = os.environ.get("TDAS_OPS_BUILD") or "auto", None
        self.home, self.architectures, cuda = None, None, "no: TDAS_OPS_BUILD is 'cpu'"
        if build != "cpu":
            home, torch = find_cuda(), seen_torch()
            if obstacle := cuda_obstacle(home, build, torch):
                if build == "cuda":
                    raise SystemExit(f"tdas_ops: TDAS_OPS_BUILD is 'cuda', but {obstacle}.")
                cuda = f"no: {obstacle}"
            else:
                self.home = home
                self.architectures, cuda = choose_architectures(home, torch)
        self.record = {"asked": build, "cuda_kernels": cuda}

    def run(self):
        self.choose()
        super().run()
        folder = Path("tdas_ops") if self.editable_mode or self.inplace else Path(self.build_lib) / "tdas_ops"
        (folder / LIBRARY).unlink(missing_ok=True)  # which a process may have loaded
        shutil.copy2(Path(self.build_temp) / LIBRARY, folder)
        (folder / RECORD).write_text(json.dumps(self.record))

    def build_extension(self, extension):
        import pybind11

        compiler = words("CXX", "c++")
        if shutil.which(compiler[0]) is None:
            raise SystemExit(f"tdas_ops: no C++ compiler is found ({compiler[0]}): install one, or name it with CXX.")
        module, temp = Path(self.get_ext_fullpath(extension.name)).resolve(), Path(self.build_temp).resolve()
        for folder in (temp, module.parent):
            folder.mkdir(parents=True, exist_ok=True)
        cxx = [*words("CPPFLAGS"), *CXX_FLAGS, *SHARED, *words("CXXFLAGS")]
        python = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        static, options, nvcc = [], [], ""
        if self.home:
            cxx += ["-DTDAS_OPS_WITH_CUDA", f"-I{self.home / 'include'}"]
            # Of its own: then the CUDA of torch, or whether it has one, does not matter.
            static = [f"-L{self.home / 'lib64'}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
            options = [*NVCC_FLAGS, *nvcc_defines(), *code_flags(self.architectures), "-Xcompiler", ",".join(SHARED)]
            named = [word for word in compiler if not word.startswith("-")]  # after such as ccache
            options += ["-ccbin", named[-1]] if words("CXX") else []
            nvcc = shlex.quote(os.environ.get("PYTORCH_NVCC") or str(self.home / "bin/nvcc"))
        line = shlex.join(compiler)
        ninja = Ninja(
            cxx=f"{line} $options -MMD -MF $out.d -c $in -o $out",
            nvcc=f"{nvcc} $options -MD -MF $out.d -c $in -o $out",
            link=f"{line} -shared {shlex.join(words('LDFLAGS'))} $in $options -o $out",
        )

        def compiled(source, *more):
            rule, flags = ("nvcc", options) if source.endswith(".cu") else ("cxx", [*cxx, *more])
            return ninja.build((temp / source).with_suffix(".o"), rule, [Path(source).resolve()], flags)

        sources = [s for s in extension.sources if self.home or not s.startswith(("csrc/cuda/", "csrc/cuda_ops"))]
        objects = [compiled(source) for source in sources if source != BINDING]
        # In the place of torch's library, which has what the library lacks where it is loaded.
        name = ["-nostdlib", "-Wl,-soname,libtorch.so"]
        torch = ninja.build(temp / "libtorch.so", "link", [], ["-xc++", os.devnull, *name])
        needed = ["-Wl,--no-as-needed", torch, "-Wl,--as-needed", *static]
        hidden = ["-Wl,--exclude-libs,ALL", f"-Wl,-soname,{LIBRARY}"]
        library = ninja.build(temp / LIBRARY, "link", objects, [*needed, *hidden], [torch])
        ninja.build(module, "link", [compiled(BINDING, *python), library], ["-Wl,-rpath,$ORIGIN"])
        ninja.run(temp)


class Tagged(bdist_wheel):
    """Names a wheel after what is in it, as "1cpu" or "1cu130_80_90_100": files of several kinds are told apart."""

    def run(self):
        kernels = self.get_finalized_command("build_ext")
        kernels.choose()
        self.build_number = "1cpu"
        if kernels.home:
            release = "".join(nvcc_says(kernels.home, "--version", r"release (\d+)\.(\d+)")[0])
            numbers = [re.sub(r"\W|PTX", "", name) for name in re.split(r"[;,\s]+", kernels.architectures)]
            self.build_number = "_".join([f"1cu{release}", *filter(None, numbers)])
        super().run()


class WithoutKernels(build_py):
    def run(self):
        super().run()
        folder = Path("tdas_ops") if self.editable_mode else Path(self.build_lib) / "tdas_ops"
        (folder / RECORD).write_text(json.dumps({"asked": "none"}))


def description():
    """README.md as it reads away from the tree: without the pictures and the targets of links that stand in it."""
    text = re.sub(r"!\[[^]]*\]\((?!https:)[^)]*\)\n*", "", Path("README.md").read_text(encoding="utf-8"))
    return re.sub(r"\[([^]]*)\]\((?!https:)[^)]*\)", r"\1", text)


def main():
    build = os.environ.get("TDAS_OPS_BUILD") or "auto"
    if build not in BUILDS:
        raise SystemExit(f"tdas_ops: TDAS_OPS_BUILD is '{build}'; expected one of {', '.join(BUILDS)}.")
    about = {"long_description": description(), "long_description_content_type": "text/markdown"}
    if build == "none":
        setup(**about, cmdclass={"build_py": WithoutKernels})
    else:
        check_environment()
        sources = sorted(str(path) for path in Path("csrc").rglob("*.c*") if path.suffix in (".cpp", ".cu"))
        commands = {"build_ext": Kernels, "bdist_wheel": Tagged}
        setup(**about, ext_modules=[Extension("tdas_ops._C", sources)], cmdclass=commands)


main()
