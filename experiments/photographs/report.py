"""Tables and a plot from the rows that are there: `python -m experiments.photographs.report`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page as drawing
from benchmarks.rows import Row, read
from experiments.photographs.data import SIZES
from experiments.photographs.measures import finite
from experiments.photographs.methods import METHODS
from experiments.photographs.network import PATCH
from experiments.photographs.plan import COUNTS, REAL, RESULTS

PAGE = Path(__file__).with_name("RESULTS.md")
MEASURES = {
    "patches": "Patches: mean Wasserstein-1 distance along principal components and textures, in standard deviations",
    "spectrum": "Power in rings: RMS of log2 over that of the photographs of training",
}
FAR = "far"
MEASURES[FAR] = "Power in rings of waves of 64 pixels and longer, which training never saw whole: the same"
AXES = {
    "patches": "patches, standard deviations",
    "spectrum": "power of all rings, octaves",
    FAR: "power of waves >= 64 pixels, octaves",
}
SIGHTS = {"local": "The denoiser sees 64 pixels", "whole": "Its linear part sees the whole picture"}
SHOWN = (
    ("pc plain", "#9a9a9a", "o-"),
    ("pc constant", "#b08d57", "o-"),
    ("pc tdas", "#d9822b", "o-"),
    ("pc schedule", "#c0392b", "o-"),
    ("DPM-Solver++ 2M", "#5b8fd9", "s-"),
    ("DPM-Solver++ 2M SDE", "#1f4e9e", "s-"),
    ("2M from mean colour and white noise", "#7fbf7f", "^--"),
    ("2M from the colour spectrum", "#1e7d32", "^-"),
    ("2M SDE from the colour spectrum", "#66a61e", "v-"),
)
# A method, and the null hypothesis that it has to be better than: the same without the data's law.
PAIRS = (
    ("pc constant", "pc plain"),
    ("pc tdas", "pc constant"),
    ("pc pds", "pc constant"),
    ("pc schedule", "pc constant"),
    ("2M from the colour spectrum", "DPM-Solver++ 2M"),
    ("2M from the colour spectrum", "2M from mean colour and white noise"),
    ("2M from the colour spectrum", "2M from the spectrum, channels apart"),
    ("2M SDE from the colour spectrum", "DPM-Solver++ 2M SDE"),
    ("ancestral, posterior covariance", "ancestral"),
)
Figures = dict[tuple[str, str, int], Row]


def with_far(row: Row) -> Row:
    """A row, and the error of its rings that are no finer than a patch."""
    rings = row["rings"][: (row["size"] // PATCH).bit_length()] if row["finite"] else []
    return row | {FAR: math.sqrt(sum(v * v for v in rings) / len(rings)) if rings else None}


def figures(rows: Sequence[Row]) -> Figures:
    """The rows of one size by sight, method and evaluations, without those of photographs."""
    return {(r["sight"], r["method"], r["evaluations"]): r for r in rows if r["method"] not in REAL}


def floors(rows: Sequence[Row], measure: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of a measure over sets of photographs, those of training and held-out ones."""
    by_name = {name: [row[measure] for row in rows if row["method"] == name] for name in REAL}
    return {
        name: (statistics.fmean(found), statistics.stdev(found)) for name, found in by_name.items() if len(found) > 1
    }


def table(found: Figures, sight: str, measure: str) -> list[str]:
    """One row a method, one column a count; bold: the best of a count."""
    counts = sorted({count for own, _, count in found if own == sight})
    best = {c: min(finite(row[measure]) for (s, _, n), row in found.items() if (s, n) == (sight, c)) for c in counts}
    lines = ["| method | " + " | ".join(map(str, counts)) + " |", "|---|" + "---|" * len(counts)]
    for name in METHODS:
        cells = []
        for count in counts:
            row = found.get((sight, name, count))
            value = None if row is None else finite(row[measure])
            text = "" if value is None else f"{value:.3g}"
            cells.append(f"**{text}**" if value is not None and value == best[count] else text)
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def gains(rows: dict[int, list[Row]], measure: str) -> list[str]:
    """How many times nearer a method is than its null hypothesis, by size, at the same evaluations."""
    found = {size: figures(own) for size, own in rows.items()}
    sights = [(size, sight) for size in rows for sight in SIGHTS if size > min(SIZES) or sight == "local"]
    head = [f"{size}, {sight}" if size > min(SIZES) else str(size) for size, sight in sights]
    lines = ["| method / null hypothesis | evaluations | " + " | ".join(head) + " |", "|---|---|" + "---|" * len(head)]
    for method, null in PAIRS:
        for count in (4, 8, 20, 50):
            cells = []
            for size, sight in sights:
                pair = [found[size].get((sight, name, count)) for name in (null, method)]
                values = [None if row is None else finite(row[measure]) for row in pair]
                both = None not in values and 0 < values[1] < math.inf  # type: ignore[operator]
                cells.append(f"{values[0] / values[1]:.2f}" if both else "")  # type: ignore[operator]
            if sum(map(bool, cells)) > 1:
                lines.append(f"| {method} / {null} | {count} | " + " | ".join(cells) + " |")
    return lines


