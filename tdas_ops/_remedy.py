"""The command that installs this copy of the package, or a package beside it, in the reader's own environment."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import sys
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit
from urllib.request import url2pathname

PACKAGE = Path(__file__).resolve().parent
_TOOLS = {"setuptools": "setuptools>=77", "ninja": "ninja", "pybind11": "pybind11>=2.13"}  # of a build, pyproject.toml


def source_tree() -> Path | None:
    """The source tree that this copy is imported from, or None where it is an installed one."""
    root = PACKAGE.parent
    return root if (root / "setup.py").is_file() and (root / "csrc").is_dir() else None


def installed_copy() -> Path | None:
    """The package folder of another copy that Python would find if it did not find this one first."""
    for entry in sys.path:
        folder = Path(entry, PACKAGE.name).resolve()
        if folder != PACKAGE and (folder / "__init__.py").is_file():
            return folder
    return None


def same_sources(other: Path) -> bool:
    """Whether another copy has every Python file of this one, byte for byte."""
    try:
        return all((other / f.relative_to(PACKAGE)).read_bytes() == f.read_bytes() for f in PACKAGE.rglob("*.py"))
    except OSError:
        return False


def install(*requirements: str) -> str:
    """The command that installs packages, pip's or uv's."""
    return " ".join((_installer(), "install", *(f'"{r}"' if ">" in r else r for r in requirements)))


def reinstall() -> str:
    """The command that builds this copy anew; the extension is built for the torch and the Python that are there."""
    root = source_tree()
    target = _origin() if root is None else f"-e {quote(str(root))}"
    # What was built before is in caches, and where the version is the same nothing would be installed.
    if _installer() == "uv pip":
        options = "--no-build-isolation --reinstall-package tdas-ops --no-cache"
    elif root is None:
        options = "--no-build-isolation --force-reinstall --no-deps --no-cache-dir"
    else:
        options = "--no-build-isolation"
    command = f"{_installer()} install {options} {target}"
    missing = [requirement for tool, requirement in _TOOLS.items() if not _present(tool, requirement)]
    return f"{install(*missing)} && {command}" if missing else command


def compiler_missing() -> bool:
    """Whether the C++ compiler that a build takes is not found."""
    return shutil.which(os.environ.get("CXX", "c++").split()[0]) is None


def _installer() -> str:
    """What installed this package, else what made the environment."""
    for distribution in importlib.metadata.distributions(name="tdas-ops"):
        if (installer := (distribution.read_text("INSTALLER") or "").strip()) in ("pip", "uv"):
            return "pip" if installer == "pip" else "uv pip"
    try:
        made_by_uv = re.search("^uv = ", Path(sys.prefix, "pyvenv.cfg").read_text(), re.MULTILINE)
    except OSError:
        return "pip"
    return "uv pip" if made_by_uv else "pip"


def _present(tool: str, requirement: str) -> bool:
    try:
        major = int(importlib.metadata.version(tool).split(".")[0])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return major >= int(requirement.partition(">=")[2].split(".")[0] or 0)


def _origin() -> str:
    """What pip was given when it installed this copy, where that is still there; else "." and where to type it."""
    for distribution in importlib.metadata.distributions(name="tdas-ops"):
        if Path(str(distribution.locate_file(PACKAGE.name))).resolve() == PACKAGE:
            origin = json.loads(distribution.read_text("direct_url.json") or "{}")
            folder = url2pathname(urlsplit(origin.get("url", "")).path)
            if "vcs_info" in origin:
                return quote(f"{origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}")
            if "dir_info" in origin and os.path.isdir(folder):
                return quote(folder)
    return ". # in the source tree"
