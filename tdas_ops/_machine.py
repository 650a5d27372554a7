"""What this machine is, and what runs on it: the facts that a bug report, a record of runs and a figure need."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tdas_ops import _extension, _remedy
from tdas_ops._backends import backend_info
from tdas_ops._version import __version__

_SOURCES = ("csrc", "tdas_ops", "setup.py")


def machine_info() -> dict[str, Any]:
    """Hardware, versions and build, as plain values that JSON knows; None where something is not there or not known.

    Returns:
        tdas_ops, commit: version; commit of the source tree, 12 digits, by git or by the environment variable
            `TDAS_OPS_COMMIT`.
        dirty: whether sources of the package differ from that commit.
        python, torch, triton: versions.
        system, machine: of the operating system; the architecture.
        cpu, instruction_set: model of the CPU; what the compiled kernels use of it (`TDAS_OPS_CPU_ISA` chooses).
        cores, threads: cores that this process may use; threads of torch.
        cuda, driver: CUDA version that torch was built with; version of the GPU driver.
        gpus: for each one `name`, `capability`, `multiprocessors`, `memory_gib`, `l2_mib`.
        build: what was built and why, or why it cannot be used.
        backends: what `backend_info` says.
    """
    build = _extension.description()
    return {
        "tdas_ops": __version__,
        "commit": os.environ.get("TDAS_OPS_COMMIT") or _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", *_SOURCES)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "instruction_set": build.get("cpu_instruction_set"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "driver": _driver() if torch.cuda.is_available() else None,
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "build": build,
        "backends": backend_info(),
    }


def cpu_model() -> str:
    """The model of the CPU, or its architecture where the system does not name one."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _gpu(index: int) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(index)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_gib": found.total_memory >> 30,
        "l2_mib": getattr(found, "L2_cache_size", 0) >> 20,
    }


@cache
def _driver() -> str | None:
    listed = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return listed.splitlines()[0] if listed else None


@cache
def _triton_version() -> str | None:
    try:
        import triton
    except Exception:  # `backends` says why it does not load
        return None
    return str(triton.__version__)


def _git(*arguments: str) -> str | None:
    """What git says of the source tree; None for an installed copy, and in a tree without history of its own."""
    root = _remedy.source_tree()
    return _output("git", *arguments, cwd=root) if root is not None and (root / ".git").exists() else None


def _output(*command: str, cwd: Path | None = None) -> str | None:
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
