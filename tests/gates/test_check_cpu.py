"""The gate on instructions: what it compares, and that it can fail."""

from __future__ import annotations

import json

import check_cpu
import pytest

RECORDED = {"avx2, drift": 20.0, "avx2, noise": 10.0}


def test_figures_may_fall_and_rise_a_little():
    assert check_cpu.compare({"avx2, drift": 20.59, "avx2, noise": 5.0}, RECORDED) == []


@pytest.mark.parametrize(
    ("figures", "problem"),
    [
        ({**RECORDED, "avx2, drift": 20.7}, "avx2, drift: 20.70 instructions an element, 3.5 % above 20.00"),
        ({"avx2, drift": 20.0}, "avx2, noise: not counted"),
        ({**RECORDED, "avx2, other": 1.0}, "avx2, other: not recorded"),
    ],
)
def test_it_fails(figures, problem):
    assert check_cpu.compare(figures, RECORDED) == [problem]


@pytest.mark.parametrize(("factor", "status", "says"), [(1.0, 0, "no figure has risen"), (1.1, 1, "10.0 % above")])
def test_the_exit_status(monkeypatch, capsys, tmp_path, factor, status, says):
    monkeypatch.setattr("sys.argv", ["check_cpu.py"])
    monkeypatch.setattr(check_cpu, "machine_sets", lambda: ["avx2"])
    monkeypatch.setattr(check_cpu.shutil, "which", lambda name: name)
    monkeypatch.setattr(check_cpu, "compiler_version", lambda compiler: "g++ 1.0")
    monkeypatch.setattr(check_cpu, "count", lambda *rest: {name: factor * n for name, n in RECORDED.items()})
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"g++ 1.0": RECORDED}))
    monkeypatch.setattr(check_cpu, "RECORD", record)
    assert check_cpu.main() == status
    assert says in capsys.readouterr().out


def test_the_flags_are_those_of_the_extension():
    assert "-O3" in check_cpu.compile_flags()
