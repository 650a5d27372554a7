"""The rows that a run of `benchmarks/gpu.sh` kept, as a text of at most 10,000 characters."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable

from benchmarks.rows import Row

NAMES = ("stage", "lib", "device", "commit", "ok", "case", "test", "why")

# Characters: of everything, and of each section at most; the times have what the others leave.
ALL, ABOUT, COUNTERS, FAILED, STAGES = 9900, 500, 1400, 2400, 1400
OF_STAGE = 8  # lines of what failed
PACKAGE = "tdas_ops"
PER_WARP = {"microseconds": "us", "dram_percent": "dram", "sm_percent": "sm", "issue_slots_percent": "issue"}
PER_WARP |= {"occupancy_percent": "warps", "dram_bytes_per_element": "B/el"}


def short(case: str) -> str:
    """`step 64 pds 2048x3x64x64` as `step 64 pds of 2048`."""
    return re.sub(r"(\d+)x\d+x\d+x\d+$", r"of \1", case)


def about(rows: list[Row]) -> list[str]:
    lines = [f"clocks, {row['stage']}: {row['clocks']}" for row in rows if row.get("clocks")]
    for row in rows:
        if "torch_cuda" in row:
            build = row.get("build") or {}
            return [
                *lines,
                f"{row['device']}, driver {row.get('driver')}, torch {row['torch']}, Python {row['python']}, commit "
                f"{row['commit']}{' with local changes' if row.get('dirty') else ''}, extension for "
                f"{', '.join(build.get('cuda_architectures', [])) or 'no GPU'} by CUDA {build.get('cuda')}",
            ]
    return [*lines, "no environment"]


def time_of(row: Row) -> str:
    """Microseconds of each contender, shares of the copy's bandwidth, ratios to ours."""
    us, share, ratio = row["us"], row.get("share", {}), row.get("ratio", {})
    names = [PACKAGE, *(name for name in us if name != PACKAGE)] if PACKAGE in us else list(us)
    cells = []
    for name in names:
        value = f"{us[name]:.4g}us" if name not in share or name == PACKAGE else ""
        value += f" {share[name]:.3f}" if name in share else ""
        value += f" {ratio[name]:.2f}x" if name in ratio else ""
        cells.append(f"{'' if name == PACKAGE else name + ' '}{value.strip()}")
    host = [f"{name} {value:.4g}us" for name, value in row.get("host_us", {}).items()]
    return f"{short(row['case'])}: {', '.join(cells)}" + (f"; one call: {', '.join(host)}" if host else "")


def times(rows: list[Row]) -> list[str]:
    lines, stage = [], None
    for row in rows:
        if "us" not in row:
            continue
        if row["stage"] != stage:
            stage = row["stage"]
            copies = [r["copy_tb_s"] for r in rows if r.get("stage") == stage and "copy_tb_s" in r]
            copy = f", copy {min(copies):.3g} to {max(copies):.3g} TB/s" if copies else ""
            lines.append(f"[{stage}{copy}]")
        lines.append(time_of(row))
    return lines


def counters(rows: list[Row]) -> list[str]:
    return [
        f"{row['case'] or '?'} {row['kernel'][:40]}: "
        + " ".join(f"{name} {row[key]:.3g}" for key, name in PER_WARP.items() if row.get(key) is not None)
        + f" {row['stalls_per_issue']}"
        for row in rows
        if "stalls_per_issue" in row
    ]


def failed(rows: list[Row]) -> list[str]:
    """What was wrong, a few of each stage, with why; counts of tests and of racecheck's hazards, always."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        stage = row.get("stage", "")
        of_stage = lines.setdefault(stage.split()[0] if stage else "", [])
        about_it = {k: v for k, v in row.items() if k not in NAMES}
        if row.get("status") and row.get("said"):
            of_stage.append(f"{stage}: {row['said']}")
        name = f"{stage} {row.get('lib', '')} {row.get('test') or short(row.get('case') or '')}".strip()
        if row.get("ok") is False or ("why" in row and row.get("ok") is None):
            of_stage.append(f"{name}: {row.get('why') or json.dumps(about_it)}"[:260])
        elif "hazards" in row or "counts" in row:
            of_stage.insert(0, f"{name}: {json.dumps(about_it)}"[:200])
    return [line for of_stage in lines.values() for line in first_of(of_stage)]


def first_of(lines: list[str]) -> list[str]:
    return lines if len(lines) <= OF_STAGE else [*lines[:OF_STAGE], f"... {len(lines) - OF_STAGE} more of it"]


def stages(rows: list[Row]) -> list[str]:
    """Status and seconds of each, and how many of its cases were right."""
    right = Counter(row["stage"] for row in rows if row.get("ok") is True)
    wrong = Counter(row["stage"] for row in rows if row.get("ok") is False)
    words = {0: "ok", 124: "OUT OF TIME", 137: "KILLED"}
    return [
        f"{row['stage']}: {words.get(row['status'], 'status ' + str(row['status']))} {row['seconds']}s"
        + (f" {right[row['stage']]}/{right[row['stage']] + wrong[row['stage']]}" if right[row["stage"]] else "")
        for row in rows
        if "status" in row
    ]


def section(title: str, lines: Iterable[str], most: int, separator: str = "\n") -> str:
    """As many lines as fit, and how many did not; nothing where there are none."""
    lines = list(lines)
    if not lines:
        return ""
    kept, left = [f"== {title}"], most - len(title) - 24
    for line in lines:
        if len(line) + 1 > left:
            kept.append(f"... {len(lines) - len(kept) + 1} more")
            break
        left -= len(line) + len(separator)
        kept.append(line)
    return kept[0] + "\n" + separator.join(kept[1:])


def text(rows: list[Row]) -> str:
    parts = {"about": section("about", about(rows), ABOUT)}
    parts["counters"] = section("counters, and stalls per issue", counters(rows), COUNTERS)
    parts["failed"] = section("failed", failed(rows), FAILED)
    parts["stages"] = section("stages", stages(rows), STAGES, "; ")
    parts["times"] = section("times", times(rows), ALL - sum(len(part) + 1 for part in parts.values()))
    return "\n".join(parts[name] for name in ("about", "times", "counters", "failed", "stages") if parts[name])
