"""What an install contains and what an import needs; pure-Python builds, for speed."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from unittest.mock import patch

import pytest
import setuptools
import torch
from fresh import python
from packaging.utils import parse_wheel_filename

import tdas_ops

ROOT = Path(__file__).parents[2]
NAME = f"tdas_ops-{tdas_ops.__version__}"


def run(*command: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree, so that builds leave nothing behind in it."""
    target = tmp_path_factory.mktemp("source") / "tree"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "demo", "*.egg-info", "__pycache__", "*.so")
    shutil.copytree(ROOT, target, ignore=ignored)
    return target


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made from it."""
    out = tmp_path_factory.mktemp("built")
    done = run(sys.executable, "-m", "build", "--no-isolation", "-o", str(out), str(tree), TDAS_OPS_BUILD="none")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_sdist_holds_what_a_build_needs(built: Path):
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.*")}
    expected |= {"setup.py", "pyproject.toml", "LICENSE", "Makefile"}
    used_by_tests = ("tests", "benchmarks", "experiments", "examples", "tools")
    expected |= {
        path.relative_to(ROOT).as_posix() for folder in used_by_tests for path in (ROOT / folder).rglob("*.py")
    }
    assert expected <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith(".git/")]


def test_wheel_holds_the_package_and_nothing_else(built: Path):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"{NAME}.dist-info/entry_points.txt").decode()
        metadata = archive.read(f"{NAME}.dist-info/METADATA").decode()
        assert json.loads(archive.read("tdas_ops/_build.json")) == {"asked": "none"}
    package = {name for name in names if not name.startswith(f"{NAME}.dist-info/")}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tdas_ops").rglob("*")
        if path.suffix in (".py", ".safetensors", ".md") or path.name == "py.typed"
    }
    assert package == expected | {"tdas_ops/_build.json"}
    assert "tdas_ops/py.typed" in package
    assert "tdas-ops = tdas_ops.cli:main" in entry_points
    assert {f"{NAME}.dist-info/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= names
    requires = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra" not in line]
    assert any("torch>=2.11" in line for line in requires)
    assert not any("triton" in line for line in requires)


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))


def test_metadata_says_who_and_for_which_python(built: Path):
    metadata = metadata_of(built / f"{NAME}-py3-none-any.whl")
    assert metadata["Author"] == "The tdas_ops developers"
    assert metadata["License-Expression"] == "Apache-2.0"
    versions = [f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)]
    assert set(versions) <= set(metadata.get_all("Classifier"))


def test_the_description_needs_no_repository(built: Path):
    """Of README.md what stands outside it is left out: pictures, and the targets of links."""
    text = metadata_of(built / f"{NAME}-py3-none-any.whl").get_payload()
    assert text.startswith("# tdas_ops\n")
    assert not [to for to in re.findall(r"\]\(([^)]*)\)", text) if not to.startswith("https://")]
    done = run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir()))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_is_of_this_version_and_names_the_papers():
    text = (ROOT / "CITATION.cff").read_text()
    citation = pytest.importorskip("yaml").safe_load(text)
    assert citation["cff-version"] == "1.2.0" and citation["version"] == tdas_ops.__version__
    papers = {reference.get("url", "").rpartition("/")[2] for reference in citation["references"]}
    assert {"2206.04029", "2207.02196", "2302.06504"} <= papers
    assert all({"type", "title", "authors"} <= set(each) for each in [citation, *citation["references"]])


@pytest.mark.parametrize(
    ("build", "environment", "message"),
    [
        ("gpu", {}, "TDAS_OPS_BUILD is 'gpu'; expected one of auto, cpu, cuda, none."),
        ("cuda", {"PATH": "", "CUDA_HOME": "", "CUDA_PATH": ""}, "TDAS_OPS_BUILD is 'cuda', but nvcc is not found"),
    ],
)
def test_a_choice_that_cannot_be_honoured_is_one_sentence(tree: Path, build, environment, message):
    # A toolkit in the customary place would be found: hide it by giving setup.py a root without one.
    code = (
        "import sys, pathlib; exists = pathlib.Path.exists; sys.argv = ['setup.py', 'build_ext']\n"
        "pathlib.Path.exists = lambda path: not str(path).startswith('/usr/local/cuda') and exists(path)\n"
        "exec(compile(open('setup.py').read(), 'setup.py', 'exec'))"
    )
    done = run(sys.executable, "-c", code, cwd=tree, TDAS_OPS_BUILD=build, **environment)
    assert done.returncode == 1
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """A CUDA toolkit that knows compute capability 9.0 at most."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "include").mkdir()
    (tmp_path / "include/cuda_runtime_api.h").touch()
    nvcc = tmp_path / "bin/nvcc"
    nvcc.write_text("#!/bin/sh\necho release 13.0, compute_75 compute_80 compute_86 compute_90\n")
    nvcc.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("build", "cuda", "gpus", "given", "architectures", "why"),
    [
        ("auto", None, [], None, None, f"no: torch {torch.__version__} is one without CUDA"),
        ("cuda", None, [], None, "8.0;9.0;10.0+PTX", "for 8.0;9.0;10.0+PTX, since torch sees no GPU to choose by"),
        ("cpu", "13.0", [(9, 0)], None, None, "no: TDAS_OPS_BUILD is 'cpu'"),
        ("auto", "13.0", [], None, "8.0;9.0;10.0+PTX", "for 8.0;9.0;10.0+PTX, since torch sees no GPU to choose by"),
        ("auto", "13.1", [(9, 0), (8, 6), (9, 0)], None, "8.6;9.0+PTX", "for 8.6;9.0+PTX, by the GPUs that torch sees"),
        ("auto", "13.0", [(10, 0), (7, 5)], None, "9.0+PTX", "for 9.0+PTX, by the GPUs that torch sees"),
        ("auto", "13.0", [(7, 5)], None, None, "no: the GPUs that torch sees are older than compute capability 8.0"),
        ("auto", "13.0", [(9, 0)], "8.0", "8.0", "for 8.0, from TORCH_CUDA_ARCH_LIST"),
        ("auto", "12.8", [(9, 0)], None, None, f"no: nvcc is of CUDA 13 and torch {torch.__version__} of CUDA 12.8"),
    ],
)
def test_what_is_built_follows_torch_and_its_gpus(
    tree: Path, toolkit: Path, monkeypatch, build, cuda, gpus, given, architectures, why
):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpus[index])
    chosen = choice(tree, monkeypatch, TDAS_OPS_BUILD=build, CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST=given or "")
    assert chosen == (architectures, {"asked": build, "cuda_kernels": why})


