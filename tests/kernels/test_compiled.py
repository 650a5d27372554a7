"""What tests compile is compiled once for all processes, and again where anything that went into it is another."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernels import compiled as module
from tests.kernels.compiled import compiled, digest_of, needs_compiler


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    return tmp_path / "build"


def test_once_however_many_ask_at_a_time():
    builds = []

    def build(target: Path) -> None:
        builds.append(target)
        time.sleep(0.05)
        target.write_text("whole")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: compiled("library", ("flags",), build), range(8)))
    assert len(builds) == len(set(found)) == 1 and found[0].read_text() == "whole"
    assert compiled("library", ("other flags",), build) != found[0] and len(builds) == 2


def test_what_failed_is_not_kept():
    def fail(target: Path) -> None:
        target.write_text("half")
        raise AssertionError("error: expected ';'")

    with pytest.raises(AssertionError, match="expected"):
        compiled("library", (), fail)
    assert compiled("library", (), lambda target: target.write_text("whole")).read_text() == "whole"


def test_what_nobody_used_for_days_goes(folder):
    old, used = (compiled(name, (), lambda target: target.write_text("")) for name in ("old", "used"))
    long_ago = time.time() - (module.DAYS + 1) * 86400
    for path in (old, used):
        os.utime(path, (long_ago, long_ago))
    assert compiled("used", (), pytest.fail) == used
    compiled("new", (), lambda target: target.write_text(""))
    assert used.exists() and not old.exists()


@needs_compiler
def test_a_source_that_changes_is_another(tmp_path):
    source = tmp_path / "kernel.h"
    digests = []
    for text in ("one", "other", "one"):
        source.write_text(text)
        digest_of.cache_clear()
        digests.append(digest_of(tmp_path))
    digest_of.cache_clear()
    assert digests[0] == digests[2] != digests[1]
