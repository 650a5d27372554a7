"""The blocks of code of pages and docstrings, and whether a command is one that its program would take."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer
from typer.main import get_command

from tdas_ops import cli

ROOT = Path(__file__).parents[2]
LANGUAGES = ("python", "sh", "text", "")  # of fences; what has none is read as text
FENCE = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->"
    r"|^(?:<!-- not run: (?P<reason>[^\n]+?) -->\s*\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
# Programs of others whose lines are read by people alone.
OTHERS = (
    *("accelerate", "apt", "apt-get", "cd", "cp", "docker", "dpkg-deb", "git", "ls", "mkdir", "mv", "ninja", "npm"),
    *("pip", "rm", "sbatch", "srun", "tar", "twine", "uv", "wget", "curl", "export", "set", "source", "nvidia-smi"),
)


COMMANDS = get_command(cli.app)


class Block(NamedTuple):
    """Code of a text: `language` is "setup" for a comment that prepares names for what is shown after it; `line` is
    that of the text before its first line; `reason`: why it is not run, or None."""

    language: str
    code: str
    line: int
    reason: str | None


def blocks(text: str) -> list[Block]:
    made = []
    for match in FENCE.finditer(text):
        group = "code" if match["setup"] is None else "setup"
        code = re.sub(rf"^{match['indent'] or ''}", "", match[group], flags=re.MULTILINE)
        language = "setup" if group == "setup" else match["language"]
        made.append(Block(language, code, text.count("\n", 0, match.start(group)), match["reason"]))
    return made


def snippet(block: Block) -> str | None:
    """The file that the site shows in the place of a block."""
    match = re.fullmatch(r"--8<--\n(\S+)\n--8<--\s*", block.code)
    return match[1] if match else None


def docstrings(path: Path) -> Iterator[tuple[str, str, int]]:
    """Name, text and first line of the docstrings of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", path.stem), text, node.body[0].lineno - 1


def lines(code: str) -> list[str]:
    """The commands of a block: continued lines are one, comments none."""
    joined = re.sub(r"\\\n\s*", " ", code)
    return [line for line in map(str.strip, joined.splitlines()) if line and not line.startswith("#")]


def refused(line: str, strict: bool = True) -> str | None:
    """Why a line of a shell would not be taken, or None; strict: programs that are not known are refused too."""
    split = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
    split.whitespace_split, split.commenters = True, "#"
    commands: list[list[str]] = [[]]
    for word in split:
        if set(word) <= set("<>&") and word != "&&":  # where output goes is not the program's
            next(split, None)
        elif set(word) <= set(";&|()"):
            commands.append([])
        else:
            commands[-1].append(word)
    for words in commands:
        while words and re.match(r"[A-Za-z_]\w*=", words[0]):
            words = words[1:]
        reason = _refused(words, strict) if words else None
        if reason:
            return f"{line}: {reason}"
    return None


def _refused(words: list[str], strict: bool) -> str | None:
    program, *rest = words
    if program == "torchrun" and "-m" in rest:
        rest = rest[rest.index("-m") :]
        program = "python"
    if program == "tdas-ops":
        return _parsed(rest)
    if program == "make":
        return _made(rest)
    if re.fullmatch(r"(?:\S*/)?python[\d.]*", program):
        if rest[:1] != ["-m"]:
            return None if not rest or rest[0] == "-c" else _file(rest[0])
        module = rest[1]
        if module == "tdas_ops":
            return _parsed(rest[2:])
        if module.split(".")[0] in ("benchmarks", "experiments", "tdas_ops", "tests"):
            path = ROOT / module.replace(".", "/")
            there = path.with_suffix(".py").exists() or (path / "__main__.py").exists()
            return None if there else f"there is no module {module}"
        return None
    if program in ("torchrun", "pytest"):
        return next((reason for word in rest if "/" in word and word.endswith(".py") and (reason := _file(word))), None)
    if "/" in program:
        return _file(program)
    return None if program in OTHERS or not strict else f"{program} is not a program that is known"


def _file(name: str) -> str | None:
    ours = name.endswith((".py", ".sh")) and not name.startswith("/")
    return f"{name} is no file" if ours and not (ROOT / name).is_file() else None


def _made(words: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        variable = re.match(r"(\w+)=", word)
        if variable and not re.search(rf"\b{variable[1]}\b", makefile):
            return f"the Makefile knows no {variable[1]}"
        if not variable and not word.startswith("-") and not re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE):
            return f"the Makefile has no target {word}"
    return None


def _parsed(words: list[str]) -> str | None:
    """What the command line says of these arguments before it does anything."""
    group = COMMANDS
    if not words or words[0].startswith("-"):
        return None if words in ([], ["--help"]) else f"there is no option {words[0]}"
    command = group.commands.get(words[0])  # type: ignore[attr-defined]
    if command is None:
        return f"there is no command {words[0]}"
    if "--help" in words:
        return None
    try:
        with command.make_context(words[0], words[1:], parent=typer.Context(group)):
            return None
    except Exception as error:
        return str(getattr(error, "message", error))
