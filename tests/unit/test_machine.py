"""`machine_info`: plain values that are true of this machine, of one with a GPU, and of a copy without history."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tdas_ops
from tdas_ops import _machine, _remedy


@pytest.fixture(autouse=True)
def no_named_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TDAS_OPS_COMMIT", raising=False)


def test_it_is_what_others_say():
    found = tdas_ops.machine_info()
    assert json.loads(json.dumps(found)) == found
    assert found["tdas_ops"] == tdas_ops.__version__ and found["torch"] == torch.__version__
    assert found["backends"] == tdas_ops.backend_info() and found["threads"] == torch.get_num_threads()
    assert 1 <= found["cores"] <= os.cpu_count() and found["cpu"]
    assert ("cpp" in found["backends"]["available"]) == (found["instruction_set"] is not None)
    assert len(found["gpus"]) == torch.cuda.device_count()


def test_the_commit_is_that_of_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "csrc").mkdir()
    (tmp_path / "setup.py").write_text("1")
    monkeypatch.setattr(_remedy, "source_tree", lambda: tmp_path)
    found = tdas_ops.machine_info()
    assert (found["commit"], found["dirty"]) == (None, False)
    identity = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "m")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout
    (tmp_path / "notes").write_text("")
    found = tdas_ops.machine_info()
    assert found["commit"] == head[:12] and not found["dirty"]
    (tmp_path / "setup.py").write_text("2")
    assert tdas_ops.machine_info()["dirty"]
    monkeypatch.setenv("TDAS_OPS_COMMIT", "abc")
    assert tdas_ops.machine_info()["commit"] == "abc"
    monkeypatch.delenv("TDAS_OPS_COMMIT")
    monkeypatch.setattr(_remedy, "source_tree", lambda: None)
    assert tdas_ops.machine_info()["commit"] is None


def test_a_gpu_and_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    properties = SimpleNamespace(
        name="GPU", major=9, minor=0, multi_processor_count=132, total_memory=80 << 30, L2_cache_size=50 << 20
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(_machine, "backend_info", dict)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 570.1\necho 570.1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    _machine._driver.cache_clear()
    found = tdas_ops.machine_info()
    _machine._driver.cache_clear()
    assert found["driver"] == "570.1"
    gpu = {"name": "GPU", "capability": "9.0", "multiprocessors": 132, "memory_gib": 80, "l2_mib": 50}
    assert found["gpus"] == [gpu]