@pytest.mark.parametrize(
    ("build", "given", "tag"), [("cpu", "", "1cpu"), ("cuda", "8.0;9.0a+PTX", "1cu130_80_90a"), ("none", "", None)]
)
def test_a_wheel_is_named_after_what_is_in_it(tree: Path, toolkit: Path, monkeypatch, build, given, tag):
    made = commands(tree, monkeypatch, TDAS_OPS_BUILD=build, CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST=given)
    if tag is None:
        assert "bdist_wheel" not in made["cmdclass"]
        return
    wheel = made["cmdclass"]["bdist_wheel"]
    monkeypatch.setattr(wheel.__bases__[0], "run", lambda self: None)
    with patch.dict(os.environ, TDAS_OPS_BUILD=build, CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST=given):
        command = wheel(setuptools.Distribution(made))
        command.run()
    assert command.build_number == tag
    parse_wheel_filename(f"tdas_ops-1.0-{command.build_number}-cp311-cp311-linux_x86_64.whl")


def commands(tree: Path, monkeypatch, **environment: str) -> dict:
    """What setup.py gives to setuptools."""
    made: dict = {}
    monkeypatch.chdir(tree)
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: made.update(arguments))
    with patch.dict(os.environ, environment):
        runpy.run_path("setup.py")
    return made


def choice(tree: Path, monkeypatch, **environment: str) -> tuple[str | None, dict[str, str]]:
    """The CUDA architectures of a build, and its record; nothing is compiled."""
    made = commands(tree, monkeypatch, **environment)
    with patch.dict(os.environ, environment):
        command = made["cmdclass"]["build_ext"](setuptools.Distribution(made))
        command.choose()
    return command.architectures, command.record


def test_without_a_torch_nvcc_decides(tree: Path, toolkit: Path, monkeypatch):
    """As in an isolated build of uv or `build`, or where torch comes later."""
    monkeypatch.setitem(sys.modules, "torch", None)
    architectures, record = choice(
        tree, monkeypatch, TDAS_OPS_BUILD="", CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST=""
    )
    assert architectures == "8.0;9.0;10.0+PTX"
    assert record == {"asked": "auto", "cuda_kernels": f"for {architectures}, since no torch is seen to choose by"}


def test_architectures_are_flags_of_nvcc(tree: Path, monkeypatch):
    monkeypatch.chdir(tree)
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: None)
    code_flags = runpy.run_path("setup.py")["code_flags"]
    assert code_flags("8.0; 9.0a,10.0+PTX") == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]
    with pytest.raises(SystemExit, match=r"TORCH_CUDA_ARCH_LIST has 'Hopper'; expected versions such as 8\.0;9\.0;"):
        code_flags("8.0;Hopper")
    with pytest.raises(SystemExit, match=r"TORCH_CUDA_ARCH_LIST has '7.5'; expected versions from 8\.0 on"):
        code_flags("7.5;8.0")