def shapes(found: Figures, count: int) -> list[str]:
    """Log2 of the power of rings and of the kurtosis, over those of photographs, at one count."""
    lines = ["| sees | method | rings, from one cycle a picture | kurtosis, finest octave first |", "|---|---|---|---|"]
    for sight in SIGHTS:
        for name in METHODS:
            row = found.get((sight, name, count))
            if row is not None and row["finite"]:
                rings, kurtosis = (" ".join(f"{v:.1f}" for v in row[key]) for key in ("rings", "kurtosis"))
                lines.append(f"| {sight} | {name} | {rings} | {kurtosis} |")
    return lines


def plot(rows: dict[int, list[Row]], path: Path) -> None:
    """Both measures against evaluations, a column a size."""
    figure, axes = drawing.figure(len(rows), (3.6, 3), len(MEASURES))
    for column, (size, own) in enumerate(rows.items()):
        found, samples = figures(own), {row["samples"] for row in own if row["method"] not in REAL}
        ticks = [count for count in COUNTS if count <= max(n for _, _, n in found)]
        for line, measure in enumerate(MEASURES):
            axis = axes[line * len(rows) + column]
            for method, colour, style in SHOWN:
                points = sorted(
                    (n, finite(r[measure])) for (s, m, n), r in found.items() if (s, m) == ("local", method)
                )
                points = [point for point in points if point[0] in COUNTS and 0 < point[1] < 100]
                if points:
                    axis.plot(*zip(*points, strict=True), style, color=colour, label=method, markersize=4)
            for name, (value, _) in floors(own, measure).items():
                style = "--" if name.startswith("held") else ":"
                axis.axhline(value, color="#888888", linestyle=style, label=name)
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(ticks, map(str, ticks))
            axis.grid()
            if line == 0:
                axis.set_title(f"{size} pixels, n = {' and '.join(map(str, sorted(samples)))}")
            if line == len(MEASURES) - 1:
                axis.set_xlabel("network evaluations")
            if column == 0:
                axis.set_ylabel(AXES[measure])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    drawing.save(figure, path)


def predictions(rows: Sequence[Row]) -> list[str]:
    """What the Gaussian model says, a column a size and count."""
    columns = sorted({(row["size"], row["evaluations"]) for row in rows if row["evaluations"] in COUNTS})
    found = {(row["method"], row["size"], row["evaluations"]): row["spectrum"] for row in rows}
    head = [f"{size}: {count}" for size, count in columns]
    lines = ["| method | " + " | ".join(head) + " |", "|---|" + "---|" * len(head)]
    for name in dict.fromkeys(row["method"] for row in rows):
        values = [found.get((name, *column)) for column in columns]
        lines.append(f"| {name} | " + " | ".join("" if v is None else f"{v:.2f}" for v in values) + " |")
    return lines


def page(rows: dict[int, list[Row]]) -> str:
    """RESULTS.md."""
    text = [
        "# Photographs at 64, 256 and 1024 pixels\n",
        "Made by `python -m experiments.photographs.report`; do not edit.",
    ]
    text += ["What the rows and columns are stands in [README.md](README.md).\n", "![curves](results/curves.svg)\n"]
    text += ["## Does the gain grow with resolution?\n"]
    for measure, title in MEASURES.items():
        text += [f"{title}; that of the null hypothesis over that of the method:\n", *gains(rows, measure), ""]
    if predicted := read(RESULTS / "predicted.jsonl"):
        text += [
            "The same in the Gaussian model with the exact score of the spectrum, which knows all distances: power in "
            "rings, a column a size and number of evaluations:\n",
            *predictions(predicted),
            "",
        ]
    for size, own in rows.items():
        found = figures(own)
        samples = sorted({row["samples"] for row in own if row["method"] not in REAL})
        text += [f"## {size} pixels\n", f"{' and '.join(map(str, samples))} pictures a row."]
        for measure, title in MEASURES.items():
            real = [f"{name} {mean:.3g} ± {scatter:.2g}" for name, (mean, scatter) in floors(own, measure).items()]
            text += [f"{title}. As many real pictures: {', '.join(real)}.\n"]
            for sight, name in SIGHTS.items():
                if any(key[0] == sight for key in found):
                    text += [f"{name}:\n", *table(found, sight, measure), ""]
        text += ["At 8 evaluations, log2 over photographs:\n", *shapes(found, 8), ""]
    return "\n".join(text)


def results() -> dict[int, list[Row]]:
    """The rows of each size; there must be one network."""
    rows = {size: read(RESULTS / f"{size}.jsonl") for size in SIZES}
    if len({row["weights"] for own in rows.values() for row in own if row["weights"] != "-"}) > 1:
        raise SystemExit(f"report: {RESULTS} has rows of several networks, expected those of one")
    return {size: [with_far(row) for row in own] for size, own in rows.items() if own}


def main() -> None:
    rows = results()
    plot(rows, RESULTS / "curves.svg")
    PAGE.write_text(page(rows))
    print(f"report: {PAGE}")


if __name__ == "__main__":
    main()
