"""What a reader needs to judge a figure: the machine, the versions and the build it comes from."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import tdas_ops
from tdas_ops import _extension

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("csrc", "tdas_ops", "setup.py", "benchmarks/*.py")


def command_output(*command: str) -> str | None:
    try:
        return subprocess.check_output(command, text=True, cwd=ROOT, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu_model() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def instruction_set() -> str:
    """That of the compiled kernels in this process (TDAS_OPS_CPU_ISA chooses), or "reference" where there are none."""
    module = _extension.load()
    return "reference" if module is None else str(module.build_info()["cpu_instruction_set"])


def circumstances() -> dict[str, Any]:
    module = _extension.load()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "instruction_set": instruction_set(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "tdas_ops": tdas_ops.__version__,
        "compiler": None if module is None else module.build_info()["compiler"],
        "commit": os.environ.get("TDAS_OPS_COMMIT") or command_output("git", "rev-parse", "--short=12", "HEAD"),
        "dirty": bool(command_output("git", "status", "--porcelain", "--untracked-files=no", "--", *SOURCES)),
        "paths": tdas_ops.backend_info()["paths"]["cpu"],
    }
