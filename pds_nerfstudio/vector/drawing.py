"""What a drawing consists of: geometry and paints that stay, and the values that an edit changes.

All control points lie in one tensor, in canvas pixels: whatever transforms stand above an element, a step of 0.8 moves
its points by 0.8 pixels of a canvas whose shorter side is 512 (Koo et al. 2024, section 6.2).
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal
from xml.etree.ElementTree import Element

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pds_nerfstudio.vector.document import Document

CANVAS = 512
"""Pixels of the canvas's shorter side, the unit of control points and stroke widths."""

Cap = Literal["butt", "round", "square"]
Join = Literal["miter", "round", "bevel"]
FillRule = Literal["nonzero", "evenodd"]
Matrix = Float[Tensor, "2 3"]
"""(x, y) -> A (x, y) + b as [A | b]."""


@dataclass(frozen=True, eq=False)
class Values:
    """What an edit changes."""

    points: Float[Tensor, "points 2"]
    """Control points (x right, y down) in pixels of the canvas; on-curve and off-curve alike."""
    colours: Float[Tensor, "colours 3"]
    """sRGB in [0, 1] of every fill, stroke and gradient stop."""
    opacities: Float[Tensor, " colours"]
    """In [0, 1], one for each colour."""
    widths: Float[Tensor, " strokes"]
    """Stroke widths in pixels of the canvas, not negative."""

    def map(self, change: Any) -> "Values":
        """The same with `change` applied to each tensor."""
        return Values(**{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring colours and opacities back into [0, 1] and widths to 0 or more, in place."""
        self.colours.clamp_(0, 1)
        self.opacities.clamp_(0, 1)
        self.widths.clamp_(min=0)


@dataclass(frozen=True, eq=False)
class Outlines:
    """Bézier segments of degree 1 to 3, in order along their subpaths."""

    points: Int[Tensor, "segments 4"]
    """Rows of `Values.points`; a segment of degree d uses the first d + 1."""
    degree: Int[Tensor, " segments"]
    subpath: Int[Tensor, " segments"]
    """Which subpath each belongs to, ascending."""
    closed: Bool[Tensor, " subpaths"]
    """Whether the subpath ends with a Z; fills close every subpath."""

    def to(self, device: torch.device) -> "Outlines":
        """The same on that device."""
        return Outlines(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, eq=False)
class Gradient:
    """A linear or radial gradient, whose stops are colours of the drawing."""

    kind: Literal["linear", "radial"]
    numbers: tuple[float, ...]
    """x1, y1, x2, y2; or cx, cy, r."""
    of_box: bool
    """Whether the numbers are fractions of the shape's bounding box, or lengths of its user space."""
    transform: Matrix
    """gradientTransform."""
    offsets: tuple[float, ...]
    """In [0, 1], not descending."""
    rows: tuple[int, ...]
    """Row of `Values.colours` of each stop."""


@dataclass(frozen=True, eq=False)
class Stroke:
    """How an outline is stroked."""

    row: int
    """Of `Values.widths`."""
    cap: Cap
    join: Join
    miter_limit: float


@dataclass(frozen=True, eq=False)
class Paint:
    """One fill or one stroke."""

    subpaths: range
    colour: int | Gradient
    """Row of `Values.colours`, or what varies over the shape."""
    to_canvas: Matrix
    """From the element's user space to pixels of the canvas; not singular."""
    opacity: float = 1.0
    """What is multiplied into it and not edited."""
    rule: FillRule = "nonzero"
    stroke: Stroke | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """Paints that are composited with each other first, and then with what lies below at one opacity."""

    opacity: float
    children: "tuple[Paint | Layer, ...]"


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a shape's values came from, so that they can be written back."""

    element: Element
    name: str
    """How messages call it: its tag and id."""
    subpaths: range
    to_canvas: Matrix
    fill: int | None
    """Row of its colour, where the element has one of its own rather than a gradient's."""
    stroke: int | None
    width: int | None
    """Row of its stroke width."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A parsed file: everything about it that an edit leaves alone."""

    document: Document
    """The file; never changed."""
    width: float
    """Of the canvas in its own pixels; the shorter of both sides is CANVAS."""
    height: float
    outlines: Outlines
    layer: Layer
    """Everything that is drawn, bottom to top."""
    origins: tuple[Origin, ...]
    stops: tuple[tuple[Element, int], ...]
    """Gradient stops and the rows of their colours."""
    editable: dict[str, Tensor]
    """By the names of `Values`: 1 for what may change, 0 for what is left as it is; of the values' shapes."""
    remarks: tuple[str, ...]
    """What is not supported, one sentence for each element."""
    source: Values
    """As the file has them."""

    def drawn_on(self, device: torch.device) -> "Drawing":
        """The same, to be rendered on that device."""
        return replace(self, outlines=self.outlines.to(device))

    def paints(self) -> list[Paint]:
        """All of them, bottom to top."""

        def below(layer: Layer) -> list[Paint]:
            return [p for child in layer.children for p in ([child] if isinstance(child, Paint) else below(child))]

        return below(self.layer)
