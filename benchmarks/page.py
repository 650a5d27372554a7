"""What generated pages are made of: numbers, tables, plots."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree


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


def figure(columns: int, size: tuple[float, float], rows: int = 1, **options: Any) -> tuple[Any, Any]:
    """A matplotlib figure of panels, and their axes line by line; `size` is that of a panel in inches.

    White behind, so that it can be read on a dark page.
    """
    import matplotlib

    matplotlib.use("svg")
    # Text stays text; the same figures give the same file.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "tdas_ops", "font.size": 9, "axes.axisbelow": True}
    matplotlib.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.sans-serif": ["DejaVu Sans"]}
    matplotlib.rcParams |= {"axes.titlesize": 9, "grid.alpha": 0.25, "grid.linewidth": 0.5, "legend.frameon": False}
    import matplotlib.pyplot as plt

    width, height = size
    made, axes = plt.subplots(
        rows, columns, figsize=(columns * width, rows * height), layout="constrained", squeeze=False, **options
    )
    return made, axes.ravel()


def save(figure: Any, path: Path) -> None:
    """Writes a figure as SVG and closes it. Logarithmic axes have ticks at 1, 2 and 5."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_locator(), LogLocator):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    plt.close(figure)
    path.write_text(_slim(drawn.getvalue()))


SVG, LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"


def _slim(drawing: str) -> str:
    """The same drawing in half the bytes: tenths of a point, styles once, no groups and no names that nothing uses."""
    root = ElementTree.fromstring(re.sub(r"\d+\.\d{3,}", lambda found: f"{round(float(found[0]), 1):g}", drawing))
    named = re.findall(r"#([mp]\w+)", " ".join(value for each in root.iter() for value in each.attrib.values()))
    short = {name: f"i{place}" for place, name in enumerate(dict.fromkeys(named))}
    shared = Counter(each.get("style") for each in root.iter())
    classes = {style: f"s{place}" for place, (style, uses) in enumerate(shared.items()) if style and uses > 2}
    for each in root.iter():
        own = each.attrib
        if own.get("id") not in short:
            own.pop("id", None)
        if own.get("transform", "").startswith("rotate(-0"):
            del own["transform"]
        if own.get("style") in classes:
            own["class"] = classes[own.pop("style")]
        for key, value in own.items():
            own[key] = re.sub(r"(#?)([mp]\w+)", lambda found: found[1] + short.get(found[2], found[2]), value)
        if "d" in own:
            own["d"] = re.sub(r"\s*([A-Za-z])\s*", r"\1", own["d"]).strip()
        each.text, each.tail = ((text and text.strip()) or None for text in (each.text, each.tail))
    for parent in list(root.iter()):
        while any(child.tag == f"{{{SVG}}}g" and not child.attrib for child in parent):
            parent[:] = [
                inner
                for child in parent
                for inner in (child if child.tag == f"{{{SVG}}}g" and not child.attrib else [child])
            ]
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    style = next(root.iter(f"{{{SVG}}}style"))
    style.text = (style.text or "") + rules
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK[1:].partition("}")[0])
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def save_picture(sheet: Any, path: Path) -> None:
    """Writes a PIL image as WebP: 8 levels of grey, or colours as far as the eye needs them."""
    if sheet.mode == "L":
        sheet.quantize(8, dither=0).convert("L").save(path, lossless=True, method=6, quality=100)
    else:
        sheet.save(path, quality=50, method=6)
