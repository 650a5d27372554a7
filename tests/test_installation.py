"""What a process says of the build that it runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tdas_ops import _extension, cli


def test_info_says_what_was_built_and_why(monkeypatch, capsys: pytest.CaptureFixture[str]):
    def info() -> str:
        with pytest.raises(SystemExit):
            cli.main(["info"])
        return capsys.readouterr().out

    extension = SimpleNamespace(build_info=lambda: {"cuda": None, "cpu_instruction_set": "avx2"})
    monkeypatch.setattr(_extension, "record", lambda: {"asked": "auto", "cuda_kernels": "no: nvcc is not found"})
    monkeypatch.setattr(_extension, "_load", lambda: (extension, None))
    assert '{"asked": "auto", "cuda_kernels": "no: nvcc is not found", "cuda": null, "cpu_inst' in info()
    assert "built without its CUDA part (nvcc is not found); rebuild it with TDAS_OPS_BUILD=cuda" in info()
    monkeypatch.setattr(_extension, "_load", lambda: (None, "it is not there"))
    assert '"cuda_kernels": "no: nvcc is not found", "missing": "it is not there"}' in info()
