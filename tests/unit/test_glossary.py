"""The glossary: in order, found from the other pages, and of names that exist."""

from __future__ import annotations

import re
from pathlib import Path

import tdas_ops

DOCS = Path(__file__).parents[2] / "docs"
ENTRIES = dict(re.findall(r"^\| ([^|`]+) \| (.+) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE))
del ENTRIES["word"]


def test_words_are_in_order_and_explained_in_a_few_sentences():
    assert list(ENTRIES) == sorted(ENTRIES, key=str.lower)
    needed = "native evaluation iteration snr schedule plain constant start prior ladder floor filter calibrated"
    assert set(needed.split()) <= set(ENTRIES)
    assert all(text.endswith(".") and len(re.findall(r"[.:?] ", text)) <= 5 for text in ENTRIES.values())


def test_the_names_exist():
    for text in ENTRIES.values():
        for name in re.findall(r"`([A-Za-z_]+(?:\.[A-Za-z_]+)*)`(?! of `| of its)", text):
            if name in ("native_iterations", "calls", "pc", "annealed_langevin"):  # said of what stands beside them
                continue
            found = tdas_ops
            for part in name.split("."):
                found = getattr(found, part)


def test_the_pages_lead_to_it():
    for page in ("design.md", "calibration.md"):
        assert "](glossary.md)" in (DOCS / page).read_text()
