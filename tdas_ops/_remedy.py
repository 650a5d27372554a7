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


def source_tree() -> Path | None:
    """The source tree that this copy is imported from, or None where it is an installed one."""
    root = PACKAGE.parent
    return root if (root / "setup.py").is_file() and (root / "csrc").is_dir() else None


def installed_copy() -> Path | None:
    """The package folder of another copy that Python would find if it did not find this one first."""
    for entry in sys.path:
        folder = os.path.realpath(os.path.join(entry, PACKAGE.name))
        if folder != str(PACKAGE) and os.path.isfile(os.path.join(folder, "__init__.py")):
            return Path(folder)
    return None


def same_sources(other: Path) -> bool:
    """Whether another copy has every Python file of this one, byte for byte."""
    try:
        return all((other / f.relative_to(PACKAGE)).read_bytes() == f.read_bytes() for f in PACKAGE.rglob("*.py"))
    except OSError:
        return False


def install(*arguments: str) -> str:
    """The command that installs packages into this Python's environment, pip's or uv's."""
    quoted = [f'"{argument}"' if ">" in argument else quote(argument) for argument in arguments]
    return " ".join((_program(), *quoted))


def reinstall() -> str:
    """The command that builds this copy anew, for the Python that is there."""
    root = source_tree()
    target = _origin() if root is None else ("-e", str(root))
    # What was built before is in caches, and where the version is the same nothing would be installed.
    if _installer() == "uv":
        options = "--reinstall-package tdas-ops --no-cache"
    else:
        options = "--force-reinstall --no-deps --no-cache-dir" if root is None else ""
    command = install(*options.split(), *target)
    return f"{command} # in the source tree" if target == (".",) else command


def compiler_missing() -> bool:
    """Whether the C++ compiler that a build takes is not found."""
    return shutil.which(os.environ.get("CXX", "c++").split()[0]) is None


def _program() -> str:
    """The command without its arguments, such that it is this Python that gets the packages."""
    folder = os.path.dirname(sys.executable)
    if _installer() == "uv":
        active = os.path.realpath(os.environ.get("VIRTUAL_ENV", "")) == os.path.realpath(sys.prefix)
        return "uv pip install" if active else f"uv pip install --python {quote(sys.executable)}"
    active = shutil.which("pip") == os.path.join(folder, "pip")
    return "pip install" if active else f"{quote(sys.executable)} -m pip install"


def _installer() -> str:
    """What installed this package, else what made the environment: "pip" or "uv"."""
    for distribution in importlib.metadata.distributions(name="tdas-ops"):
        if (installer := (distribution.read_text("INSTALLER") or "").strip()) in ("pip", "uv"):
            return installer
        break  # any further one is hidden behind the first
    try:
        made_by_uv = re.search("^uv = ", Path(sys.prefix, "pyvenv.cfg").read_text(), re.MULTILINE)
    except OSError:
        return "pip"
    return "uv" if made_by_uv else "pip"


def _origin() -> tuple[str]:
    """What pip was given when it installed this copy, where that is still there, else "."."""
    for distribution in importlib.metadata.distributions(name="tdas-ops"):
        if Path(str(distribution.locate_file(PACKAGE.name))).resolve() == PACKAGE:
            origin = json.loads(distribution.read_text("direct_url.json") or "{}")
            folder = url2pathname(urlsplit(origin.get("url", "")).path)
            if "vcs_info" in origin:
                return (f"{origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}",)
            if "dir_info" in origin and os.path.isdir(folder):
                return (folder,)
    return (".",)
