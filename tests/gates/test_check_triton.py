"""The gate of the Triton kernels: what it reads and compares, that it can fail, and that its record is complete."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("triton")
import check_triton

REPORT = """
ptxas info    : Compiling entry function 'pixel_kernel' for 'sm_90a'
ptxas info    : Function properties for pixel_kernel
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 61 registers, used 1 barriers, 16 bytes cumulative stack size
"""


def test_report_is_read():
    assert check_triton.parse(REPORT, 2048) == {"registers": 61, "spill_bytes": 20, "shared_bytes": 2048}


def test_a_spill_fails():
    found = {"k, sm_90": check_triton.parse(REPORT, 0), "l, sm_90": {"registers": 61, "spill_bytes": 0}}
    assert check_triton.spilling(found) == ["k, sm_90: 20 bytes of spills, expected none"]


def test_registers_beyond_the_allowance_fail():
    recorded = {"k": {"registers": 40}, "l": {"registers": 40}}
    assert check_triton.compare({"k": {"registers": 48}, "l": {"registers": 32}}, recorded) == []
    assert check_triton.compare({"k": {"registers": 49}, "l": {"registers": 40}}, recorded) == [
        "k: 49 registers, recorded are 40, 8 more are allowed"
    ]
    assert check_triton.compare({"k": {"registers": 40}, "m": {"registers": 1}}, recorded) == [
        "l: not compiled",
        "m: not recorded",
    ]


def test_every_variant_is_recorded_without_spills():
    records = json.loads(check_triton.RECORD.read_text())
    assert {"triton 3.6.0", "triton 3.7.1"} <= records.keys()
    names = {f"{v.name}, sm_{a}" for v in check_triton.variants() for a in check_triton.ARCHITECTURES}
    for figures in records.values():
        assert figures.keys() == names
        assert check_triton.spilling(figures) == []


def test_variants_name_arguments_of_their_kernels():
    for variant in check_triton.variants():
        assert variant.constants.keys() | set(variant.multiples) <= set(variant.kernel.arg_names), variant.name
