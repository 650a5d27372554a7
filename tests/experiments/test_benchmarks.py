"""The benchmarks: no figure of a wrong result, a report of whatever was measured, a tidy comparison."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

import tdas_ops
from benchmarks import contenders, measure, page, performance, report, rows
from benchmarks import run as bench
from benchmarks.parity import Oracle, ParityError

ROOT = Path(__file__).parents[2]
SHAPE = (2, 2, 8, 6)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def oracle(op: str, method: str = "pds", space: bool = False) -> tuple[Oracle, contenders.Masks]:
    m = contenders.masks(SHAPE, method, space)
    generator = torch.Generator().manual_seed(0)
    return Oracle(op, m.M, *(torch.randn(SHAPE, generator=generator) for _ in range(2))), m


@pytest.mark.parametrize("space", [False, True])
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("op", ["step", "langevin_step", "noise", "precondition"])
def test_every_contender_does_the_same(op, method, space):
    truth, m = oracle(op, method, space)
    truth.check()
    for update in contenders.baselines(op, m).values():
        truth.check_baseline(update)


@pytest.mark.parametrize("space", [False, True])
def test_a_wrong_result_is_refused(space):
    truth, _ = oracle("step", space=space)

    def wrong(x, v, noise):
        """Every float32 result is off by a hundred roundings."""
        return truth.call(x, v, noise) * (1 + 1e-5)

    def one_normal(x, v, noise):
        """Drawn noise of another draw in a single element."""
        out = truth.call(x, v, noise)
        if isinstance(noise, tdas_ops.NoiseStream):
            out[0, 0, 0, 0] += 1e-3
        return out

    with pytest.raises(ParityError, match="deterministic part"):
        truth.check(wrong)
    with pytest.raises(ParityError, match="drawn noise"):
        truth.check(one_normal)


def test_what_fails_its_check_is_never_timed():
    calls = []

    def refuse() -> None:
        raise ParityError("wrong")

    with pytest.raises(ParityError, match=r"^slip: wrong$"):
        measure.interleaved({"slip": measure.Contender(lambda: calls.append(1), 0, check=refuse)}, seconds=0.001)
    assert calls == []


def test_contenders_take_turns():
    calls: list[str] = []
    each = {name: measure.Contender(lambda name=name: calls.append(name), 0) for name in "ab"}
    samples = measure.interleaved(each, seconds=1e-9)
    assert len(samples["a"]) == len(samples["b"]) >= 5
    turns = "".join(calls)[4:].replace("aa", "a").replace("bb", "b")  # after the warm-up
    assert set(turns.split("ab")) == {""}


def row(name: str, nanoseconds: float, **more: object) -> report.Row:
    labels = {"bench": "update", "op": "step", "method": "pds", "masks": "both", "size": "LSUN", "score": "float32"}
    spread = [nanoseconds * 0.9, nanoseconds, nanoseconds * 1.1]
    figures = {"microseconds": nanoseconds, "ns_per_element": spread, "gb_per_s": 1.0, "share_of_copy": 0.25}
    return {**labels, "shape": [8, 3, 256, 256], "name": name, **figures, "ratios": {}, **more}


def test_report_renders_what_was_measured(tmp_path):
    rows = [row("cpp", 2.0, ratios={"best torch": 3.0, "published": 12.5}), row("best torch", 6.0)]
    rows.append({key: rows[0][key] for key in rows[0] if key in ("bench", "op", "method", "masks", "size", "score")})
    rows[-1] |= {"name": "compiled torch", "shape": [8, 3, 256, 256], "obstacle": "no compiler here"}
    memory = {"bench": "memory", "masks": "both", "size": "LSUN", "shape": [8, 3, 256, 256], "name": "cpp"}
    rows.append({**memory, "bytes_beside": 3 << 20, "states_beside": 0.5})
    about = {"cpu": "a CPU", "cores": 2, "copy_gb_per_s": 9.5, "torch": "2", "python": "3", "compiler": "g++"}
    about |= {"commit": "abc", "dirty": True, "date": "2000-01-01", "paths": {"step": "cpp"}}
    report.write("avx512", about, rows, tmp_path)
    results = report.read(tmp_path)
    assert results == {"avx512": {"circumstances": about, "rows": rows}}
    text = report.render(results)
    assert "do not edit" in text and "commit abc with local changes" in text
    assert "| LSUN | 8x3x256x256 | pds | both | float32 | 2.00 | 6.00 | (1) | 25% | 3.00 | 12.5 |" in text
    assert "(1) no compiler here" in text and "| LSUN | 8x3x256x256 | both | cpp | 3.15 | 0.50 |" in text
    assert "no compiler here" in report.listing("a name", rows)
    counts = {"nvcc 1": {"instructions": {"pds 32x32": {"total": 53.26}, "tdas 64x64, snr rule": {"total": 57.4}}}}
    text = performance.render(results, [Path("plot.svg")], counts)
    assert "| avx512, frequency and space mask | 12.5 / 3.00 |" in text and "](plot.svg)" in text
    assert "| 32 x 32 | 53.3 | - | - |" in text and "launch | - | 57.4 | - |" in text and "issue 83 in" in text
    pytest.importorskip("matplotlib")
    drawn = []
    for name in ("one.svg", "two.svg"):
        performance.plot("avx512", results["avx512"], tmp_path / name)
        drawn.append((tmp_path / name).read_text())
    assert drawn[0] == drawn[1] and ">3.00×</text>" in drawn[0]  # a text and no outlines of letters


def test_the_page_of_performance_is_that_of_the_files():
    if not performance.FOLDER.is_dir() or not (results := performance.read()):
        pytest.skip("the rows are not part of the source package")
    assert performance.PAGE.read_text() == performance.current(), "python -m benchmarks.performance makes it anew"
    assert all(path.is_file() for path in performance.plots_of(results).values())


def test_a_plot_is_slim_and_the_same_drawing():
    pytest.importorskip("matplotlib")
    figure, axes = page.figure(2, (2, 2), rows=2)
    assert len(axes) == 4
    for axis in axes:
        axis.plot([1, 10, 100], [1, 2, 3], "o-", label="a line")
        axis.set(xscale="log", title="two & three")
    plain = io.StringIO()
    figure.savefig(plain, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = page._slim(plain.getvalue())
    slim, whole = (ElementTree.fromstring(each) for each in (text, plain.getvalue()))
    drawn = lambda root, tag: [each for each in root.iter() if each.tag.endswith(f"}}{tag}")]
    for tag in ("use", "text", "path", "clipPath"):
        assert len(drawn(slim, tag)) == len(drawn(whole, tag)) > 0
    assert [each.text for each in drawn(slim, "text")].count("two & three") == 4
    assert len(drawn(slim, "g")) < 0.3 * len(drawn(whole, "g")) and len(text) < 0.6 * len(plain.getvalue())
    ids = {each.get("id") for each in slim.iter()} - {None}
    classes = set(re.findall(r"\.(\w+)\{", next(slim.iter(f"{{{page.SVG}}}style")).text))
    assert {name for each in slim.iter() if (name := each.get("class"))} == classes
    assert {found for each in slim.iter() for v in each.attrib.values() for found in re.findall(r"#(i\d+)", v)} == ids


def test_rows_survive_what_ends_a_process(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert rows.read(path) == []
    rows.append(path, rows.rounded({"a": 1, "b": [0.123456789, math.inf], "c": (2.0,)}))
    path.write_text(path.read_text() + '{"a": 2, "b')
    assert rows.read(path) == [{"a": 1, "b": [0.123457, None], "c": [2.0]}]
    rows.append(path, {"a": 4})
    rows.pack(path)
    rows.append(path, {"a": 3})
    rows.append(path, {"a": 3})
    assert [row["a"] for row in rows.read(path)] == [1, 4, 3, 3] and rows.select(rows.read(path), a=1, c=[2.0])
    rows.pack(path)
    assert [row["a"] for row in rows.read(path)] == [1, 4, 3] and not path.exists()


def test_nothing_measured_is_said():
    assert "No result files yet" in report.render({})


@pytest.mark.parametrize("base", ["no-such-ref", ""])
def test_comparison_with_an_unknown_commit_is_one_sentence(base):
    worktrees = lambda: [line.split()[0] for line in run("git", "worktree", "list").stdout.splitlines()]
    before = worktrees()
    done = run(sys.executable, "-m", "benchmarks.run", "--base", base)
    assert done.returncode == 1
    assert done.stderr == f"bench-compare: got BASE={base!r}, expected a branch, tag or commit of this repository.\n"
    assert worktrees() == before


def test_a_selection_is_measured_and_not_kept():
    before = {path.name: path.stat().st_mtime_ns for path in report.FOLDER.iterdir()}
    command = (sys.executable, "-m", "benchmarks.run", "-k", "update step pds both LSUN or floor and LSUN")
    done = run(*command, TDAS_OPS_BENCH_TINY="1")
    assert done.returncode == 0, done.stderr
    for words in ("update step pds both LSUN\n", "floor LSUN\n", "published / this", "left out of tiny runs"):
        assert words in done.stdout
    assert before == {path.name: path.stat().st_mtime_ns for path in report.FOLDER.iterdir()}


def test_every_group_has_a_name_of_its_own():
    names = [name for name, _ in bench.chosen("")]
    assert len(names) == len(set(names)) > 100
    main = {name for name, _ in bench.chosen(bench.MAIN_TABLE)}
    assert {name.split()[0] for name in main} == {"update", "corrector"}
    assert not any("langevin" in name or "tdas" in name for name in main)
    with pytest.raises(SystemExit, match="got 'no such words'"):
        bench.run("no such words")


def test_a_run_with_a_wrong_result_keeps_nothing(monkeypatch):
    truth, _ = oracle("step")
    wrong = measure.Contender(lambda: 0, 0, check=lambda: truth.check(lambda x, v, noise: 2 * truth.call(x, v, noise)))
    groups = lambda: [("a group", lambda: measure.Group({}, 1, {"slip": wrong}))]
    monkeypatch.setattr(bench, "MODULES", (SimpleNamespace(groups=groups),))
    kept: list[object] = []
    monkeypatch.setattr(report, "write", lambda *rows: kept.append(rows))
    monkeypatch.setattr(sys, "argv", ["run"])
    with pytest.raises(SystemExit, match=r"benchmarks: a group: slip: deterministic part: .*; nothing is kept"):
        bench.main()
    assert not kept
