"""What an install contains and what an import needs; pure-Python builds, for speed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tdas_ops

ROOT = Path(__file__).parents[1]
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
    expected |= {"setup.py", "pyproject.toml", "LICENSE", "Makefile", "tests/test_packaging.py"}
    assert expected <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith(".git/")]


def test_wheel_holds_the_package_and_nothing_else(built: Path):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"{NAME}.dist-info/entry_points.txt").decode()
        metadata = archive.read(f"{NAME}.dist-info/METADATA").decode()
    package = {name for name in names if not name.startswith(f"{NAME}.dist-info/")}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tdas_ops").rglob("*")
        if path.suffix in (".py", ".safetensors", ".md") or path.name == "py.typed"
    }
    assert package == expected
    assert "tdas_ops/py.typed" in package
    assert "tdas-ops = tdas_ops.cli:main" in entry_points
    assert f"{NAME}.dist-info/licenses/LICENSE" in names
    requires = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra" not in line]
    assert any("torch>=2.11" in line for line in requires)
    assert not any("triton" in line for line in requires)


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


def test_a_build_without_torch_says_what_to_type(tree: Path):
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['setup.py', 'build_ext']\n"
        "exec(compile(open('setup.py').read(), 'setup.py', 'exec'))"
    )
    done = run(sys.executable, "-c", code, cwd=tree, TDAS_OPS_BUILD="auto")
    assert done.returncode == 1
    assert "then `pip install --no-build-isolation .`, or set TDAS_OPS_BUILD=none" in done.stderr
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
    assert "tdas_ops.ops" in brought and not brought & {"torch._dynamo", "torch._inductor", "triton", "PIL"}


def test_import_without_triton():
    done = run(sys.executable, "-c", IMPORT_ALONE.format(blocked=("triton",)), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "'triton': 'Triton is not installed" in done.stdout


def test_import_without_the_extension(tree: Path):
    done = run(sys.executable, "-c", IMPORT_ALONE.format(blocked=()), cwd=tree, PYTHONPATH=str(tree))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['reference'") and "'cpp'" not in done.stdout.split("]")[0]
    assert "tdas_ops._C is not built: run `pip install .` in the source tree" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("raise ImportError('undefined symbol: _ZN3c10')", "does not load beside torch .*undefined symbol: _ZN3c10"),
        ("torch_version = '2.0.1'", "was built for torch 2.0.1 and this is torch .*to rebuild it"),
    ],
)
def test_an_extension_of_another_torch_leaves_the_reference(tree: Path, tmp_path: Path, content: str, message: str):
    shutil.copytree(tree / "tdas_ops", tmp_path / "tdas_ops")
    (tmp_path / "tdas_ops" / "_C.py").write_text(content)
    done = run(sys.executable, "-c", IMPORT_ALONE.format(blocked=()), cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['reference'") and "'cpp'" not in done.stdout.split("]")[0]
    assert re.search(message, done.stdout), done.stdout
