"""What generated pages are made of: numbers, tables, plots."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def number(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def line(cells: Iterable[str]) -> str:
    """A row of a markdown table."""
    return f"| {' | '.join(cells)} |"


def head(header: Sequence[str], words: int = 1) -> list[str]:
    """The first two lines of a markdown table; the first `words` columns are text, the others figures."""
    return [line(header), line(["---"] * words + ["---:"] * (len(header) - words))]


def table(header: Sequence[str], lines: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """A markdown table and an empty line."""
    return [*head(header, words), *map(line, lines), ""]


def section(title: str, header: Sequence[str], lines: Sequence[Sequence[str]], words: int, note: str = "") -> list[str]:
    """A table under its title, or nothing where nothing was measured."""
    return [f"### {title}", "", *([note, ""] if note else []), *table(header, lines, words)] if lines else []


def figure(columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A matplotlib figure of panels side by side, and their axes; `size` is that of a panel in inches."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text; the same figures give the same file.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "tdas_ops", "font.size": 9, "axes.axisbelow": True}
    matplotlib.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.sans-serif": ["DejaVu Sans"]}
    import matplotlib.pyplot as plt

    width, height = size
    made, axes = plt.subplots(
        1, columns, figsize=(columns * width, height), layout="constrained", squeeze=False, **options
    )
    return made, axes[0]


def save(figure: Any, path: Path) -> None:
    """Writes a figure as SVG and closes it; tenths of a point are enough. Logarithmic axes have ticks at 1, 2 and 5."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_locator(), LogLocator):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    figure.savefig(path, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    plt.close(figure)
    text = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.1f}", path.read_text())
    path.write_text(re.sub("^ +|<!--.*-->", "", text, flags=re.MULTILINE))


def save_picture(sheet: Any, path: Path) -> None:
    """Writes a PIL image as WebP: 16 levels of grey, or colours as far as the eye needs them."""
    if sheet.mode == "L":
        sheet.quantize(16, dither=0).convert("L").save(path, lossless=True, method=6, quality=100)
    else:
        sheet.save(path, quality=50, method=6)
