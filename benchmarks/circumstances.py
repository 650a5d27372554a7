"""What a reader needs to judge a figure: the day, and what the package says of machine, versions and build."""

from __future__ import annotations

import datetime

import tdas_ops
from benchmarks.rows import Row

MACHINE = ("cpu", "cores", "instruction_set", "torch", "python", "tdas_ops", "commit", "dirty")


def circumstances() -> Row:
    about = tdas_ops.machine_info()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        **{name: about[name] for name in MACHINE},
        "compiler": about["build"].get("compiler"),
        "paths": about["backends"]["paths"]["cpu"],
    }


def instruction_set() -> str:
    """That of the compiled kernels in this process (TDAS_OPS_CPU_ISA chooses), or "reference" where there are none."""
    return tdas_ops.machine_info()["instruction_set"] or "reference"
