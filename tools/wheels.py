"""Builds what a release has and proves it in environments of its own: `make wheels`.

Into dist/ go the sdist, the wheel without kernels and, for each Python, a wheel with the CPU kernels (with --cuda also
one with the CUDA kernels, which takes nvcc), all made from the sdist. twine, check-wheel-contents and auditwheel check
them. Then each Python gets an environment with the oldest torch and its wheel: there a step runs, and the first numbers
of a seed are those of the noise contract. torch is upgraded under the installed wheel, version after version, and each
time the fast kernels must still be there. The matrix is printed; the exit status is 1 where a line of it fails.

A wheel needs of torch what the stable ABI has (libtorch.so, which the process has loaded by then), and no OpenMP: torch
cuts the work for its own threads. So auditwheel has nothing to bundle once libtorch.so is excluded, and only names the
platform: the glibc that the compiler of this machine asks for. An older one takes an older machine, such as a manylinux
image.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.utils import parse_wheel_filename
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")
TORCHES = ("2.11.0", "2.13.0", "newest")
NEWEST, ABSENT = "newest", "no such torch"
HEAD = ("wheel", "Python", "torch", "how", "path of step", "error", "result")
# A plane of 2 x 4 pixels of seed 0, by the noise contract (docs/design.md).
FIRST = (0.9911376, -0.9246626, -0.617609, -0.4820686, -0.1536382, 0.1808259, 0.8317351, 0.1974397)
CLOSE = 1e-5

SMOKE = """
import json, torch, tdas_ops
from tdas_ops import NoiseStream, Preconditioner
first = NoiseStream(seed=0).randn((1, 1, 2, 4)).flatten().tolist()
M = Preconditioner.radial(lambda k: 1 / (1 + k), (1, 32, 32), method="pds")
x = torch.linspace(-1, 1, 2048).reshape(2, 1, 32, 32)
step = lambda: tdas_ops.step(x, x, M, 0.1, noise=NoiseStream(seed=0))
y = step()
with tdas_ops.use_backend("reference"):
    error = float((y - step()).norm() / y.norm())
