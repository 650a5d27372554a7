"""Every relative link of a page leads to a file and a heading of it; every path and module that is named is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = "benchmarks|csrc|docs|examples|experiments|tdas_ops|tests"
MADE = ("tdas_ops/_C", "tdas_ops/_build.json")  # by a build
TEXTS = {".md", ".py", ".h", ".cpp", ".cu", ".cuh", ".sh", ".txt", ""}
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def tracked() -> list[Path]:
    """The files of the repository; an archive without one has no results, to which pages link."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no clone of the repository")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def anchors(page: str) -> set[str]:
    """Those of the headings, as GitHub names them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", FENCE.sub("", page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found) | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page))


def broken_links(file: Path, page: str) -> list[str]:
    text = re.sub(r"`[^`\n]*`(?!\])", "", FENCE.sub("", page))
    links = re.findall(r"\]\(<?([^\s)>]+)>?(?: +\"[^\"]*\")?\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    links += re.findall(r"^\[[^]]+\]: +(\S+)", text, re.MULTILINE)
    broken = []
    for link in links:
        path, _, anchor = unquote(link).partition("#")
        target = file.parent / path if path else file
        if re.match(r"[a-z]+:", link):
            continue
        if (path and not target.exists()) or (anchor and anchor not in anchors(target.read_text() if path else page)):
            broken.append(link)
    return broken


def missing_names(text: str) -> list[str]:
    """Paths below the folders of the repository and modules after `python -m` that are not there; what is taken from an
    older commit is left out."""
    text = re.sub(r"git (?:archive|show) [^|\n]*", "", text)
    paths = re.findall(rf"(?<![\w/.*-])(?:{FOLDERS})/[\w./*-]*[\w*/]", text)
    modules = re.findall(r"python3? -m ((?:benchmarks|experiments|tests|tdas_ops)[\w.]*\w)", text)
    files = [module.replace(".", "/") for module in modules]
    found = [name for name in paths if not any(ROOT.glob(name.rstrip("*") + "*")) and not name.startswith(MADE)]
    return found + [f for f in files if not (ROOT / f"{f}.py").exists() and not (ROOT / f / "__main__.py").exists()]


def test_every_link_leads_somewhere():
    pages = [path for path in tracked() if path.suffix == ".md"]
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {path.name for path in pages} and len(pages) > 8
    broken = {path.relative_to(ROOT).as_posix(): broken_links(path, path.read_text()) for path in pages}
    assert {name: links for name, links in broken.items() if links} == {}


def test_every_file_that_is_named_is_there():
    """In pages, comments and docstrings, commands; a history names what was."""
    texts = [
        path for path in tracked() if path.suffix in TEXTS and path.name not in ("CHANGELOG.md", Path(__file__).name)
    ]
    missing = {path.relative_to(ROOT).as_posix(): missing_names(path.read_text()) for path in texts}
    assert {name: names for name, names in missing.items() if names} == {}


def test_every_picture_is_shown():
    """Bytes that no page shows are not kept."""
    files = tracked()
    shown = {
        (page.parent / link).resolve()
        for page in files
        if page.suffix == ".md"
        for link in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", page.read_text())
    }
    pictures = [path for path in files if path.suffix in (".png", ".svg", ".webp")]
    assert len(pictures) > 20 and [path.name for path in pictures if path.resolve() not in shown] == []


def test_what_leads_nowhere_is_found(tmp_path: Path):
    (tmp_path / "a.md").write_text("# One heading\n## `code`, and *more*: x_y\n## Twice\n## Twice\n```\n# none\n```\n")
    page = "[a](a.md#one-heading) [b](a.md#code-and-more-x_y) [c](a.md#twice-1) ![p](.) [m](#here) <https://x.org/a>"
    page += " [w](https://x.org/a)\n# Here"
    assert broken_links(tmp_path / "b.md", page) == []
    wrong = '[a](no.md) ![b](no.png) [c](a.md#none) [d](a.md#twice-2) [e](#there) <img src="no.svg">'
    assert broken_links(tmp_path / "b.md", wrong) == [
        "no.md",
        "no.png",
        "a.md#none",
        "a.md#twice-2",
        "#there",
        "no.svg",
    ]
    assert missing_names("tests/unit, docs/*.md, `python -m benchmarks.run`, build/docs/none, git show 1a:docs/o") == []
    assert missing_names("tests/none.py `python -m benchmarks.none`") == ["tests/none.py", "benchmarks/none"]
