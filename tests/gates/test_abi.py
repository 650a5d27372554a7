"""What the compiled library takes from outside: torch's stable C functions as of 2.11, and the C and C++ libraries that
any Linux of manylinux_2_34 has. A symbol of torch's C++ would tie it to one torch."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tdas_ops import _extension
from tests.kernels.compiled import CSRC, needs_compiler, run_compiler

HEADER = (CSRC / "torch_abi.h").read_text()
FUNCTION, WEAK = re.compile(r"\b((?:aoti_)?torch_\w+)\("), re.compile(r"\[\[gnu::weak\]\] [\w *]+?(\w+)\(")
DECLARED = set(FUNCTION.findall(HEADER))
NEWEST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (11,)}  # PEP 600, manylinux_2_34
OF_LINKERS = {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__cxa_finalize", "__gmon_start__"}

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="no nm (binutils)")
needs_extension = pytest.mark.skipif(_extension.load() is None, reason=str(_extension.reason()))


def strangers(library: Path, known: set[str]) -> list[str]:
    """Undefined symbols of a library that are neither known nor of a C or C++ library old enough."""
    found = []
    for line in subprocess.check_output(["nm", "-D", "--undefined-only", library], text=True).splitlines():
        name, _, version = line.split()[-1].partition("@")
        kind, _, number = version.rpartition("_")
        old = kind in NEWEST and tuple(map(int, number.split("."))) <= NEWEST[kind]
        if not old and name not in known | OF_LINKERS:
            found.append(line.split()[-1])
    return found


def needed(library: Path) -> set[str]:
    listed = subprocess.check_output(["readelf", "-d", library], text=True)
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", listed))


def compiled(folder: Path, code: str) -> Path:
    source, target = folder / "library.cpp", folder / "library.so"
    source.write_text(code)
    run_compiler("-shared", "-fPIC", source, "-o", target)
    return target


@needs_extension
@needs_nm
def test_the_library_takes_nothing_else_of_torch():
    module = Path(_extension.load().__file__)
    library = module.with_name(_extension.LIBRARY)
    assert strangers(library, DECLARED) == []
    # libtorch.so stands for all libraries of torch, with CUDA or without.
    assert {name for name in needed(library) if "torch" in name or "c10" in name or "cuda" in name} == {"libtorch.so"}
    assert not [name for name in needed(library) if "python" in name]


@needs_extension
@needs_nm
def test_the_module_knows_the_library_and_python():
    module = Path(_extension.load().__file__)
    rest = strangers(module, set())
    assert not [name for name in rest if not re.match(r"_?Py|_ZN8tdas_ops", name)] and rest
    assert not [name for name in needed(module) if "torch" in name] and _extension.LIBRARY in needed(module)


@needs_compiler
@needs_nm
def test_a_symbol_of_torch_is_found(tmp_path):
    code = "namespace at { int get_num_threads(); } int count() { return at::get_num_threads(); }"
    assert strangers(compiled(tmp_path, code), DECLARED) == ["_ZN2at15get_num_threadsEv"]
    code = 'extern "C" { int torch_stream_native_handle(); int f() { return torch_stream_native_handle(); } }'
    assert strangers(compiled(tmp_path, code), DECLARED) == ["torch_stream_native_handle"]
    code = f'#include "{CSRC}/torch_abi.h"\nint cpu() {{ return aoti_torch_device_type_cpu(); }}'
    assert strangers(compiled(tmp_path, code), DECLARED) == []
    assert strangers(compiled(tmp_path, code), set()) == ["aoti_torch_device_type_cpu"]


def beside_torch(header: str, folder: Path) -> None:
    """Compiles declarations of ours after torch's own: the same, and as old as 2.11 but for weak ones."""
    names = set(FUNCTION.findall(header)) - set(WEAK.findall(header))
    lines = [
        "#define USE_CUDA",
        "#define TORCH_TARGET_VERSION (2ULL << 56 | 11ULL << 48)",
        "#include <torch/csrc/stable/c/shim.h>",
        *(f"const auto there_{name} = &{name};" for name in sorted(names)),
        header.replace("#pragma once", ""),
        "static_assert(tdas_ops::torch_abi_version == TORCH_VERSION_2_11_0);",
    ]
    (folder / "both.cpp").write_text("\n".join(lines))
    include = Path(torch.__file__).parent / "include"
    run_compiler("-std=c++20", "-fsyntax-only", f"-I{include}", folder / "both.cpp")


@needs_compiler
def test_the_declarations_are_those_of_torch(tmp_path):
    assert {"aoti_torch_get_sizes", "torch_parallel_for", "aoti_torch_get_current_cuda_stream"} <= DECLARED
    beside_torch(HEADER, tmp_path)


@needs_compiler
@pytest.mark.parametrize(
    ("ours", "wrong"),
    [
        ("torch_string_length(StringHandle string, size_t* length)", "torch_string_length(StringHandle, int32_t*)"),
        ("int64_t grain", "int32_t grain"),
        ("using StableIValue = uint64_t", "using StableIValue = uint32_t"),
        ("{2} << 56 | uint64_t{11}", "{2} << 56 | uint64_t{10}"),
    ],
)
def test_another_declaration_is_found(tmp_path, ours, wrong):
    assert ours in HEADER
    with pytest.raises(AssertionError, match="error"):
        beside_torch(HEADER.replace(ours, wrong), tmp_path)


@needs_compiler
def test_a_younger_function_is_found(tmp_path):
    younger = HEADER.replace("[[gnu::weak]]", "")
    with pytest.raises(AssertionError, match=r"torch_exception_get_what_without_backtrace.? was not declared"):
        beside_torch(younger, tmp_path)
