"""The part of docs/performance.md on a GPU, from the rows that `benchmarks/gpu.sh` left there. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from benchmarks.page import number, table
from benchmarks.rows import Row, read, select

ROWS = Path(__file__).resolve().parent / "results" / "gpu-h200.jsonl"
KINDS = {"pds": "PDS", "tdas": "TDAS", "both": "PDS with a space mask"}
SIZES = (32, 64, 128, 256, 512, 1024, 2048)
OWN, TORCH, FFT, COMPILED = "tdas_ops", "torch", "fft", "compiled"

ABOUT = """\
## On a GPU

`benchmarks/gpu.sh first` and `again` on an {device}: driver {driver}, torch {torch}, Triton {triton}, commits
{commits}, {date}. Every kernel, size and choice of masks against float64: {right} of {all}
cases right, relative RMS errors up to {given:.1g} with noise given and {drawn:.1g} with noise drawn. Each of {repeats}
ops on a full device gave the same bits in {runs} runs. memcheck found no error in {memcheck} cases, racecheck no hazard
in {racecheck}. Nothing was timed whose result had not been compared.

Batches of 0.3 GB of x, v and x', which no cache holds. Entries: times faster than the best composition of torch calls
/ share of a copy's bandwidth ({copy} TB/s), of the 12 bytes an element that a step has to move.
Kernels of these times asked for x ahead, as they no longer do (below): steps are faster since, by up to 16 %.
"""
MORE = """\
torch.compile of the composition takes {compiled} times as long as the composition itself. At 0.3 GB a step with
PDS takes {fft} times as long as torch's real FFT there and back alone. Planes from 256 x 256 on take
several launches, in which threads mostly wait for memory: there is room. `python -m benchmarks.report
benchmarks/results/gpu-h200.jsonl` lists all that was measured, hardware counters too.
"""
VARIANTS = """\
What the same run decided, as shares of a copy's bandwidth, builds in turns: in the times above kernels ask for x in
the L2 cache before they need it. Without that they are faster in every case, and since then they do without. More
threads at once with fewer registers each lose, and blocks of another size gain 4 % in one case.
"""
SMALL = """\
Small batches, microseconds a call in a replayed CUDA graph of {calls} calls. `langevin_step` takes norms, step size and
update in one cooperative launch where the device holds all planes; with the prefetch, without which it was not timed.
"""


def case_of(row: Row) -> tuple[str, int, str, int]:
    """Op, size, kind and samples of `step 64 pds 2048x3x64x64`."""
    op, size, kind, shape = row["case"].split()
    return op, int(size), kind, int(shape.split("x")[0])


def gigabytes(row: Row) -> float:
    size, samples = case_of(row)[1], case_of(row)[3]
    return samples * 3 * size**2 * 12 / 1e9


def timed(rows: list[Row], stage: str) -> dict[tuple[str, int, str, int], Row]:
    return {case_of(row): row for row in select(rows, stage=stage) if "us" in row}


def entry(row: Row | None) -> str:
    return "-" if row is None else f"{number(row['ratio'][TORCH])} / {row['share'][OWN]:.2f}"


def spread(values: list[float]) -> str:
    return f"{number(min(values))} to {number(max(values))}"


def steps(times: dict[tuple[str, int, str, int], Row]) -> list[str]:
    """A line a size: the step with every kind, the same of ten times as many samples, and langevin_step."""
    columns: dict[str, tuple[str, str, bool]] = {name: ("step", kind, False) for kind, name in KINDS.items()}
    columns |= {"PDS, 3 GB": ("step", "pds", True), "TDAS, 3 GB": ("step", "tdas", True)}
    columns |= {"`langevin_step`, PDS": ("langevin_step", "pds", False)}

    def of(size: int, op: str, kind: str, large: bool) -> Row | None:
        return next((r for c, r in times.items() if c[:3] == (op, size, kind) and (gigabytes(r) > 1) == large), None)

    lines = [[f"{n} x {n}", *(entry(of(n, *column)) for column in columns.values())] for n in SIZES]
    return table(["planes", *columns], lines)


def variants(rows: list[Row]) -> list[str]:
    found = {case: row["share"] for case, row in timed(rows, "turns").items()}
    names = {"main": "with prefetch", "plain": "without", "five": "640 threads", "six": "768 threads"}
    names |= {"ganged": "blocks of 256", "small-blocks": "128 in passes"}
    title = lambda case: f"{KINDS[case[2]]}, {case[3]} x 3 x {case[1]} x {case[1]}"
    lines = [[title(case), *(f"{share[name]:.3f}" for name in names)] for case, share in found.items()]
    return table(["step", *names.values()], lines)


def small(rows: list[Row]) -> list[str]:
    lines = []
    for stage, own, *others in (("small", OWN, TORCH, ""), ("cooperative", "cooperative", "", OWN)):
        for (op, size, kind, samples), row in timed(rows, stage).items():
            us = [number(row["us"][name]) if name else "-" for name in (own, *others)]
            lines.append([f"`{op}`, {KINDS[kind]}, {samples} x 3 x {size} x {size}", *us])
    return table(["op", "tdas_ops", "best torch", "in three launches"], lines)


def section(path: Path = ROWS) -> list[str]:
    """Lines of the page, none where no GPU was measured."""
    rows = read(path)
    if not rows:
        return []
    about = next(row for row in rows if "torch_cuda" in row)
    smoke = [row for row in rows if row["stage"].startswith("smoke") and "case" in row]
    drawn = [row[name] for row in smoke for name in ("step", "snr", "noise") if name in row]
    repeat, times = select(rows, stage="repeat", ok=True), timed(rows, "times")
    passed = lambda stage: sum(row.get("ok") is True for row in rows if row["stage"] == stage and "case" in row)
    compiled = [row["us"][COMPILED] / times[case]["us"][TORCH] for case, row in timed(rows, "compiled").items()]
    pds = [row["us"] for case, row in times.items() if case[0] == "step" and case[2] == "pds" and gigabytes(row) < 1]
    fft = [us[OWN] / us[FFT] for us in pds]
    text = ABOUT.format(
        **{name: about[name] for name in ("device", "driver", "torch", "triton", "date")},
        commits=" and ".join(dict.fromkeys(row["commit"] for row in rows if "torch_cuda" in row)),
        right=sum(row["ok"] for row in smoke),
        all=len(smoke),
        given=max(row[name] for row in smoke for name in ("given", "MMt") if name in row),
        drawn=max(drawn),
        repeats=len(repeat),
        runs=max(row["runs"] for row in repeat),
        memcheck=passed("memcheck"),
        racecheck=passed("racecheck"),
        copy=number(max(row["copy_tb_s"] for row in times.values())),
    )
    more = MORE.format(compiled=spread(compiled), fft=spread(fft))
    return [text, *steps(times), more, VARIANTS, *variants(rows), SMALL.format(calls=40), *small(rows)]
