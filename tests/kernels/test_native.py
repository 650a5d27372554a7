"""The CPU kernels under the sanitizers of addresses and undefined behaviour, without Python (native/)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.compiled import needs_compiler
from tests.kernels.native_program import INSTRUCTION_SETS, SANITIZE, run_program, sanitized_program
from tests.kernels.simt_library import has_sanitizer

pytestmark = [needs_compiler, pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)]


@pytest.fixture(scope="module")
def built() -> Path:
    if not has_sanitizer(*SANITIZE):
        pytest.skip("no address and undefined-behaviour sanitizers here")
    return sanitized_program()


def test_the_kernels_are_clean_and_right(built: Path, instruction_set: str):
    done = run_program(built, instruction_set=instruction_set)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failures" in done.stdout


@pytest.mark.parametrize(
    ("plant", "found"),
    [("read", "READ of size"), ("write", "WRITE of size"), ("unwritten", "relative RMS")],
)
def test_a_planted_mistake_is_found(built: Path, instruction_set: str, plant: str, found: str):
    done = run_program(built, plant, instruction_set=instruction_set)
    assert done.returncode != 0
    assert found in done.stdout + done.stderr
