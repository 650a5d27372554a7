"""Tables: their layout at every width, and what a file, a pipe or a terminal gets."""

from __future__ import annotations

import io
from collections import Counter

import pytest

from tdas_ops import _tables

HEAD = ("sampler", "evaluations", "Frechet distance")
ROWS = [
    ("dpmpp 1, snr, eta 0.5, start gaussian at 3", "4", "0.59"),
    ("pc plain, 60 iterations", "120", "0.48"),
    ("real images, n = 256", "", "0.43 ± 0.06"),
]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class File(io.StringIO):
    encoding = "utf-8"


def test_lines_are_as_wide_as_they_need_to_be_without_a_terminal():
    assert _tables.text(HEAD, ROWS).splitlines() == [
        "sampler                                     evaluations  Frechet distance",
        "dpmpp 1, snr, eta 0.5, start gaussian at 3            4              0.59",
        "pc plain, 60 iterations                             120              0.48",
        "real images, n = 256                                          0.43 ± 0.06",
    ]
    assert len(_tables.text(("name", "value"), [("x" * 5000, "1")]).splitlines()) == 2


def test_a_narrow_table_breaks_names_and_no_figure():
    assert _tables.text(HEAD, ROWS, 48).splitlines() == [
        "                                         Frechet",
        "sampler                 evaluations     distance",
        "dpmpp 1, snr, eta 0.5,            4         0.59",
        "start gaussian at 3",
        "pc plain, 60                    120         0.48",
        "iterations",
        "real images, n = 256                 0.43 ± 0.06",
    ]


def test_a_narrower_one_is_a_list():
    assert _tables.text(HEAD, ROWS, 40).splitlines()[4:] == [
        "pc plain, 60 iterations",
        "  evaluations       120",
        "  Frechet distance  0.48",
        "real images, n = 256",
        "  Frechet distance  0.43 ± 0.06",
    ]


@pytest.mark.parametrize("width", [*range(1, 100), None])
def test_nothing_is_lost_at_any_width(width: int | None):
    printed = _tables.text(HEAD, ROWS, width)
    assert width is None or max(map(len, printed.splitlines())) <= max(width, 20)
    letters = Counter("".join(cell for row in ROWS for cell in row).replace(" ", ""))
    assert not letters - Counter(printed)


def test_names_and_values():
    rows = [("torch:", "2.13.0"), ("no triton:", "a sentence of some words that is long")]
    assert _tables.text((), rows).splitlines()[1] == "no triton:  a sentence of some words that is long"
    assert _tables.text((), rows, 30).splitlines() == [
        "torch:      2.13.0",
        "no triton:  a sentence of some",
        "            words that is long",
    ]


def test_no_text_is_markup_and_none_steers_a_terminal():
    printed = _tables.text(("a", "b"), [("[red]x[/red] :smile:", "\x1b[31m1")], 200)
    assert "[red]x[/red] :smile:  \\x1b[31m1" in printed
    assert _tables.text(HEAD, []).count("\n") == 0


@pytest.mark.parametrize(
    ("environment", "bold"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_only_a_terminal_has_a_width_and_bold(environment, bold, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich would take it for a wish to have colours in a file
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _tables.written(HEAD, ROWS, File()) == _tables.text(HEAD, ROWS)
    assert _tables.written(HEAD, ROWS, Terminal()) == _tables.text(HEAD, ROWS, 40, bold=bold)
    assert ("\x1b[1m" in _tables.written(HEAD, ROWS, Terminal())) is bold


def test_a_notebook_gets_the_text_as_well(monkeypatch):
    """There rich would show a table by itself, and leave the text empty."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert _tables.text(("a", "b"), [("x", "1")]) == "a  b\nx  1"


def test_an_encoding_without_the_sign_gets_ascii():
    stream = File()
    stream.encoding = "ascii"
    assert _tables.written(HEAD, ROWS, stream).isascii()
    assert "0.43 +- 0.06" in _tables.written(HEAD, ROWS, stream)
