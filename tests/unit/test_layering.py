"""Who may know whom: reads every Python import and C++ include and holds them against docs/design.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABOVE = ("benchmarks", "experiments", "examples", "tests", "tools")  # the package knows none of them
MENTION = re.compile(rf"(?:^|[\s\"'`./])(?:{'|'.join(ABOVE)})[./]\w")
SOURCES = (".py", ".h", ".cpp", ".cu", ".cuh")
LONGEST = 600

# Low to high. A module may import modules of lower levels only.
LEVELS = [
    {"_version", "_remedy", "_schema", "_arguments", "_files"},
    {"_extension", "reference", "triton_kernels", "sde", "_arrays", "_images", "_tables"},
    {"_backends", "_gaussian", "_channels", "_stored", "_statistics"},
    {"_brownian", "_variance"},
    {"noise", "preconditioner", "_machine"},
    {"_inputs", "_graph", "_latents", "holder"},
    {"ops"},
    {"prior", "spectrum", "coloured", "denoiser", "fields"},
    {"samplers"},
    {"calibrate"},
    {"models", "integrations", "_pictures"},
    {"_record"},
    {"_batches", "_folder", "_filters", "_report"},
    {"_request", "_runs", "_tune"},
    {"cli"},
    {"__main__"},
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}

# What a file or folder of csrc may include besides the standard library: the first prefix that fits counts.
SHARED = ["params.h", "philox.h", "fft.h", "update.h", "inline.h"]
INCLUDES = {
    "params.h": [],
    "inline.h": [],
    "philox.h": ["params.h", "inline.h"],
    "fft.h": ["inline.h"],
    "update.h": ["fft.h", "inline.h"],
    "cpu/": [*SHARED, "cpu/", "immintrin.h", "arm_neon.h", "cpuid.h"],
    "cuda/": [*SHARED, "cuda/", "cuda_runtime_api.h"],
    "torch_abi.h": [],
    "tensor.": ["torch_abi.h", "tensor.h"],
    "registration.h": ["tensor.h"],
    "parallel.h": ["tensor.h", "cpu/kernels.h"],
    "spectra.": ["params.h", "tensor.h", "spectra.h", "parallel.h", "cpu/kernels.h"],
    "cpu_update.": ["params.h", "cpu_update.h", "spectra.h", "parallel.h", "cpu/kernels.h"],
    "arguments.": ["params.h", "tensor.h", "arguments.h"],
    "cpu_ops.": ["arguments.h", "tensor.h", "cpu_ops.h", "cpu_update.h", "parallel.h"],
    "cuda_stream.h": ["tensor.h", "cuda_runtime_api.h"],
    "cuda_ops.": ["arguments.h", "tensor.h", "cuda_ops.h", "cuda_stream.h", "library.h", "cuda/"],
    "library.": ["registration.h", "library.h", "cpu_ops.h", "cuda_ops.h", "cpu/kernels.h", "cuda/build.h"],
    "binding.cpp": ["philox.h", "library.h", "pybind11/"],
}


def imported_modules(source: str, package: str) -> set[str]:
    """The parts of tdas_ops that a module of `package` (dotted) imports, as dotted names below tdas_ops."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(parent + ([node.module] if node.module else []))
            # `from tdas_ops import ops` names a module, `from tdas_ops.ops import step` does not
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "tdas_ops" else [base]
        else:
            continue
        found |= {name.removeprefix("tdas_ops.") for name in names if name.startswith("tdas_ops.")}
        found |= {"" for name in names if name == "tdas_ops"}
    return found


def python_violations(module: str, source: str) -> list[str]:
    """Imports of `module` (dotted, below tdas_ops; a package by its own name) that point sideways or upwards."""
    own = module.split(".")[0]
    package = "tdas_ops" if "." not in module else "tdas_ops." + module.rsplit(".", 1)[0]
    violations = []
    for target in sorted(imported_modules(source, package)):
        other = target.split(".")[0]
        if own == "cli" or other == own:  # the top level may use the public surface; a package may use its own parts
            continue
        if LEVEL.get(other, len(LEVELS)) >= LEVEL[own]:
            violations.append(f"{module} imports {target or 'tdas_ops'}")
    return violations


def python_modules() -> dict[str, str]:
    modules = {}
    for path in sorted((ROOT / "tdas_ops").rglob("*.py")):
        parts = path.relative_to(ROOT / "tdas_ops").with_suffix("").parts
        if parts != ("__init__",):  # the package itself gathers the public surface
            modules[".".join(parts)] = path.read_text()
    return modules


def include_violations(file: str, source: str) -> list[str]:
    """Includes of a file of csrc (path below csrc) that it may not have."""
    allowed = next((names for prefix, names in INCLUDES.items() if file.startswith(prefix)), [])
    violations = []
    for opening, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', source, re.MULTILINE):
        if opening == '"':
            name = (ROOT / "csrc" / file).parent.joinpath(name).resolve().relative_to(ROOT / "csrc").as_posix()
        elif "/" not in name and "." not in name:  # the standard library
            continue
        if not any(name == one or (one.endswith("/") and name.startswith(one)) for one in allowed):
            violations.append(f"{file} includes {name}")
    return violations


