"""An SVG file as XML: its tree, and what stands around its outermost element.

Documents that declare entities are refused (defusedxml), whatever the entities hold.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Comment, Element, ParseError, ProcessingInstruction, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from pds_nerfstudio.errors import UserError

SVG = "http://www.w3.org/2000/svg"
MOST_BYTES = 10_000_000


@dataclass(frozen=True, eq=False)
class Document:
    """A file's content, which an edit never changes."""

    root: Element
    prefixes: dict[str, str]
    """Namespace prefixes that the file declares."""
    doctype: str
    """Its document type declaration; empty for none."""
    before: tuple[Element, ...]
    """Comments and processing instructions that precede the outermost element, and those that follow it."""
    after: tuple[Element, ...]


def read_document(path: Path) -> Document:
    """Read an SVG file's XML.

    Raises:
        UserError: it is missing, too large, no SVG, or declares entities.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: give an SVG file.")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} has more than {MOST_BYTES // 1_000_000} MB: simplify the drawing first.")
    content = path.read_bytes()
    builder = _Builder(insert_comments=True, insert_pis=True)
    parser = DefusedXMLParser(target=builder)
    try:
        parser.feed(content)
        root = parser.close()
    except DefusedXmlException:
        raise UserError(
            f"{path} declares XML entities or an external document type, which are refused because they can be used to "
            "exhaust memory or read files: save it again as a plain SVG."
        ) from None
    except (ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path} cannot be read as XML ({error}): save it again as a plain SVG.") from None
    if root.tag != f"{{{SVG}}}svg":
        raise UserError(f"{path} is no SVG: its outermost element is {str(root.tag).rpartition('}')[2]!r}, not svg.")
    text = content.decode("utf-8", errors="ignore")
    prefixes = dict(re.findall(r"xmlns:([\w-]+)\s*=\s*[\"']([^\"']*)[\"']", text))
    return Document(root, prefixes, builder.declared, tuple(builder.before), tuple(builder.after))


class _Builder(TreeBuilder):
    """A tree's builder that keeps what stands before and after the outermost element too."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.declared, self.before, self.after = "", [], []
        self.level, self.place = 0, self.before

    def start(self, tag: Any, attrs: Any) -> Element:
        self.level, self.place = self.level + 1, self.after
        return super().start(tag, attrs)

    def end(self, tag: Any) -> Element:
        self.level -= 1
        return super().end(tag)

    def comment(self, text: str | None) -> Element:
        if not self.level:
            self.place.append(Comment(text))
        return super().comment(text)

    def pi(self, target: str, text: str | None = None) -> Element:
        if not self.level:
            self.place.append(ProcessingInstruction(target, text))
        return super().pi(target, text)

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """What the parser calls; of a declaration that declares entities it never does."""
        words = [f'PUBLIC "{public}"', f'"{system}"'] if public else [f'SYSTEM "{system}"'] if system else []
        self.declared = f"<!DOCTYPE {' '.join([name, *words])}>"
