"""The README's quick start runs as printed, and is as short as promised; the commands it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import tdas_ops

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_quick_start_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 12
    names: dict[str, object] = {}
    exec(code, names)
    samples = names["samples"]
    assert isinstance(samples, torch.Tensor)
    assert samples.shape == (8, 3, 32, 32) and samples.isfinite().all()


def test_named_things_exist():
    for name in re.findall(r"`Preconditioner\.(\w+)`", README):
        assert hasattr(tdas_ops.Preconditioner, name)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?m)(?:^|`)make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`((?:benchmarks|tests|tdas_ops|csrc|docs)/[\w./]+)`", README):
        if path != "benchmarks/results/":
            assert (ROOT / path).exists(), path
