"""Reads an SVG file into a `Drawing`. Nothing that the file refers to is fetched, and nothing in it is run.

What is not supported is named, one sentence for each element, and stays in the file as it is: text, images, `use` and
nested documents are not drawn; elements under a filter, mask or clip path are drawn without it and not changed.
"""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree.ElementTree import Element, ProcessingInstruction

import numpy as np
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.vector import attributes
from pds_nerfstudio.vector.canvas import canvas_of
from pds_nerfstudio.vector.cascade import INHERITED, MOVES, Cascade, effects_of, turns_about_the_corner
from pds_nerfstudio.vector.document import SVG, Document, read_document
from pds_nerfstudio.vector.drawing import (
    CANVAS,
    Drawing,
    Gradient,
    Layer,
    Origin,
    Outlines,
    Paint,
    Stroke,
    Values,
)
from pds_nerfstudio.vector.shapes import Subpath, subpaths_of

HREFS = ("href", "{http://www.w3.org/1999/xlink}href")

MOST_SHAPES = 5000
MOST_SEGMENTS = 100_000
MOST_LEVELS = 100
FARTHEST = 100_000
"""Pixels of the canvas from its corner to a control point."""

MOST_REASONS = 2
"""How many remarks say why there is nothing to edit."""
SHAPES = ("path", "rect", "circle", "ellipse", "line", "polyline", "polygon")
SILENT = (
    *("defs", "symbol", "clipPath", "mask", "marker", "pattern", "linearGradient", "radialGradient", "stop", "filter"),
    *("metadata", "title", "desc", "style", "view"),
)
"""Elements that draw nothing themselves."""


def read_drawing(path: Path) -> Drawing:
    """Read an SVG file.

    Raises:
        UserError: it is missing, too large, no SVG, declares entities, has no canvas or nothing to edit.
    """
    return _Reader(path, read_document(path)).drawing()


@dataclass
class _Inherited:
    """What an element passes on to its children."""

    style: dict[str, str]
    matrix: np.ndarray
    """User space to canvas."""
    frozen: bool = False
    level: int = 0


