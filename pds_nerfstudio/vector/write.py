"""Writes edited values into a copy of the file's own tree: ids, groups, order, transforms and whatever else stay.

Only what changed is touched, and what stands before and after the outermost element stays too. A basic shape whose
points moved becomes a path of the same id and attributes; segments keep their degree and become absolute. Colours go
where they were found: into the attribute or the style of the element, or into its style where a group or a style sheet
gave them.
"""

import copy
import math
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import torch
from torch import Tensor

from pds_nerfstudio.files import written
from pds_nerfstudio.vector.cascade import INHERITED, Cascade
from pds_nerfstudio.vector.drawing import Drawing, Origin, Values
from pds_nerfstudio.vector.styles import declarations, with_declaration

PRECISE = 1e-3
"""Pixels of the canvas by which a written coordinate may be off, and below which a point has not moved."""
GEOMETRY = ("d", "x", "y", "width", "height", "rx", "ry", "cx", "cy", "r", "x1", "y1", "x2", "y2", "points")


def write_drawing(drawing: Drawing, values: Values, path: Path) -> None:
    """Write the drawing's file with these values."""
    values = values.map(lambda value: value.detach().cpu())
    document = drawing.document
    root = copy.deepcopy(document.root)
    own = dict(zip(document.root.iter(), root.iter(), strict=True))
    writer = _Writer(drawing, values)
    for origin in drawing.origins:
        writer.shape(origin, own[origin.element])
    for stop, row in drawing.stops:
        writer.colour(own[stop], row, "stop-color", "stop-opacity")
    for prefix, uri in document.prefixes.items():
        try:
            ElementTree.register_namespace(prefix, uri)
        except ValueError:  # ns0 and the like, which ElementTree gives out itself
            continue
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    around = [[ElementTree.tostring(node, "unicode") for node in nodes] for nodes in (document.before, document.after)]
    head = ["<?xml version='1.0' encoding='utf-8'?>", *([document.doctype] if document.doctype else []), *around[0]]
    with written(path) as partial:
        partial.write_text("\n".join([*head, ElementTree.tostring(root, "unicode"), *around[1]]), "utf-8")


class _Writer:
    def __init__(self, drawing: Drawing, values: Values):
        self.drawing, self.values = drawing, values
        self.cascade = Cascade(drawing.document.root)
        outlines = drawing.outlines
        self.segments = list(zip(outlines.points.tolist(), outlines.degree.tolist(), strict=True))
        order = torch.arange(len(outlines.closed) + 1)
        self.first = torch.searchsorted(outlines.subpath, order).tolist()
        self.closed = outlines.closed.tolist()

    def shape(self, origin: Origin, element: Element) -> None:
        rows = [
            row
            for subpath in origin.subpaths
            for points, degree in self.segments[self.first[subpath] : self.first[subpath + 1]]
            for row in points[: degree + 1]
        ]
        if self._changed("points", rows, PRECISE):
            style = self.cascade.style(element, INHERITED)
            for name in GEOMETRY:
                element.attrib.pop(name, None)
            element.tag = "{http://www.w3.org/2000/svg}path"
            element.set("d", self._path(origin))
            # A style sheet may have meant the shape by its tag, or may mean all paths.
            now = self.cascade.style(element, INHERITED)
            for name in style:
                if style[name] != now[name]:
                    self._put(element, name, style[name])
        for kind, row in (("fill", origin.fill), ("stroke", origin.stroke)):
            if row is not None:
                self.colour(element, row, kind, f"{kind}-opacity")
        if origin.width is not None and self._changed("widths", [origin.width], PRECISE):
            width = float(self.values.widths[origin.width]) / _scale(origin.to_canvas)
            self._put(element, "stroke-width", f"{width:.6g}")

    def colour(self, element: Element, row: int, name: str, opacity_name: str) -> None:
        """Colour and opacity where they changed; the two together, since a colour may have held its opacity itself."""
        if self._changed("colours", [row], 1e-4) or self._changed("opacities", [row], 1e-4):
            channels = (self.values.colours[row].clamp(0, 1) * 255).round().int().tolist()
            self._put(element, name, "#{:02x}{:02x}{:02x}".format(*channels))
            self._put(element, opacity_name, f"{float(self.values.opacities[row]):.4g}")

    def _put(self, element: Element, name: str, value: str) -> None:
        """Set a property in the attribute that holds it; in the style, which wins, where none does or a rule does."""
        style, ruled = element.get("style", ""), self.cascade.rules_give(element, name)
        if name in element.attrib and name not in declarations(style) and not ruled:
            element.set(name, value)
            return
        element.set("style", with_declaration(style, name, value, important=bool(ruled and ruled.important)))

    def _changed(self, name: str, rows: list[int], least: float) -> bool:
        before, after = (getattr(values, name)[rows] for values in (self.drawing.source, self.values))
        return bool(((after - before).abs() > least).any())

    def _path(self, origin: Origin) -> str:
        to_canvas = origin.to_canvas
        rows = self.values.points.double() - to_canvas[:, 2]
        digits = max(0, math.ceil(math.log10(_scale(to_canvas) / PRECISE)))
        inverse = torch.linalg.inv(to_canvas[:, :2])

        def at(row: int) -> str:
            x, y = (inverse @ rows[row]).tolist()
            return f"{_number(x, digits)} {_number(y, digits)}"

        words = []
        for subpath in origin.subpaths:
            segments = self.segments[self.first[subpath] : self.first[subpath + 1]]
            words.append(f"M{at(segments[0][0][0])}")
            words += ["LQC"[degree - 1] + " ".join(map(at, points[1 : degree + 1])) for points, degree in segments]
            if self.closed[subpath]:
                words.append("Z")
        return " ".join(words)


def _scale(to_canvas: Tensor) -> float:
    return math.sqrt(abs(float(to_canvas[:, :2].det())))


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
