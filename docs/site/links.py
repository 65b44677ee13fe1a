"""Where the files of the repository stand in the site, and the links between them.

A page is written for readers of the repository: its links are relative to its own file. In the site some files have
another place, and what is no page of it is not linked.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "docs/README.md": "index.md",
    "examples": "examples/index.md",
    "examples/README.md": "examples/index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that lie elsewhere in the repository than in the site."""
AS_FILES = (".json", ".cff", ".yaml", ".svg", ".png")
"""What is copied into the site where a page links to it."""

CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.S | re.M)
LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\((?P<target>[^)\s]+)\)")


def links(markdown: str) -> Iterator[str]:
    """The targets of all links and pictures of a page, those in code left out."""
    yield from (match["target"] for match in _found(markdown))


def _found(markdown: str) -> Iterator[re.Match]:
    code = [match.span() for match in CODE.finditer(markdown)]
    for match in LINK.finditer(markdown):
        if not any(begin <= match.start() < end for begin, end in code):
            yield match


def is_outward(target: str) -> bool:
    """Whether a link leads to another site."""
    return "://" in target or target.startswith("mailto:")


def repository_path(page: str, target: str) -> tuple[str, str]:
    """What a link leads to: a path in the repository, and the anchor on it, which may be empty.

    Args:
        page: the page's own path in the repository.
    """
    path, _, anchor = target.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page, anchor


def site_path(path: str) -> str | None:
    """The place in the site of a file of the repository; None where it is not in it."""
    if path in PAGES:
        return PAGES[path]
    if re.fullmatch(r"examples/\w+\.py", path):
        return path.removesuffix(".py") + ".md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"files/{path}" if path.endswith(AS_FILES) else None


def for_site(markdown: str, page: str, own: str) -> str:
    """The same page with the links that it has in the site.

    Args:
        page: its path in the repository.
        own: its path in the site.
    """

    def placed(match: re.Match) -> str:
        if is_outward(match["target"]):
            return match[0]
        path, anchor = repository_path(page, match["target"])
        if not (ROOT / path).exists():
            return match[0]  # mkdocs says so
        place = site_path(path)
        if place is None:
            return match["text"].strip("[]")
        relative = posixpath.relpath(place, posixpath.dirname(own) or ".")
        return f"{match['text']}({'' if place == own and anchor else relative}{'#' * bool(anchor)}{anchor})"

    done, end = [], 0
    for match in _found(markdown):
        done += [markdown[end : match.start()], placed(match)]
        end = match.end()
    return "".join([*done, markdown[end:]])