@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 3", "leaves with 3"), ("echo nothing", "does not say what was asked"), (None, "Permission denied")],
)
def test_an_nvcc_that_does_not_work_is_one_sentence(tree: Path, toolkit: Path, monkeypatch, script, said):
    nvcc = toolkit / "bin/nvcc"
    nvcc.write_text(f"#!/bin/sh\n{script}\n")
    nvcc.chmod(0o644 if script is None else 0o755)
    with pytest.raises(SystemExit, match=rf"tdas_ops: {nvcc} --list-gpu-arch {said}: set CUDA_HOME"):
        choice(tree, monkeypatch, TDAS_OPS_BUILD="cuda", CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST="")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"CXX": "no-such-compiler -m64"},
            "no C++ compiler is found (no-such-compiler): install one, or name it with CXX",
        ),
        ({"PATH": "", "CXX": sys.executable}, "ninja is not found: install it, such as by `pip install ninja`."),
        ({"CXX": "false"}, "the kernels do not compile; the compiler says why above."),
        ({"CXX": "'c++"}, 'CXX is "\'c++"; expected words of a shell, with quotes in pairs.'),
        ({"CXX": " ", "PATH": ""}, "no C++ compiler is found (c++): install one, or name it with CXX"),
        ({"CXX": "false", "LDFLAGS": '"'}, "LDFLAGS is '\"'; expected words of a shell, with quotes in pairs."),
        ({"CXX": "false", "MAX_JOBS": "many"}, "MAX_JOBS is 'many'; expected a number of jobs such as 4."),
    ],
)
def test_what_a_build_lacks_is_one_sentence(tree: Path, environment, said):
    command = (sys.executable, "setup.py", "-q", "build_ext")
    done = run(*command, cwd=tree, TDAS_OPS_BUILD="cpu", **environment)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(f"tdas_ops: {said}")
    assert "Traceback" not in done.stderr


IMPORT_ALONE = """
import importlib.util
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

# An editable install of the tree would find the modules that the copy lacks.
sys.meta_path = [Block()] + [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
look = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {blocked!r} else look(name, *rest)
import torch, tdas_ops
x = tdas_ops.noise(tdas_ops.Preconditioner.identity((1, 4, 4)), (1, 1, 4, 4), tdas_ops.NoiseStream(seed=0))
assert x.isfinite().all()
print(tdas_ops.backend_info()["available"], tdas_ops.backend_info()["missing"])
"""


def test_the_import_leaves_what_is_slow_for_later():
    code = "import sys, torch; before = set(sys.modules); import tdas_ops; print(*(set(sys.modules) - before))"
    done = run(sys.executable, "-c", code, cwd=ROOT)
    brought = set(done.stdout.split())
    slow = {"torch._dynamo", "torch._inductor", "triton", "PIL", "rich", "typer"}
    slow |= {f"tdas_ops.{name}" for name in ("calibrate", "integrations", "models", "samplers", "cli")}
    assert "tdas_ops.ops" in brought and not brought & slow


def test_public_names_are_attributes_after_the_import():
    code = """
import tdas_ops
assert set(tdas_ops.__all__) <= set(dir(tdas_ops))
print(tdas_ops.integrations.networks.ncsn.__name__, tdas_ops.models.available(), tdas_ops.samplers.pc.__name__)
for name in tdas_ops.__all__:
    getattr(tdas_ops, name)
from tdas_ops import *
assert samplers is tdas_ops.samplers and calibrate.tune
tdas_ops.nothing
"""
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.stdout == "ncsn ['digits'] pc\n"
    assert done.stderr.splitlines()[-1] == "AttributeError: module 'tdas_ops' has no attribute 'nothing'"


def test_import_without_triton():
    done = run(sys.executable, "-c", IMPORT_ALONE.format(blocked=("triton",)), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "'triton': 'Triton is not installed" in done.stdout


def test_import_without_the_extension(tree: Path):
    done = python(IMPORT_ALONE.format(blocked=()), cwd=tree, PYTHONPATH=str(tree))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['reference'") and "'cpp'" not in done.stdout.split("]")[0]
    assert "tdas_ops._C is not built: type `" in done.stdout and f"install -e {tree}`" in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_builds_again_for_another_choice(tree: Path, monkeypatch):
    """pip is an echo here. CI names its choice, since torch alone would leave the CUDA kernels out there."""
    for inherited in ("TDAS_OPS_BUILD", "TORCH_CUDA_ARCH_LIST", "MAKEFLAGS", "MAKELEVEL"):
        monkeypatch.delenv(inherited, raising=False)

    def made(choice: str, **environment: str) -> bool:
        stamps = f"build/stamps{sys.executable.replace('/', '_')}"
        command = ("make", "VENV=none", f"PYTHON={sys.executable}", "PIP=echo pip", f"{stamps}/package")
        done = run(*command, *choice.split(), cwd=tree, **environment)
        assert done.returncode == 0, done.stderr
        return "-e ." in done.stdout

    assert made("")
    assert not made("") and not made("TDAS_OPS_BUILD=auto")
    assert made("TDAS_OPS_BUILD=cpu") and not made("", TDAS_OPS_BUILD="cpu")
    assert made("TDAS_OPS_BUILD=cpu", TORCH_CUDA_ARCH_LIST="9.0")
    assert "export TDAS_OPS_BUILD=cuda\n" in (ROOT / ".ci/run").read_text()