@dataclass
class _Reader:
    path: Path
    document: Document
    points: list[tuple[float, float]] = field(default_factory=list)
    segments: list[tuple[int, ...]] = field(default_factory=list)
    of_subpath: list[int] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    rows: list[tuple[float, float, float, float]] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    stops: list[tuple[Element, int]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    fixed: dict[str, set[int]] = field(default_factory=lambda: {"points": set(), "colours": set(), "widths": set()})
    gradients: dict[str, Gradient | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def root(self) -> Element:
        return self.document.root

    def drawing(self) -> Drawing:
        self.cascade = Cascade(self.root)
        if self.cascade.others:
            self.remarks.append(f"Style rules for {', '.join(self.cascade.others)} are not applied here.")
        self.ids = {element.get("id"): element for element in self.root.iter() if element.get("id")}
        shapes = sum(str(element.tag).rpartition("}")[2] in SHAPES for element in self.root.iter())
        if shapes > MOST_SHAPES:
            raise UserError(f"{self.path} has {shapes} shapes, more than {MOST_SHAPES}: simplify the drawing first.")
        self.width, self.height, self.viewport, matrix = canvas_of(self.root, self.path)
        for element in (*self.document.before, *self.root.iter()):
            self._name_references(element)
        layer = self._whole(matrix)
        if not self.points:
            why = " ".join(["", *self.remarks[:MOST_REASONS]])
            raise UserError(f"{self.path} has no path or shape that can be edited: give one with paths.{why}")
        return self._finished(layer)

    def _whole(self, matrix: np.ndarray) -> Layer:
        """Everything below the outermost element, whose own transform, if it has one, only places the picture."""
        style = self.cascade.style(self.root, dict(INHERITED))
        if effects := effects_of(style):
            self.remarks.append(f"All of it is left as it is, and drawn here without its {' and '.join(effects)}.")
        passed_on = {key: style[key] for key in INHERITED}
        whole = Layer(1.0, tuple(self._children(self.root, _Inherited(passed_on, matrix, frozen=bool(effects)))))
        try:
            opacity = attributes.fraction(style["opacity"])
        except ValueError as error:
            self.remarks.append(f"The opacity of the outermost element is not applied here: {error}.")
            opacity = 1.0
        return whole if opacity == 1 else Layer(1.0, (replace(whole, opacity=opacity),))

    def _finished(self, layer: Layer) -> Drawing:
        colours = torch.tensor(self.rows, dtype=torch.float32).reshape(-1, 4)
        values = Values(
            torch.tensor(self.points, dtype=torch.float32),
            colours[:, :3].clone(),
            colours[:, 3].clone(),
            torch.tensor(self.widths, dtype=torch.float32),
        )
        editable = {name: torch.ones_like(value) for name, value in values.tensors().items()}
        for name, fixed in self.fixed.items():
            editable[name][sorted(fixed)] = 0
        editable["opacities"][sorted(self.fixed["colours"])] = 0
        if not editable["points"].any():
            raise UserError(
                f"{self.path} has no path or shape that can be edited: all are under filters, masks, clip paths or "
                f"blend modes. {' '.join(self.remarks[:MOST_REASONS])}"
            )
        outlines = Outlines(
            torch.tensor([segment + (segment[-1],) * (4 - len(segment)) for segment in self.segments]),
            torch.tensor([len(segment) - 1 for segment in self.segments]),
            torch.tensor(self.of_subpath),
            torch.tensor(self.closed),
        )
        return Drawing(
            self.document,
            self.width,
            self.height,
            outlines,
            layer,
            tuple(self.origins),
            tuple(self.stops),
            editable,
            tuple(dict.fromkeys(self.remarks)),
            values,
        )

    def _children(self, parent: Element, inherited: _Inherited) -> list[Paint | Layer]:
        if inherited.level > MOST_LEVELS:
            raise UserError(f"{self.path} nests groups more than {MOST_LEVELS} deep: ungroup them.")
        drawn: list[Paint | Layer] = []
        for element in parent:
            if not isinstance(element.tag, str) or not element.tag.startswith(f"{{{SVG}}}"):
                continue  # comments, and what other programs keep for themselves
            tag = element.tag.rpartition("}")[2]
            self.counts[tag] = self.counts.get(tag, 0) + 1
            if tag in SILENT:
                continue
            if tag not in ("g", "a", *SHAPES):
                what = "it is never run" if tag == "script" else "it is not supported, and not drawn here"
                self.remarks.append(f"{self._name(element, tag)} is left as it is: {what}.")
                continue
            try:
                drawn += self._element(element, tag, inherited)
            except ValueError as error:
                self.remarks.append(f"{self._name(element, tag)} is left as it is, and not drawn here: {error}.")
        return drawn

    def _element(self, element: Element, tag: str, above: _Inherited) -> list[Paint | Layer]:
        style = self.cascade.style(element, above.style)
        if style["display"].lower() == "none":
            return []
        name = self._name(element, tag)
        if effects := effects_of(style):
            self.remarks.append(f"{name} is left as it is, and drawn here without its {' and '.join(effects)}.")
        if shapes := self.cascade.shapes(element, tag):
            raise ValueError(f"its {' and '.join(shapes)} stand{'s' if len(shapes) == 1 else ''} in its style")
        if any(style[move].lower() != "none" for move in MOVES):
            raise ValueError("its transform stands in its style")
        if element.get("transform") and not turns_about_the_corner(style):
            raise ValueError("its transform has an origin of its own")
        matrix = above.matrix @ attributes.transform(element.get("transform", ""))
        opacity = attributes.fraction(style["opacity"])
        here = _Inherited(
            {key: style[key] for key in INHERITED}, matrix, above.frozen or bool(effects), above.level + 1
        )
        if tag in SHAPES:
            paints = self._shape(element, tag, name, style, here)
            if len(paints) == 1:
                return [_with_opacity(paints[0], opacity)]
            drawn: list[Paint | Layer] = [*paints]
        else:
            drawn = self._children(element, here)
        return drawn if opacity == 1 or not drawn else [Layer(opacity, tuple(drawn))]

    def _shape(self, element: Element, tag: str, name: str, style: dict[str, str], here: _Inherited) -> list[Paint]:
        """Its fill and its stroke, where it has any."""
        if style["visibility"].lower() in ("hidden", "collapse"):
            return []
        fill = self._paint(style, "fill")
        stroke = self._paint(style, "stroke")
        width = attributes.length(style["stroke-width"], math.hypot(*self.viewport) / math.sqrt(2))
        if width <= 0:
            stroke = None
        if fill is None and stroke is None:
            return []
        linear = here.matrix[:2, :2]
        scale = math.sqrt(abs(np.linalg.det(linear)))
        if not math.isfinite(scale) or scale < 1e-9:
            return []  # of no extent, which is not drawn
        subpaths = subpaths_of(element, tag, self.viewport)
        if not subpaths:
            return []
        if stroke is not None and style["stroke-dasharray"] != "none":
            self.remarks.append(f"{name} is drawn here without its dashes, which it keeps.")
        if any(style[marker] != "none" for marker in ("marker", "marker-start", "marker-mid", "marker-end")):
            self.remarks.append(f"{name} is drawn here without its markers, which it keeps.")
        if style["paint-order"].startswith("stroke"):
            self.remarks.append(f"{name} is drawn here with its stroke above its fill.")
        span, span_of_points = self._add(subpaths, here.matrix)
        to_canvas = torch.tensor(here.matrix[:2], dtype=torch.float64)
        paints, rows = [], {}
        for kind, what in (("fill", fill), ("stroke", stroke)):
            if what is None:
                continue
            colour, opacity = self._colour(what, attributes.fraction(style[f"{kind}-opacity"]))
            rows[kind] = colour if isinstance(colour, int) else None
            pen = None
            if kind == "stroke":
                pen = self._stroke(style, width * scale)
                rows["width"] = pen.row
                if style["vector-effect"] == "non-scaling-stroke":
                    self.remarks.append(f"{name} is drawn here with a stroke that scales, whose width it keeps.")
                    self.fixed["widths"].add(pen.row)
            rule = "evenodd" if kind == "fill" and style["fill-rule"] == "evenodd" else "nonzero"
            paints.append(Paint(span, colour, to_canvas, opacity, rule, pen))
        if here.frozen:
            self.fixed["points"].update(span_of_points)
            for paint in paints:
                rows_of = paint.colour.rows if isinstance(paint.colour, Gradient) else (paint.colour,)
                self.fixed["colours"].update(rows_of)
            self.fixed["widths"].update(row for key, row in rows.items() if key == "width")
        else:
            keys = ("fill", "stroke", "width")
            self.origins.append(Origin(element, name, span, to_canvas, *(rows.get(key) for key in keys)))
        return paints

    def _add(self, subpaths: list[Subpath], matrix: np.ndarray) -> tuple[range, range]:
        """Take in a shape's outline; the numbers of its subpaths and of its points."""
        first, first_point = len(self.closed), len(self.points)
        for subpath in subpaths:
            base = len(self.points)
            for point in subpath.points:
                x, y, _ = matrix @ (point.real, point.imag, 1)
                # A negated comparison, so that NaN is refused too.
                if not max(abs(x), abs(y)) <= FARTHEST:
                    raise UserError(
                        f"{self.path} has a control point at ({point.real:g}, {point.imag:g}), more than {FARTHEST} "
                        f"pixels of a canvas of {CANVAS} away: remove or clip that shape."
                    )
                self.points.append((x, y))
            self.segments += [tuple(base + i for i in segment) for segment in subpath.segments]
            self.of_subpath += [len(self.closed)] * len(subpath.segments)
            self.closed.append(subpath.closed)
        if len(self.segments) > MOST_SEGMENTS:
            raise UserError(f"{self.path} has more than {MOST_SEGMENTS} segments: simplify the drawing first.")
        return range(first, len(self.closed)), range(first_point, len(self.points))

    def _paint(self, style: dict[str, str], kind: str) -> "Gradient | tuple[float, ...] | None":
        """A gradient, a colour with its alpha, or None for none."""
        text = style[kind].strip()
        if found := re.match(r"url\(\s*[\"']?#([^\"')]+)[\"']?\s*\)\s*(.*)", text):
            gradient = self._gradient(found[1])
            if gradient is not None:
                return gradient
            text = found[2] or "none"
        if text.lower() == "none":
            return None
        rgb, alpha = attributes.colour(style["color"] if text.lower() == "currentcolor" else text)
        return (*rgb, alpha)

    def _colour(self, paint: "Gradient | tuple[float, ...]", opacity: float) -> tuple[int | Gradient, float]:
        """Its row or gradient, and what has to be multiplied into it."""
        if isinstance(paint, Gradient):
            return paint, opacity
        red, green, blue, alpha = paint
        self.rows.append((red, green, blue, alpha * opacity))
        return len(self.rows) - 1, 1.0

    def _stroke(self, style: dict[str, str], width: float) -> Stroke:
        self.widths.append(width)
        cap, join = style["stroke-linecap"], style["stroke-linejoin"]
        return Stroke(
            len(self.widths) - 1,
            cap if cap in ("round", "square") else "butt",
            join if join in ("round", "bevel") else "miter",
            attributes.length(style["stroke-miterlimit"]),
        )

    def _gradient(self, name: str) -> Gradient | None:
        """The gradient of that id; None where there is none, or none with stops. Raises ValueError for a pattern."""
        if name in self.gradients:
            return self.gradients[name]
        chain: list[Element] = []
        element = self.ids.get(name)
        while element is not None and element not in chain:
            chain.append(element)
            target = next((element.get(href, "") for href in HREFS if element.get(href)), "")
            element = self.ids.get(target[1:]) if target.startswith("#") else None
        if not chain:
            return None
        kind = chain[0].tag.rpartition("}")[2]
        if kind not in ("linearGradient", "radialGradient"):
            raise ValueError(f"its paint is a {kind}")
        given = {key: value for element in reversed(chain) for key, value in element.attrib.items()}
        if given.get("spreadMethod", "pad") != "pad" or "fx" in given or "fy" in given:
            self.remarks.append(f"{self._name(chain[0], kind)} is drawn here padded and without its focal point.")
        of_box = given.get("gradientUnits", "objectBoundingBox") == "objectBoundingBox"
        across, down = (1.0, 1.0) if of_box else self.viewport
        names = (("x1", "0%"), ("y1", "0%"), ("x2", "100%"), ("y2", "0%"))
        if kind == "radialGradient":
            names = (("cx", "50%"), ("cy", "50%"), ("r", "50%"))
        wholes = {"x": across, "y": down, "r": math.hypot(across, down) / math.sqrt(2)}
        numbers = tuple(
            attributes.length(given.get(key, default), wholes[key[1] if key[0] == "c" else key[0]])
            for key, default in names
        )
        offsets, rows = self._stops(next((e for e in chain if any(True for _ in self._stops_of(e))), chain[0]))
        matrix = attributes.transform(given.get("gradientTransform", ""))
        if abs(np.linalg.det(matrix)) < 1e-12:
            rows = ()
        made = Gradient(
            "linear" if kind == "linearGradient" else "radial",
            numbers,
            of_box,
            torch.tensor(matrix[:2], dtype=torch.float64),
            offsets,
            rows,
        )
        self.gradients[name] = made if rows else None
        return self.gradients[name]

    def _stops_of(self, gradient: Element) -> list[Element]:
        return [element for element in gradient if element.tag == f"{{{SVG}}}stop"]

    def _stops(self, gradient: Element) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Offsets and rows of its stops; those of a gradient that another one inherits from are shared."""
        known = {id(element): row for element, row in self.stops}
        offsets, rows = [], []
        for element in self._stops_of(gradient):
            style = self.cascade.style(element, dict(INHERITED))
            row = known.get(id(element))
            if row is None:
                text = style["stop-color"]
                rgb, alpha = attributes.colour(style["color"] if text.lower() == "currentcolor" else text)
                self.rows.append((*rgb, alpha * attributes.fraction(style["stop-opacity"])))
                row = len(self.rows) - 1
                self.stops.append((element, row))
            rows.append(row)
            offset = attributes.fraction(element.get("offset", "0"))
            offsets.append(max([offset, *offsets[-1:]]))
        return tuple(offsets), tuple(rows)

    def _name(self, element: Element, tag: str) -> str:
        """How messages call an element."""
        name = element.get("id")
        return f"<{tag}> {name!r}" if name else f"<{tag}> number {self.counts.get(tag, 1)}"

    def _name_references(self, element: Element) -> None:
        """Remark on what an element would have a browser fetch or run."""
        if not isinstance(element.tag, str):
            if element.tag is ProcessingInstruction and str(element.text).startswith("xml-stylesheet"):
                self.remarks.append(f"<?{element.text}?> refers to a style sheet, which is not fetched.")
            return
        tag = element.tag.rpartition("}")[2]
        for key, value in element.attrib.items():
            if key.lower().startswith("on"):
                self.remarks.append(f"{self._name(element, tag)} has {key}, which is never run and stays in the file.")
            outside = key in HREFS and tag != "a" and not value.startswith(("#", "data:"))
            outside |= bool(re.search(r"url\(\s*[\"']?\s*(?!#|data:|[\"'])\w", value)) and key not in HREFS
            if outside:
                shown = value if len(value) <= 60 else value[:57] + "…"
                self.remarks.append(f"{self._name(element, tag)} refers to {shown!r}, which is not fetched.")


def _with_opacity(paint: Paint, opacity: float) -> Paint:
    return Paint(paint.subpaths, paint.colour, paint.to_canvas, paint.opacity * opacity, paint.rule, paint.stroke)