path = tdas_ops.backend_info()["paths"]["cpu"]["step"].split(";")[0]
print(json.dumps({"path": path, "first": first, "error": error}))
"""


class Cell(NamedTuple):
    """A line of the matrix; `how` the wheel and torch came together, and why it failed, or None."""

    wheel: str
    python: str
    torch: str
    how: str
    path: str = "-"
    error: str = "-"
    problem: str | None = None

    def row(self) -> tuple[str, ...]:
        return (*self[:6], self.problem or ("ok" if self.how != ABSENT else "-"))


def run(*command: object, cwd: Path = ROOT, **environment: str) -> str:
    """What a command said.

    Raises:
        SystemExit: it failed; the last lines that it said go with it.
    """
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": tools, **environment}
    for name in ("PYTHONPATH", "MAKEFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise SystemExit(f"wheels: {' '.join(map(str, command))[:200]} failed:\n{said}")
    return done.stdout


def version_of(python: str) -> str | None:
    """Such as "3.11.7", or None where this is no Python that runs. (A name on the path may be a shim of nothing.)"""
    try:
        done = subprocess.run([python, "-c", "import platform; print(platform.python_version())"], capture_output=True)
    except OSError:
        return None
    return done.stdout.decode().strip() if done.returncode == 0 else None


def interpreters(names: Sequence[str], ask: Callable[[str], str | None] = version_of) -> dict[str, str]:
    """The Pythons to build for: version and command. Without names those of PYTHONS that are there.

    Raises:
        SystemExit: a named one does not run, or none is there.
    """
    found: dict[str, str] = {}
    for name in names or PYTHONS:
        version = ask(name)
        if version is not None:
            found.setdefault(version, name)
        elif names:
            raise SystemExit(f"wheels: PYTHONS: got {name}, expected a Python that runs")
    if not found:
        raise SystemExit(f"wheels: got none of {', '.join(PYTHONS)}, expected one at least: name it with PYTHONS=")
    return found


def ascending(torches: Iterable[str]) -> list[str]:
    """Versions of torch in the order in which each is an upgrade of the one before; the newest there is comes last."""
    names = dict.fromkeys(torches)
    return sorted((n for n in names if n != NEWEST), key=Version) + [NEWEST] * (NEWEST in names)


def requirement(torch: str) -> str:
    return "torch" if torch == NEWEST else f"torch=={torch}"


def fits(wheel: Path, python: str) -> bool:
    """Whether a wheel is for this version of Python."""
    wanted = f"cp{''.join(python.split('.')[:2])}"
    return any(tag.interpreter in (wanted, "py3") for tag in parse_wheel_filename(wheel.name)[3])


def is_compiled(wheel: Path) -> bool:
    return not wheel.name.endswith("-none-any.whl")


def judge(said: str, compiled: bool) -> tuple[str, str, str | None]:
    """The path, the error and the problem, or None, of an environment in which SMOKE said this."""
    told = json.loads(said.splitlines()[-1])
    path, error = told["path"], max(told["error"], *(abs(a - b) for a, b in zip(told["first"], FIRST, strict=True)))
    problem = None
    if ("reference" in path) == compiled:
        problem = f"the step runs on {path}, expected {'compiled kernels' if compiled else 'the reference'}"
    elif not error <= CLOSE:
        problem = f"numbers are wrong by {error:.2g}, expected {CLOSE:g} at most"
    return path, f"{error:.1e}", problem


class Release:
    """Files of a release in `out`, made in `work`."""

    def __init__(self, out: Path, work: Path) -> None:
        self.out, self.work = out, work
        for folder in (out, work / "raw"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        run(sys.executable, "-m", "build", "--sdist", "--outdir", out)
        (self.sdist,) = out.glob("*.tar.gz")
        shutil.rmtree(work / "source", ignore_errors=True)
        with tarfile.open(self.sdist) as archive:
            archive.extractall(work / "source", filter="data")
        (self.source,) = (work / "source").iterdir()

    def wheel(self, python: Path | str, build: str) -> Path:
        """Of the sdist, in `out`. The kernels are compiled once for all Pythons: they know nothing of it."""
        kept = self.work / f"kept-{build}.cfg"
        kept.write_text(f"[build_ext]\nbuild_temp = {self.work / f'objects-{build}'}\n")
        raw = self.work / "raw" / build
        shutil.rmtree(raw, ignore_errors=True)
        environment = {"TDAS_OPS_BUILD": build, "DIST_EXTRA_CONFIG": str(kept)}
        run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", raw, self.source, **environment)
        (made,) = raw.glob("*.whl")
        if build == "none":
            return Path(shutil.move(made, self.out))
        before = set(self.out.glob("*.whl"))
        run(sys.executable, "-m", "auditwheel", "repair", "--exclude", "libtorch.so", "-w", self.out, made)
        (repaired,) = set(self.out.glob("*.whl")) - before
        return repaired

    def check(self) -> None:
        files = sorted(self.out.iterdir())
        print(run(sys.executable, "-m", "twine", "check", "--strict", *files).strip())
        wheels = [file for file in files if file.suffix == ".whl"]
        print(run(sys.executable, "-m", "check_wheel_contents", *wheels).strip())


class Environment:
    """A fresh environment of a Python."""

    def __init__(self, folder: Path, python: str, torch_from: Sequence[str]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        run(python, "-m", "venv", folder)
        self.python, self.torch_from, self.folder = folder / "bin" / "python", torch_from, folder

    def install(self, *what: object) -> None:
        run(self.python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *what)

    def has_torch(self, torch: str) -> bool:
        """Installs it, unless there is none for this Python."""
        try:
            self.install("--upgrade", requirement(torch), *self.torch_from)
        except SystemExit as problem:
            if not re.search("No matching distribution|ResolutionImpossible", str(problem)):
                raise
            return False
        return True

    def smoke(self, compiled: bool) -> tuple[str, str, str | None]:
        """Away from the tree, whose package would be imported."""
        try:
            said = run(self.python, "-c", SMOKE, cwd=self.folder)
            run(self.folder / "bin" / "tdas-ops", "--version", cwd=self.folder)
        except SystemExit as problem:
            return "-", "-", str(problem).splitlines()[-1]
        return judge(said, compiled)

    def torch(self) -> str:
        return run(self.python, "-c", "import importlib.metadata as m; print(m.version('torch'))").strip()


def prove(environment: Environment, version: str, wheels: Sequence[Path], torches: Sequence[str]) -> list[Cell]:
    """The first wheel beside the oldest torch, which is upgraded under it; the others beside the newest."""
    cells: list[Cell] = []

    def add(wheel: Path, how: str) -> None:
        cells.append(Cell(wheel.name, version, environment.torch(), how, *environment.smoke(is_compiled(wheel))))
        print("wheels:", *cells[-1].row(), file=sys.stderr, flush=True)

    wheel, *others = (wheel for wheel in wheels if fits(wheel, version))
    for torch in torches:
        if not environment.has_torch(torch):
            cells.append(Cell(wheel.name, version, torch, ABSENT))
            continue
        installed = any(cell.how == "installed" for cell in cells)
        if not installed:
            environment.install(wheel)
        add(wheel, "torch upgraded" if installed else "installed")
    if all(cell.how == ABSENT for cell in cells):
        return [cell._replace(problem="there is none of these for this Python") for cell in cells]
    for other in others:
        environment.install("--force-reinstall", "--no-deps", other)
        add(other, "installed")
    return cells


def table(cells: Iterable[Cell]) -> str:
    from tdas_ops import _tables

    return _tables.text(HEAD, [cell.row() for cell in cells])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pythons", nargs="*", default=(), metavar="NAME", help="default: those of 3.10 to 3.13")
    parser.add_argument("--torches", nargs="+", default=TORCHES, metavar="VERSION", help="versions, or newest")
    parser.add_argument("--torch-from", default="", metavar="OPTIONS", help="of pip, such as '--index-url URL'")
    parser.add_argument("--cuda", action="store_true", help="wheels with CUDA kernels too")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="is emptied first")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "wheels")
    arguments = parser.parse_args()
    out, work = arguments.out.resolve(), arguments.work.resolve()
    if arguments.cuda and shutil.which("nvcc") is None and "CUDA_HOME" not in os.environ:
        raise SystemExit("wheels: --cuda: got no nvcc, expected one on the path or in CUDA_HOME")
    pythons = interpreters(arguments.pythons)
    release = Release(out, work)
    wheels = [release.wheel(command, "cpu") for command in pythons.values()]
    wheels += [release.wheel(command, "cuda") for command in pythons.values() if arguments.cuda]
    wheels.append(release.wheel(sys.executable, "none"))
    release.check()
    cells: list[Cell] = []
    for version, command in pythons.items():
        environment = Environment(work / f"python-{version}", command, shlex.split(arguments.torch_from))
        cells += prove(environment, version, wheels, ascending(arguments.torches))
        shutil.rmtree(environment.folder)  # gigabytes, with a torch for CUDA
    print(table(cells))
    failed = [cell for cell in cells if cell.problem is not None]
    print(f"wheels: {len(failed)} of {len(cells)} failed" if failed else f"wheels: all {len(cells)} work, in {out}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