def needed_of_above(file: str, source: str) -> list[str]:
    """What a file of the package needs at run time of the folders above it: imports, includes, paths in strings.
    Comments and docstrings may say where something is used or tested."""
    if not file.endswith(".py"):
        code = re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)
        included = [
            name for name in re.findall(r'#\s*include\s*[<"]([^>"]+)', code) if set(name.split("/")) & set(ABOVE)
        ]
        return included or [text for text in re.findall(r'"[^"\n]*"', code) if MENTION.search(text)]
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in ABOVE]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module and node.module.split(".")[0] in ABOVE:
            found.append(node.module)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None  # a docstring
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return found + [text for text in strings if MENTION.search(text)]


def kernel_files() -> dict[str, str]:
    return {path.relative_to(ROOT / "csrc").as_posix(): path.read_text() for path in (ROOT / "csrc").rglob("*.*")}


def test_nothing_imports_upwards():
    modules = python_modules()
    names = {module.split(".")[0] for module in modules}
    assert {"_extension", "_schema", "reference", "ops", "samplers"} <= names
    assert names <= set(LEVEL), "a module without a level: give it one"
    assert [v for module, source in modules.items() for v in python_violations(module, source)] == []


def test_the_design_names_every_module():
    layers = (ROOT / "docs/design.md").read_text().split("## Layers")[1].split("Nothing imports upwards")[0]
    named = set(re.findall(r"\b(_?[a-z]\w*)(?:\.py|/)", layers.split("tdas_ops/", 1)[1]))
    assert named == set(LEVEL) - {"_version", "__main__"}


def test_no_source_needs_torch_and_no_kernel_sees_it():
    files = kernel_files()
    assert {"params.h", "philox.h", "cpu/plane.h", "cuda/noise.cu", "binding.cpp"} <= set(files)
    assert [v for file, source in files.items() for v in include_violations(file, source)] == []


def test_the_package_knows_nothing_above_it():
    files = [ROOT / "setup.py", *(p for folder in ("tdas_ops", "csrc") for p in (ROOT / folder).rglob("*.*"))]
    sources = {p.relative_to(ROOT).as_posix(): p.read_text() for p in files if p.suffix in SOURCES}
    assert {"tdas_ops/ops.py", "csrc/cpu/plane.h", "setup.py"} <= set(sources)
    assert {file: found for file, source in sources.items() if (found := needed_of_above(file, source))} == {}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("ops.py", "import tests.conftest"),
        ("ops.py", "def f():\n    from benchmarks.sizes import SIZES"),
        ("ops.py", "folder = ROOT / 'experiments/acceleration'"),
        ("ops.py", "importlib.import_module('examples.paint')"),
        ("a.h", '#include "../tests/kernels/simt/simt.h"'),
        ("a.cpp", 'auto path = "benchmarks/results";'),
    ],
)
def test_what_is_needed_of_above_is_found(file, source):
    assert needed_of_above(file, source)
    comment = "# " if file == "ops.py" else "// "
    assert needed_of_above(file, comment + source.replace("\n", "\n" + comment)) == []


def test_words_are_no_need():
    for source in ('"""As benchmarks/gpu.sh measured."""', "message = 'tests of numbers; see examples below'"):
        assert needed_of_above("ops.py", source) == []
    assert needed_of_above("a.h", "// tests/kernels/simt runs this\nint tests = 1;") == []


def test_a_file_tells_one_thing():
    """No source above 600 lines, the tests included."""
    folders = ("csrc", "tdas_ops", *ABOVE)
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in SOURCES]
    lines = {p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines()) for p in files}
    assert len(lines) > 200
    assert {file: count for file, count in lines.items() if count > LONGEST} == {}


def test_planted_violations_are_found():
    assert python_violations("reference", "from tdas_ops import ops") == ["reference imports ops"]
    assert python_violations("reference", "from . import samplers") == ["reference imports samplers"]
    assert python_violations("noise", "import tdas_ops.preconditioner") == ["noise imports preconditioner"]
    assert python_violations("noise", "def f():\n    from tdas_ops.samplers import pc") == ["noise imports samplers"]
    assert python_violations("models.unet", "from ..integrations import x") == ["models.unet imports integrations"]
    assert python_violations("ops", "import tdas_ops") == ["ops imports tdas_ops"]
    assert python_violations("samplers", "from tdas_ops import ops, sde") == []
    assert python_violations("models.unet", "from . import blocks") == []
    assert include_violations("cpu/rows.h", "#include <ATen/ATen.h>") == ["cpu/rows.h includes ATen/ATen.h"]
    assert include_violations("params.h", '#include "philox.h"') == ["params.h includes philox.h"]
    assert include_violations("cpu/rows.h", '#include "../cuda/noise.h"') == ["cpu/rows.h includes cuda/noise.h"]
    assert include_violations("tensor.h", "#include <ATen/ATen.h>") == ["tensor.h includes ATen/ATen.h"]
    assert include_violations("cpu/rows.h", '#include "../tensor.h"') == ["cpu/rows.h includes tensor.h"]
    assert include_violations("library.cpp", "#include <pybind11/stl.h>") == ["library.cpp includes pybind11/stl.h"]
    assert include_violations("spectra.cpp", '#include "cpu_update.h"') == ["spectra.cpp includes cpu_update.h"]
    assert include_violations("cpu_update.cpp", '#include "cpu_update.h"\n#include <cmath>') == []
    assert include_violations("cuda/noise.cu", '#include <cmath>\n#include "noise.h"') == []
