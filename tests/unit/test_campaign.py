"""A few cases of the campaign of bad input; `python -m tests.unit.campaign` has hundreds."""

from __future__ import annotations

import pytest
from campaign import CASES, campaign, runs

from tdas_ops import _folder


def test_bad_input_leaves_no_traceback_and_loses_no_file() -> None:
    assert campaign(6 * len(CASES)) == []


def test_a_program_that_replaces_what_it_finds_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_folder.Folder, "_check_file", lambda *arguments: None)
    cases = [number for number in range(60) if CASES[number % len(CASES)] is runs]
    assert any("lost" in fault for number in cases for fault in campaign(1, number))
