"""Every block of Python of the README, the docs and the docstrings runs as it is printed, and every command is one that
its program takes. Blocks of a page share their names; a comment `<!-- setup ... -->` makes names that readers have of
their own, and `<!-- not run: reason -->` before a block says why it is shown alone."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from documents import LANGUAGES, ROOT, Block, blocks, docstrings, lines, refused, snippet

import tdas_ops

LIBRARIES = ("azula", "deepinv", "diffusers", "k_diffusion")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
MODULES = sorted((ROOT / "tdas_ops").rglob("*.py"))
TEXTS = [(path.relative_to(ROOT).as_posix(), path.read_text()) for path in PAGES if path.exists()]
DOCSTRINGS = {
    f"{path.relative_to(ROOT).as_posix()}:{line} {name}": text
    for path in MODULES
    for name, text, line in docstrings(path)
    if "```" in text or ">>>" in text
}


def given() -> dict[str, Any]:
    """What code in a docstring may take as there: data of the reader, small."""
    generator = torch.Generator().manual_seed(1)
    named = ("calibrate", "samplers", "Preconditioner", "NoiseStream", "Spectrum")
    return {
        "torch": torch,
        "tdas_ops": tdas_ops,
        "images": torch.rand(64, 1, 16, 16, generator=generator),
        "held_out": torch.rand(32, 1, 16, 16, generator=generator),
        "shape": (4, 1, 16, 16),
        "score": lambda x, sigma: (0.5 - x) / (1 / 12 + sigma.reshape(-1, 1, 1, 1) ** 2),
        "sde": tdas_ops.sde.VE(0.01, 10.0),
        "noise": tdas_ops.NoiseStream(0),
        **{name: getattr(tdas_ops, name) for name in named},
    }


def run(name: str, parts: list[Block], names: dict[str, Any]) -> None:
    """Runs the Python of a text; an error names the line. A snippet is a file that a test of its own runs."""
    for block in parts:
        if block.language in ("python", "setup") and block.reason is None and snippet(block) is None:
            try:
                exec(compile("\n" * block.line + block.code, name, "exec"), names)
            except ModuleNotFoundError as error:
                if error.name not in LIBRARIES:
                    raise
                pytest.skip(f"{error.name} is missing; `pip install {error.name}` provides it")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code writes into a folder of its own, with the same global numbers every time."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "text"), TEXTS, ids=[name for name, _ in TEXTS])
def test_the_code_of_a_page_runs(name: str, text: str) -> None:
    parts = blocks(text)
    assert {block.language for block in parts} <= {*LANGUAGES, "setup"}, f"expected one of {LANGUAGES}"
    run(name, parts, {})


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_the_code_of_a_docstring_runs(name: str) -> None:
    text, names = DOCSTRINGS[name], given()
    run(name, blocks(text), names)
    unfenced = re.sub(r"^ *```\w*$", "", text, flags=re.MULTILINE)
    example = doctest.DocTestParser().get_doctest(unfenced, names, name, name, 0)
    said: list[str] = []
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(optionflags=options, verbose=False).run(example, out=said.append)
    assert said == []


def test_docstrings_show_code_in_fences() -> None:
    """Code that is only indented would not be run."""
    hidden = {}
    for path in MODULES:
        for name, text, line in docstrings(path):
            text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
            found = re.findall(r"^(?: {4,}|)[\w, ]+ = (?:tdas_ops|calibrate|samplers)\.\w+.*\(.*$", text, re.MULTILINE)
            if found:
                hidden[f"{path.relative_to(ROOT)}:{line} {name}"] = found
    assert hidden == {}


def test_what_is_not_run_says_why_and_snippets_are_tested() -> None:
    scripts = (ROOT / "tests/unit/test_examples.py").read_text() + (ROOT / "tests/unit/test_distributed.py").read_text()
    for name, text in TEXTS:
        for block in blocks(text):
            assert block.reason is None or len(block.reason) > 10, f"{name}:{block.line}"
            if file := snippet(block):
                assert (ROOT / file).is_file(), f"{name}:{block.line} {file}"
                assert Path(file).stem in scripts, f"{file} is run by no test"


COMMAND = re.compile(r"`((?:tdas-ops|make|python -m (?:tdas_ops|experiments|benchmarks))(?: [^`\n]*)?)`")
PARTIAL = re.compile(r"\.\.\.|[|\[]| [A-Z]+\b(?!=)")  # a name in capitals stands for the reader's own


def commands(text: str) -> list[str]:
    """Those of a page: of its shell blocks all, else what is called like a program of ours."""
    found = [line for line in COMMAND.findall(text) if not PARTIAL.search(line)]
    for block in blocks(text):
        if block.language in ("sh", ""):
            found += [line for line in lines(block.code) if block.language or re.match("(tdas-ops|make) ", line)]
    return found


def test_commands_are_taken() -> None:
    wrong = [f"{name}: {reason}" for name, text in TEXTS for line in commands(text) if (reason := refused(line))]
    for path in MODULES:
        for _, text, number in docstrings(path):
            shown = re.findall(r"^ *(tdas-ops (?!sample \|).*)$", text, re.MULTILINE)
            wrong += [f"{path.name}:{number} {reason}" for line in shown if (reason := refused(line))]
    assert wrong == []


NAMED = re.compile(
    r"`(?:tdas_ops\.)?((?:calibrate|samplers|sde|models|Preconditioner|NoiseStream|Spectrum|ColouredNoise)\.\w+)"
)


def test_named_things_exist() -> None:
    """Of the package, and variables of the environment."""
    sources = (ROOT / "setup.py").read_text() + "".join(path.read_text() for path in MODULES)
    for page, text in TEXTS:
        for name in NAMED.findall(text):
            if not name.endswith(".py"):
                of, attribute = name.split(".")
                assert hasattr(getattr(tdas_ops, of), attribute), f"{page}: {name}"
        for name in re.findall(r"`(TDAS_OPS_\w+)", text):
            assert name in sources, f"{page}: {name}"


WRONG = """# A page
<!-- setup
import torch
given = 3
-->

```python
made = given + 1
```

<!-- not run: needs a network -->
```python
import nothing
```

```sh
tdas-ops sample --colour   # no such option
make nothing
```

```python
assert made == 5, "ran"
```
"""


def test_what_is_wrong_is_found() -> None:
    parts = blocks(WRONG)
    assert [b.language for b in parts] == ["setup", "python", "python", "sh", "python"]
    assert parts[2].reason == "needs a network" and parts[0].line == 2
    with pytest.raises(AssertionError, match="ran") as caught:
        run("page.md", parts, {})
    assert caught.traceback[-1].lineno == WRONG.splitlines().index('assert made == 5, "ran"')
    assert all(refused(line) for line in lines(parts[3].code))
    for line in ("unknown thing", "python3.12 -m experiments.none", "tdas-ops paint", "cd x && make none", "sub/no.sh"):
        assert refused(line), line
    for line in ("git clone x && cd x && make test", "tdas-ops info > report.txt", "TDAS_OPS_BUILD=cpu pip install ."):
        assert refused(line) is None
    assert snippet(blocks("```python\n--8<--\nsub/none.py\n--8<--\n```\n")[0]) == "sub/none.py"
