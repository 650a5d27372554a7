"""Tables and plots from the rows that are there: `python -m experiments.few_step.report`."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.rows import Row, read
from experiments.few_step.evaluate import COUNTS, RESULTS
from experiments.few_step.methods import COPIES, METHODS, SHOWN

PAGE = Path(__file__).resolve().with_name("RESULTS.md")
Figures = dict[tuple[str, int], Row]
MEASURES = {
    "distance": "Frechet distance of features",
    "likeness": "Mean Wasserstein-1 distance along principal components and textures, in standard deviations",
    "spectrum": "RMS error of the power spectrum, octaves",
}

SUMMARY = {"digits-embedded": "embedded network", "digits-ncsnpp": "NCSN++ as published"}
SUMMARISED = (
    *("pc plain", "pc tdas", "DPM-Solver++ 2M", "DPM-Solver++ 2M SDE"),
    *("2M from mean and white noise", "2M from a Gaussian, PCA", "2M, mixture, level by rule"),
)


def averaged(rows: list[Row]) -> Figures:
    """The mean of every measure over the seeds of a method and count; infinite where a sample is not finite."""
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["method"], row["evaluations"]].append(row)
    return {key: _mean(group) for key, group in groups.items()}


def _mean(group: list[Row]) -> Row:
    values = {name: [row.get(name, math.inf) for row in group] for name in MEASURES}
    spread = {"spread": max(values["distance"]) - min(values["distance"]), "seeds": len(group)}
    return {name: sum(each) / len(each) for name, each in values.items()} | spread


def table(found: Figures, measure: str) -> list[str]:
    """One row a method, one column a count; bold: the best of a count, copies apart."""
    counts = sorted({count for _, count in found if count in COUNTS})
    contest = [(count, row[measure]) for (name, count), row in found.items() if name not in COPIES]
    best = {c: min((value for count, value in contest if count == c), default=math.nan) for c in counts}
    lines = []
    for name in METHODS:
        cells = []
        for count in counts:
            row = found.get((name, count))
            text = "" if row is None else f"{row[measure]:.3g}"
            cells.append(f"**{text}**" if row is not None and row[measure] == best[count] else text)
        if any(cells):
            lines.append([name, *cells])
    return page.table(["method", *map(str, counts)], lines)


def draw(axes: Any, found: Figures, real: Row, shown: Sequence[tuple[str, str, str]]) -> None:
    """Distance against evaluations, and as lines what as many real images and the native sampler have."""
    most = 0
    for method, colour, style in shown:
        points = sorted(
            (count, row["distance"]) for (m, count), row in found.items() if m == method and count in COUNTS
        )
        points = [(count, value) for count, value in points if math.isfinite(value)]
        if points:
            most = max(most, *(count for count, _ in points))
            axes.plot(*zip(*points, strict=True), style, color=colour, label=method, markersize=4, linewidth=1.5)
    if ("pc plain", real["native"]) in found:
        axes.axhline(found["pc plain", real["native"]]["distance"], color="#555555", linestyle="--", label="native")
    floor, _, count = real["floor"]
    axes.axhline(floor, color="#555555", linestyle=":", label=f"real images, n = {count}")
    axes.set(xscale="log", yscale="log", xlabel="network evaluations")
    ticks = sorted(count for count in COUNTS if count <= most)
    axes.set_xticks(ticks, [str(count) for count in ticks])
    axes.grid()


def plot(title: str, found: Figures, real: Row, path: Path) -> None:
    """The methods worth showing, on one network."""
    figure, (axes,) = page.figure(1, (8, 4.2))
    draw(axes, found, real, SHOWN)
    title = f"{title}, native sampling {real['native']:,} evaluations"
    axes.set(ylabel=f"{MEASURES['distance']}, {real['samples']} samples", title=title)
    figure.legend(loc="outside right upper", fontsize=7)
    page.save(figure, path)


def plot_summary(networks: Mapping[str, tuple[Figures, Row]], path: Path) -> None:
    """The same in a few curves for the networks of `SUMMARY`, side by side."""
    figure, axes = page.figure(len(SUMMARY), (4.2, 3.4))
    for axis, (name, title) in zip(axes, SUMMARY.items(), strict=True):
        draw(axis, *networks[name], [each for each in SHOWN if each[0] in SUMMARISED])
        axis.set_title(f"{title}; native: {networks[name][1]['native']:,} evaluations")
    axes[0].set_ylabel(MEASURES["distance"])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7.5)
    page.save(figure, path)


def section(name: str, rows: list[Row], real: Row, folder: Path) -> list[str]:
    """What there is to say of a network, and its plot."""
    found = averaged(rows)
    native = found.get(("pc plain", real["native"]))
    picture = folder / f"{name}.svg"
    plot(name, found, real, picture)
    floor, scatter, count = real["floor"]
    seeds = sorted({row["seeds"] for row in found.values()})
    text = [
        f"## {name}\n",
        f"{real['samples']} samples a seed, {' to '.join(map(str, sorted({seeds[0], seeds[-1]})))} seeds a point. Real "
        f"images: distance {floor:.2f} ± {scatter:.2f} (n = {count}), likeness {real['likeness']:.3f}, spectrum "
        f"{real['spectrum']:.3f}.",
    ]
    if native is not None:
        text.append(
            f"Native predictor-corrector sampling, {real['native']} evaluations: {native['distance']:.3g}, "
            f"{native['likeness']:.3g}, {native['spectrum']:.3g}."
        )
    spread = [row["spread"] / row["distance"] for row in found.values() if row["seeds"] > 1]
    if spread:
        text.append(f"Seeds of a point differ by {sorted(spread)[len(spread) // 2]:.0%} in distance (median).")
    text.append(f"\n![distance against evaluations](results/{picture.name})\n")
    for measure, title in MEASURES.items():
        text += [f"{title}:\n", *table(found, measure)]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    text = [
        "# Quality against network evaluations\n",
        "Made by `python -m experiments.few_step.report`; do not edit.\n",
    ]
    networks: dict[str, tuple[Figures, Row]] = {}
    for file in sorted(args.results.glob("*-real.json")):
        name = file.stem.removesuffix("-real")
        (real,), rows = read(file), read(args.results / f"{name}.jsonl")
        if len({row["weights"] for row in [real, *rows]}) > 1:
            raise SystemExit(f"report: {name} has rows of several networks, expected those of one")
        text += section(name, rows, real, args.results)
        networks[name] = averaged(rows), real
    if set(SUMMARY) <= set(networks):
        plot_summary(networks, args.results / "summary.svg")
    args.page.write_text("\n".join(text))
    print(f"report: {args.page}")


if __name__ == "__main__":
    main()
