"""Elements as Bézier segments: `path` by svg.path, and the basic shapes, which become paths once they are edited."""

import cmath
import itertools
import math
import re
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from svg.path import Arc, Close, CubicBezier, Line, Move, QuadraticBezier, parse_path

from pds_nerfstudio.vector.attributes import length, number_list

QUARTER = 4 / 3 * (math.sqrt(2) - 1)
"""Handle of the cubic that stands for a quarter of a unit circle; it misses by 0.03 % of the radius."""


@dataclass
class Subpath:
    """Control points as x + iy in user space, and segments as indices into them."""

    points: list[complex]
    segments: list[tuple[int, ...]] = field(default_factory=list)
    closed: bool = False

    def to(self, *points: complex) -> None:
        """Go on by a line (one point), a quadratic (two) or a cubic (three)."""
        first, start = len(self.points), self.segments[-1][-1] if self.segments else 0
        self.points += points
        self.segments.append((start, *range(first, len(self.points))))

    def close(self) -> None:
        """End with a Z; an end that lies on the start becomes the same point, so that an edit keeps them together."""
        self.closed = True
        if self.segments and len(self.segments[-1]) > 1:
            end = self.segments[-1][-1]
            size = max(abs(p - self.points[0]) for p in self.points)
            if end == len(self.points) - 1 and abs(self.points[end] - self.points[0]) <= 1e-6 * size:
                self.points.pop()
                self.segments[-1] = (*self.segments[-1][:-1], 0)


def subpaths_of(element: Element, tag: str, viewport: tuple[float, float]) -> list[Subpath]:
    """The outline of a path or basic shape; nothing where it has no extent.

    Args:
        viewport: width and height that percentages refer to.

    Raises:
        ValueError: its attributes cannot be read.
    """
    across, down = viewport
    diagonal = math.hypot(across, down) / math.sqrt(2)
    horizontal, vertical = ("x", "cx", "rx", "x1", "x2", "width"), ("y", "cy", "ry", "y1", "y2", "height")

    def number(name: str, default: float = 0.0) -> float:
        text = element.get(name, "auto")
        whole = across if name in horizontal else down if name in vertical else diagonal
        return default if text == "auto" else length(text, whole)

    match tag:
        case "path":
            return _path(element.get("d", ""))
        case "rect":
            rx = number("rx", number("ry"))
            return _rectangle(
                complex(number("x"), number("y")), number("width"), number("height"), rx, number("ry", rx)
            )
        case "circle":
            radius = number("r")
            return _ellipse(complex(number("cx"), number("cy")), radius, radius)
        case "ellipse":
            rx = number("rx", number("ry"))
            return _ellipse(complex(number("cx"), number("cy")), rx, number("ry", rx))
        case "line":
            return _polyline([complex(number("x1"), number("y1")), complex(number("x2"), number("y2"))], closed=False)
        case _:
            numbers = number_list(element.get("points", ""))
            corners = [complex(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=False)]
            return _polyline(corners, closed=tag == "polygon")


def _path(text: str) -> list[Subpath]:
    # svg.path passes over characters that it does not know, and fails in many ways on what is cut short.
    if not re.fullmatch(r"[MmZzLlHhVvCcSsQqTtAa\d.,eE+\-\s]*", text):
        raise ValueError("its path data has characters that no path has")
    try:
        parts = list(parse_path(text.strip())) if text.strip() else []
    except Exception:
        raise ValueError("its path data cannot be read") from None
    subpaths: list[Subpath] = []
    for part in parts:
        if isinstance(part, Move):
            subpaths.append(Subpath([part.end]))
            continue
        if not subpaths or subpaths[-1].closed:
            subpaths.append(Subpath([part.start]))
        match part:
            case Close():
                subpaths[-1].close()
            case Line():
                subpaths[-1].to(part.end)
            case QuadraticBezier():
                subpaths[-1].to(part.control, part.end)
            case CubicBezier():
                subpaths[-1].to(part.control1, part.control2, part.end)
            case Arc():
                _arc(subpaths[-1], part)
    return [subpath for subpath in subpaths if subpath.segments]


def _arc(subpath: Subpath, arc: Arc) -> None:
    """An elliptical arc as cubics of a quarter turn at most."""
    if arc.start == arc.end:
        return
    if not arc.radius.real or not arc.radius.imag:
        subpath.to(arc.end)
        return
    radius = arc.radius * arc.radius_scale  # grown to reach both ends where the file's does not
    count = max(1, math.ceil(abs(arc.delta) / 90 - 1e-9))
    step = math.radians(arc.delta) / count
    handle = 4 / 3 * math.tan(step / 4)
    turn = cmath.exp(1j * math.radians(arc.rotation))

    def placed(unit: complex) -> complex:
        return arc.center + turn * complex(radius.real * unit.real, radius.imag * unit.imag)

    for i in range(count):
        a, b = (cmath.exp(1j * (math.radians(arc.theta) + step * k)) for k in (i, i + 1))
        end = arc.end if i == count - 1 else placed(b)
        subpath.to(placed(a * (1 + 1j * handle)), placed(b * (1 - 1j * handle)), end)


def _ellipse(centre: complex, rx: float, ry: float) -> list[Subpath]:
    if rx <= 0 or ry <= 0:
        return []
    corners = [1, 1j, -1, -1j, 1]
    subpath = Subpath([centre + rx])
    for a, b in itertools.pairwise(corners):
        units = (a + QUARTER * b, b + QUARTER * a, b)
        subpath.to(*(centre + complex(rx * unit.real, ry * unit.imag) for unit in units))
    subpath.close()
    return [subpath]


def _rectangle(corner: complex, width: float, height: float, rx: float, ry: float) -> list[Subpath]:
    if width <= 0 or height <= 0:
        return []
    rx, ry = min(max(rx, 0), width / 2), min(max(ry, 0), height / 2)
    if not rx or not ry:
        return _polyline([corner, corner + width, corner + complex(width, height), corner + 1j * height], closed=True)
    subpath = Subpath([corner + rx])
    far = corner + complex(width, height)
    for start, end, bend in (
        (complex(far.real - rx, corner.imag), complex(far.real, corner.imag + ry), complex(far.real, corner.imag)),
        (complex(far.real, far.imag - ry), complex(far.real - rx, far.imag), far),
        (complex(corner.real + rx, far.imag), complex(corner.real, far.imag - ry), complex(corner.real, far.imag)),
        (complex(corner.real, corner.imag + ry), complex(corner.real + rx, corner.imag), corner),
    ):
        if abs(start - subpath.points[-1]) > 1e-9 * (width + height):
            subpath.to(start)
        subpath.to(start + QUARTER * (bend - start), end + QUARTER * (bend - end), end)
    subpath.close()
    return [subpath]


def _polyline(corners: list[complex], closed: bool) -> list[Subpath]:
    if len(corners) < 2:
        return []
    subpath = Subpath(corners[:1])
    for corner in corners[1:]:
        subpath.to(corner)
    if closed:
        subpath.close()
    return [subpath]
