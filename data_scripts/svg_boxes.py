"""Boxes, arrows and lines of text as SVG: what the pictures of docs/ that are drawn by rules are made of."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

SANS, MONO = "Helvetica, Arial, sans-serif", "Menlo, Consolas, monospace"
LINE = 17
"""Pixels from one line of text to the next."""


def text(x: float, y: float, words: str, size: int = 13, mono: bool = False, bold: bool = False) -> str:
    """One line of text; y is its baseline."""
    family, weight = MONO if mono else SANS, ' font-weight="bold"' * bold
    return (
        f'<text x="{x:g}" y="{y:g}" font-family="{family}" font-size="{size}" fill="#1f2430" '
        f'text-anchor="middle"{weight}>{escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, fill: str = "#eef1f8", stroke: str = "#8390b5") -> str:
    """A rectangle with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="{fill}" stroke="{stroke}"/>'


def arrow(x0: float, y0: float, x1: float, y1: float, colour: str = "#5a6480", faint: bool = False) -> str:
    """A line that ends in a head."""
    opacity = ' opacity="0.55"' * faint
    return (
        f'<path d="M{x0:g} {y0:g} L{x1:g} {y1:g}" stroke="{colour}" fill="none" stroke-width="1.4" '
        f'marker-end="url(#head)"{opacity}/>'
    )


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A whole file, on white."""
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="#5a6480"/></marker></defs>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}" role="img">',
            f"<title>{escape(title)}</title>",
            head,
            f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def wrapped(words: str, width: int) -> list[str]:
    """Words in lines of at most so many characters; a word that is longer has a line of its own."""
    lines: list[str] = []
    for word in words.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
