"""The site: its navigation has every page, the API every public name, troubleshooting messages that exist, and tables
the figures of the results that they name."""

from __future__ import annotations

import ast
import importlib.util
import re
import types
from pathlib import Path

import pytest

import tdas_ops
from tdas_ops import integrations

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NAV = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
PAGES = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
DIRECTIVE = re.compile(r"^::: (tdas_ops[\w.]*)$", re.MULTILINE)


def test_the_navigation_has_every_page_once() -> None:
    named = re.findall(r"(\S+\.md)$", NAV, re.MULTILINE)
    assert len(named) == len(set(named))
    beside = {name for name in named if name not in PAGES}
    assert beside == {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
    assert all((ROOT / name).is_file() for name in beside)
    assert set(named) - beside == PAGES


def promised(module: types.ModuleType) -> set[str]:
    """Dotted names of the `__all__` of a module and of the public modules in it; of those without one, and of doors to
    libraries that may be missing here, what they define."""
    names = set()
    if module is integrations or not hasattr(module, "__all__"):
        file = Path(str(module.__file__))
        for path in [file] if module is not integrations else file.parent.glob("[a-z]*.py"):
            own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            nodes = [
                node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
            ]
            names |= {f"{own}.{node.name}" for node in nodes if not node.name.startswith("_")}
        return names - {f"tdas_ops.integrations.score_sde_ve.{name}" for name in ("shape_of", "drawn")}
    for name in module.__all__:
        value = getattr(module, name)
        names |= promised(value) if isinstance(value, types.ModuleType) else {f"{module.__name__}.{name}"}
    return names - {"tdas_ops.__version__"}


def test_the_api_has_every_public_name() -> None:
    """That the names it has exist is for the build, which is strict."""
    shown = [name for path in sorted((DOCS / "api").glob("*.md")) for name in DIRECTIVE.findall(path.read_text())]
    assert len(shown) == len(set(shown))
    # A function that has the name of its module is shown by where it is defined.
    shown += [re.sub(r"\.ops(\.noise)$|(\.\w+)\2$", r"\1\2", name) for name in shown]
    public = promised(tdas_ops)
    assert len(public) > 60 and public - set(shown) == set()


def template(node: ast.expr) -> str:
    """A message as the source has it, an ellipsis for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return "…"


def templates() -> list[str]:
    """Every text of the sources of the package."""
    made = re.findall(r'"(make: .*)', (ROOT / "Makefile").read_text().replace("$(PYTHON)", "…").replace("$(PY)", "…"))
    for path in [ROOT / "setup.py", *(ROOT / "tdas_ops").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        made += [template(n) for n in ast.walk(tree) if isinstance(n, ast.Constant | ast.JoinedStr | ast.BinOp)]
    return [text for text in made if " " in text]


def in_source(message: str, sources: list[str]) -> bool:
    """Whether one text of the sources has the parts of a message between its ellipses, in their order."""
    parts = [part for part in message.split("…") if part.strip(" :,()")]
    pattern = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
    return any(pattern.search(text) for text in sources)


def quoted() -> list[str]:
    rows = re.findall(r"^\| `(.+?)` \| .+ \|$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    return [row for row in rows if row != "message"]


def test_the_messages_exist() -> None:
    sources = templates()
    assert len(quoted()) > 60
    assert [message for message in quoted() if not in_source(message, sources)] == []
    assert not in_source("x: got …, expected something that no source says", sources)
    assert not in_source("expected float32 … x: got", ["x: got …, expected float32"])


def test_every_warning_is_explained() -> None:
    """What is given to `warnings.warn`, and the reasons of the one that has many."""
    page, warned = (DOCS / "troubleshooting.md").read_text(), []
    for path in (ROOT / "tdas_ops").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("warnings.warn", "warn", "_without_triton"):
                warned.append(template(node.args[0]))
            elif isinstance(node, ast.Constant | ast.JoinedStr) and path.name in ("_extension.py", "_backends.py"):
                text = template(node)
                warned += [text.split("…")[0]] if re.match(r"tdas_ops(\._C)? \w+ ", text) else []
    texts = {text for text in warned if text.strip("…")}
    assert len(texts) >= 10
    for text in texts:
        assert all(part.split(":")[0] in page for part in text.split("…") if len(part) > 12), text


NETWORKS = ("ncsnpp", "ddpmpp", "ncsnv2", "embedded")
ROWS = {  # of which_method.md by what they take, and of the results
    "`calibrate.tune`": "tuned",
    "`Mixture`": "2M, mixture, level by rule",
    '`basis="mean"`': "2M, mean image, level by rule",
    "`samplers.ancestral`": "ancestral",
    "`samplers.dpmpp`": "DPM-Solver++ 2M",
}


def test_the_figures_are_those_of_the_results() -> None:
    results = (ROOT / "experiments/few_step/RESULTS.md").read_text()
    page = " ".join((DOCS / "which_method.md").read_text().split())
    sections = [results.split(f"## digits-{name}\n")[1].split("\n## ")[0] for name in NETWORKS]
    native = [re.search(r"sampling, (\d+) evaluations: ([\d.]+)", section) for section in sections]
    first, *others, last = [f"{found[2]} with {int(found[1]):,}" for found in native if found]
    assert f"Native sampling has {', '.join([first, *others])} and {last} evaluations" in page

    def at_five(method: str) -> list[str]:
        found = []
        for section in sections:
            table = section.split("Frechet distance of features:\n\n")[1].split("\n\n")[0]
            rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.splitlines()]
            found.append({row[0]: row for row in rows}[method][rows[0].index("5")])
        return found

    for taken, method in ROWS.items():
        assert re.search(rf"\| [^|]*{re.escape(taken)}[^|]* \| {re.escape(', '.join(at_five(method)))} \|", page), taken
    for method in ("2M from white noise", "2M, noised examples, level of the mixture"):
        *rest, last = at_five(method)
        assert f"{', '.join(rest)} and {last}" in page, method


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_no_page_begins_with_a_badge(name: str) -> None:
    assert "shields.io" not in (ROOT / name).read_text()


def test_links_lead_to_where_the_site_has_the_files() -> None:
    """And what a page would load from elsewhere is found."""
    pytest.importorskip("mkdocs", reason="mkdocs is missing; `make docs` installs it")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    file = types.SimpleNamespace(abs_src_path=DOCS / "integrations/edm.md", src_uri="integrations/edm.md")
    page = types.SimpleNamespace(file=file)
    text = "<!-- setup\nx\n-->\n[a](../../examples/with_edm.py) [b](../samplers.md#noise-levels) [c](../../README.md)"
    text += ' `[d](../../x)` [e](https://x.org) [f](../../experiments) <img src="../demo.png">'
    expected = "[a](../examples/with_edm.py) [b](../samplers.md#noise-levels) [c](../index.md)"
    expected += ' `[d](../../x)` [e](https://x.org) [f](../experiments/README.md) <img src="../demo.png">'
    assert hooks.on_page_markdown(text, page, None, None) == expected
    listed = Path("csrc", "README.md").as_posix()  # of a folder that has none
    assert hooks._target("docs/design.md", "../csrc") == listed and "[fft.h](fft.h)" in hooks._text(listed)
    assert hooks._links("docs/integrations/edm.md")[1:] == ["examples/with_edm.py", "docs/samplers.md"]
    assert hooks.ELSEWHERE.search('<script async src="https://cdn.org/x.js">')
    assert not hooks.ELSEWHERE.search('<a href="https://x.org"><script src="../x.js">')
