"""What the site (mkdocs.yml) needs beside mkdocs: pages link to files of the repository as they are read there, and the
site takes the files that are linked along; no page of it loads anything from elsewhere."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
LOG = logging.getLogger("mkdocs.hooks")
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")  # of the navigation
CODE = re.compile(r"^( *)(```|~~~).*?^\1\2[^\n]*$|`[^`\n]+`(?!\])", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<before>\]\(<?|^\[[^]\n]+\]: +|\b(?:src|srcset|href)=\")(?P<path>[^\s)>\"#]+)", re.MULTILINE)
COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
LOADED = r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|srcset|href)="
ELSEWHERE = re.compile(LOADED + r"[\"']?(?:https?:)?//[^\s\"'>]*", re.IGNORECASE)


def _repository_path(file: File) -> str:
    if file.abs_src_path is None:  # a page that `_text` makes
        return file.src_uri
    return Path(str(file.abs_src_path)).resolve().relative_to(ROOT).as_posix()


def _target(source: str, link: str) -> str | None:
    """The file of the repository that a link of a page leads to; a folder stands for its README.md, there or not."""
    if re.match(r"[a-z]+:|/", link):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if (ROOT / path).is_dir():
        return posixpath.join(path, "README.md")
    return path if (ROOT / path).is_file() else None


def _text(page: str) -> str:
    """A page; of a folder without one a list of its files."""
    if (ROOT / page).is_file():
        return (ROOT / page).read_text()
    folder = (ROOT / page).parent
    files = sorted(each.name for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    return f"# {folder.name}\n\n" + "".join(f"- [{name}]({name})\n" for name in files)


def _uri(path: str) -> str:
    """Where the site has a file of the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def _outside_code(replace: Any, text: str) -> str:
    """Applies a substitution between the pieces of code of a page."""
    made, end = [], 0
    for code in CODE.finditer(text):
        made += [LINK.sub(replace, text[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*made, LINK.sub(replace, text[end:])])


def _links(page: str) -> list[str]:
    """The files that a page of the repository links to, itself first."""
    found = [page]

    def noted(match: re.Match[str]) -> str:
        found.extend(filter(None, [_target(page, match["path"])]))
        return match[0]

    _outside_code(noted, _text(page))
    return list(dict.fromkeys(found))


def on_files(files: Files, config: Any) -> Files:
    pages = [_repository_path(file) for file in files.documentation_pages()] + list(BESIDE)
    known, there = set(pages), {file.src_uri for file in files}
    for page in pages:  # grows: the pages that are taken along have links too
        for path in _links(page):
            if _uri(path) not in there:
                there.add(_uri(path))
                if (ROOT / path).is_file():
                    file = File(path, str(ROOT), config.site_dir, config.use_directory_urls)
                else:
                    file = File.generated(config, path, content=_text(path))
                file.inclusion = InclusionLevel.NOT_IN_NAV
                files.append(file)
            if path.endswith(".md") and path != "README.md" and path not in known:
                known.add(path)
                pages.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    source, here = _repository_path(page.file), posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        path = _target(source, match["path"])
        if path is None:
            return match[0]
        uri = os.path.relpath(_uri(path), here or ".")
        if match["before"].endswith('"') and uri.endswith(".md"):  # mkdocs leaves HTML as it is
            uri = uri.removesuffix("README.md") + "index.html" if uri.endswith("README.md") else uri[:-2] + "html"
        return match["before"] + uri

    return _outside_code(replaced, COMMENT.sub("", markdown))


def on_post_page(output: str, page: Any, config: Any) -> str:
    for found in ELSEWHERE.findall(output):
        LOG.warning("%s loads something from elsewhere: %s", page.file.src_uri, found)
    return output
