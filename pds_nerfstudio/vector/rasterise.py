"""Renders drawings with gradients: exact coverage of every pixel, painter's order.

A path is cut into a polyline, its edges at every pixel border, and each piece adds the area to its right:

    W(i) = Σ over pieces left of or in pixel i of Δy · (1 − x̄),   x̄ the piece's mean position within pixel i, else 0

W is the winding number averaged over the pixel. Coverage is min(|W|, 1) for nonzero and the triangle wave of |W| for
evenodd: the box filter of the polygon, exact but for pixels in which a path crosses itself. A stroke is the fill of
its outline (see `stroke`). Everything is smooth in the points within a pixel, so autograd gives the gradient of the
filtered picture itself. The alternative, coverage from the distance to the nearest edge (prefiltering in diffvg, Li
et al. 2020), makes thin lines and corners too heavy and draws seams where a path overlaps itself.

The trap: a pixel border that an edge crosses is no free parameter. Its coordinate on that axis is a constant, and only
the other one depends on the edge.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pds_nerfstudio.vector.drawing import Drawing, Gradient, Layer, Outlines, Paint, Values
from pds_nerfstudio.vector.stroke import Chain, stroke_edges

Edges = Float[Tensor, "edges 2 2"]
"""Start and end (x, y) in pixels of the picture."""
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, the ends excluded."""

TOLERANCE = 0.03
"""Pixels by which a polyline may miss its curve."""
MOST_PIECES = 64
"""Lines of one Bézier segment."""


def render(
    drawing: Drawing, values: Values, height: int, width: int, background: tuple[float, float, float] = (1, 1, 1)
) -> Float[Tensor, "1 3 height width"]:
    """A drawing as a picture, sRGB in [0, 1], with the graph back to its values.

    The canvas is fitted into the picture with its proportions kept, and centred (`xMidYMid meet`).

    Args:
        background: sRGB in [0, 1], what shows through where nothing is drawn.
    """
    scale = min(width / drawing.width, height / drawing.height)
    origin = values.points.new_tensor([(width - scale * drawing.width) / 2, (height - scale * drawing.height) / 2])
    canvas = values.points.new_tensor([*background, 1.0])[:, None, None].expand(4, height, width)
    paints = drawing.paints()
    if paints:
        covered = _coverages(drawing.outlines, paints, values, scale, origin, (height, width))
        view = _View(drawing.outlines, values, dict(zip(paints, covered, strict=True)), scale, origin)
        canvas = _over(canvas, (0, 0, width, height), view.sources(drawing.layer))
    return canvas[None, :3]


def flatten(outlines: Outlines, points: Float[Tensor, "points 2"]) -> Chain:
    """Polylines that miss their curves by at most `TOLERANCE`, from points in pixels of the picture."""
    control = points[outlines.points]  # [segments 4 2]
    degree = outlines.degree
    with torch.no_grad():
        # ‖B''‖/8n² bounds the distance to the curve, and B'' is d(d − 1) times the largest second difference.
        bend = (control[:, :-2] - 2 * control[:, 1:-1] + control[:, 2:]).norm(dim=-1)
        bend[:, 1][degree < 3] = 0
        bend[:, 0][degree < 2] = 0
        pieces = (degree * (degree - 1) * bend.amax(dim=1) / (8 * TOLERANCE)).sqrt().ceil()
        pieces = pieces.clamp(1, MOST_PIECES).long()
    segment = torch.arange(len(degree), device=points.device).repeat_interleave(pieces)
    first = pieces.cumsum(0) - pieces
    step = torch.arange(len(segment), device=points.device) - first[segment]
    count = pieces[segment]

    def at(t: Tensor) -> Tensor:
        return (_bernstein(degree[segment], t)[..., None] * control[segment]).sum(dim=1)

    start, end = at(step.to(points) / count), at((step + 1).to(points) / count)
    return Chain(start, end, outlines.subpath[segment], step + 1 == count)


def _bernstein(degree: Int[Tensor, " n"], t: Float[Tensor, " n"]) -> Float[Tensor, "n 4"]:
    """Weights of the four control points, of which a line has two and a quadratic three."""
    s, zero = 1 - t, torch.zeros_like(t)
    line = torch.stack([s, t, zero, zero], dim=1)
    quadratic = torch.stack([s * s, 2 * s * t, t * t, zero], dim=1)
    cubic = torch.stack([s**3, 3 * s * s * t, 3 * s * t * t, t**3], dim=1)
    return torch.where((degree == 1)[:, None], line, torch.where((degree == 2)[:, None], quadratic, cubic))


def _closing(chain: Chain, subpaths: int) -> tuple[Edges, Int[Tensor, " subpaths"]]:
    """From the end of each subpath back to its start."""
    last = torch.searchsorted(chain.subpath, torch.arange(subpaths, device=chain.subpath.device), right=True) - 1
    first = torch.cat([last.new_zeros(1), last[:-1] + 1])
    return torch.stack([chain.end[last], chain.start[first]], dim=1), chain.subpath[last]


def _coverages(
    outlines: Outlines,
    paints: Sequence[Paint],
    values: Values,
    scale: float,
    origin: Tensor,
    size: tuple[int, int],
) -> list[tuple[Box, Float[Tensor, "box_height box_width"]] | None]:
    """Where each paint is and how much of every pixel there it covers; None for what is outside the picture."""
    chain = flatten(outlines, values.points * scale + origin)
    subpaths = len(outlines.closed)
    of_subpath = {kind: torch.full((subpaths,), -1, dtype=torch.long) for kind in ("fill", "stroke")}
    for number, paint in enumerate(paints):
        of_subpath["fill" if paint.stroke is None else "stroke"][paint.subpaths.start : paint.subpaths.stop] = number
    fills, strokes = (owner.to(chain.subpath) for owner in of_subpath.values())
    back, back_subpath = _closing(chain, subpaths)
    edges = [torch.stack([chain.start, chain.end], dim=1), back]
    owner = [fills[chain.subpath], fills[back_subpath]]
    stroked = strokes[chain.subpath] >= 0
    if bool(stroked.any()):
        outline, of_outline = stroke_edges(
            chain.select(stroked), outlines.closed, strokes, paints, values.widths * scale
        )
        edges, owner = [*edges, outline], [*owner, of_outline]
    all_edges, all_owners = torch.cat(edges), torch.cat(owner)
    kept = all_owners >= 0
    all_edges, all_owners = all_edges[kept], all_owners[kept]
    boxes = _boxes(all_edges.detach(), all_owners, len(paints), size)
    winding = _winding(all_edges, all_owners, boxes, size)
    covered = []
    for paint, box, w in zip(paints, boxes.tolist(), winding, strict=True):
        if w is None:
            covered.append(None)
            continue
        w = w.abs()
        cover = w.clamp(max=1) if paint.rule == "nonzero" else 1 - ((w % 2) - 1).abs()
        covered.append((tuple(box), cover))
    return covered


@torch.no_grad()
def _boxes(edges: Edges, owner: Int[Tensor, " edges"], paints: int, size: tuple[int, int]) -> Int[Tensor, "paints 4"]:
    """x0, y0, x1, y1 of each paint's edges, a pixel wider on every side and cut to the picture; empty where x1 = x0."""
    height, width = size
    index = owner.repeat_interleave(2)[:, None].expand(-1, 2)
    flat = edges.reshape(-1, 2)
    low = flat.new_full((paints, 2), torch.inf).scatter_reduce(0, index, flat, "amin")
    high = flat.new_full((paints, 2), -torch.inf).scatter_reduce(0, index, flat, "amax")
    limit = flat.new_tensor([width, height])
    low = torch.minimum((low.floor() - 1).clamp(min=0), limit)
    high = torch.maximum(torch.minimum(high.ceil() + 1, limit), low)
    high = torch.where((high > low).all(dim=1, keepdim=True), high, low)
    return torch.cat([low, high], dim=1).long()


def _winding(
    edges: Edges, owner: Int[Tensor, " edges"], boxes: Int[Tensor, "paints 4"], size: tuple[int, int]
) -> list[Float[Tensor, "box_height box_width"] | None]:
    """The winding number of every paint's edges, averaged over each pixel of its box."""
    (start, end, of_edge) = _cut(edges, size)
    owner = owner[of_edge]
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    stride = x1 - x0 + 2  # what lies right of a box is not looked at, but has to go somewhere
    cells = stride * (y1 - y0)
    first = cells.cumsum(0) - cells
    with torch.no_grad():
        middle = (start + end) / 2
        column, row = middle.floor().long().unbind(dim=1)
        inside = (row >= y0[owner]) & (row < y1[owner]) & (column < x1[owner] + 1)
        left = column < x0[owner]
        cell = first[owner] + (row - y0[owner]) * stride[owner] + torch.where(left, 0, column - x0[owner])
        cell = cell[inside]
    rise = (end[:, 1] - start[:, 1])[inside]
    within = ((start[:, 0] + end[:, 0]) / 2 - column)[inside].clamp(0, 1)
    within = torch.where(left[inside], 0, within)
    steps = edges.new_zeros(int(cells.sum()) + 1)  # one more, for what spills over the last cell
    steps = steps.index_add(0, cell, rise * (1 - within)).index_add(0, cell + 1, rise * within)
    result: list[Tensor | None] = []
    # One split rather than many slices, whose backward passes would each fill a tensor of the whole size.
    for part, (bx0, by0, bx1, by1) in zip(steps[:-1].split(cells.tolist()), boxes.tolist(), strict=True):
        if bx1 == bx0:
            result.append(None)
            continue
        rows = part.view(by1 - by0, bx1 - bx0 + 2)
        result.append(rows.cumsum(dim=1)[:, : bx1 - bx0])
    return result


def _cut(edges: Edges, size: tuple[int, int]) -> tuple[Tensor, Tensor, Int[Tensor, " pieces"]]:
    """Edges cut at every pixel border of the picture that they cross: starts, ends, and which edge each is of."""
    points, keys = [edges[:, 0], edges[:, 1]], []
    number = torch.arange(len(edges), device=edges.device)
    owners = [number, number]
    keys = [torch.zeros(len(edges), dtype=torch.float64, device=edges.device), number.new_ones(len(edges)).double()]
    for axis, length in ((0, size[1]), (1, size[0])):
        with torch.no_grad():
            low, high = edges[:, :, axis].aminmax(dim=1)
            first = (low.floor() + 1).clamp(0, length + 1)
            last = (high.ceil() - 1).clamp(-1, length)
            count = (last - first + 1).clamp(min=0).long()
            owner = number.repeat_interleave(count)
            border = first[owner] + (torch.arange(len(owner), device=edges.device) - (count.cumsum(0) - count)[owner])
        start, end = edges[owner, 0], edges[owner, 1]
        t = (border - start[:, axis]) / (end[:, axis] - start[:, axis])
        other = start[:, 1 - axis] + t * (end[:, 1 - axis] - start[:, 1 - axis])
        points.append(torch.stack([border, other] if axis == 0 else [other, border], dim=1))
        owners.append(owner)
        keys.append(t.detach().double().clamp(0, 1))
    owner = torch.cat(owners)
    # Ends come after whatever borders they lie on: a stable sort by t, then by edge.
    order = (2 * owner + torch.cat(keys)).argsort(stable=True)
    owner, ordered = owner[order], torch.cat(points)[order]
    same = (owner[1:] == owner[:-1]).nonzero().squeeze(-1)
    return ordered[same], ordered[same + 1], owner[same]


@dataclass(frozen=True, eq=False)
class _View:
    """A drawing's coverage in one picture, to be coloured."""

    outlines: Outlines
    values: Values
    coverage: dict[Paint, tuple[Box, Tensor] | None]
    scale: float
    origin: Float[Tensor, "2"]

    def sources(self, layer: Layer) -> list[tuple[Box, Float[Tensor, "4 box_height box_width"]]]:
        """What is laid over the picture, bottom to top: boxes and premultiplied RGBA."""
        sources = []
        for child in layer.children:
            if isinstance(child, Layer):
                within = self.sources(child)
                if within:
                    box = _around([box for box, _ in within])
                    empty = self.origin.new_zeros(4, box[3] - box[1], box[2] - box[0])
                    sources.append((box, child.opacity * _over(empty, box, within)))
            elif (found := self.coverage[child]) is not None:
                box, cover = found
                sources.append((box, child.opacity * cover * self.rgba(child, box)))
        return sources

    def rgba(self, paint: Paint, box: Box) -> Float[Tensor, "4 #h #w"]:
        """Premultiplied colour of a paint, of every pixel of its box if it varies."""
        values = self.values
        if isinstance(paint.colour, int):
            alpha = values.opacities[paint.colour]
            return torch.cat([values.colours[paint.colour] * alpha, alpha[None]])[:, None, None]
        t = self.along(paint, paint.colour, box)[..., None]
        stops = torch.cat([values.colours, values.opacities[:, None]], dim=1)[list(paint.colour.rows)]
        rgba = stops[0]
        for i, (low, high) in enumerate(itertools.pairwise(paint.colour.offsets)):
            rgba = rgba + ((t - low) / max(high - low, 1e-6)).clamp(0, 1) * (stops[i + 1] - stops[i])
        rgba = rgba.expand(*t.shape[:2], 4).movedim(-1, 0)
        return torch.cat([rgba[:3] * rgba[3:], rgba[3:]])

    @torch.no_grad()
    def along(self, paint: Paint, gradient: Gradient, box: Box) -> Float[Tensor, "box_height box_width"]:
        """Where each pixel's centre lies between the first stop of a gradient (0) and the last (1)."""
        xs = torch.arange(box[0], box[2], device=self.origin.device) + 0.5
        ys = torch.arange(box[1], box[3], device=self.origin.device) + 0.5
        pixels = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)
        user = _solve(paint.to_canvas, (pixels - self.origin) / self.scale)
        if gradient.of_box:
            low, high = self.user_box(paint)
            user = (user - low) / (high - low).clamp(min=1e-6)
        user = _solve(gradient.transform, user)
        if gradient.kind == "radial":
            cx, cy, r = gradient.numbers
            return (user - user.new_tensor([cx, cy])).norm(dim=-1) / max(r, 1e-9)
        start, end = user.new_tensor(gradient.numbers).view(2, 2)
        return (user - start) @ (end - start) / (end - start).square().sum().clamp(min=1e-12)

    def user_box(self, paint: Paint) -> tuple[Tensor, Tensor]:
        """The corners of a shape's bounding box, without its stroke, in its user space."""
        outlines, span = self.outlines, paint.subpaths
        own = (outlines.subpath >= span.start) & (outlines.subpath < span.stop)
        part = Outlines(outlines.points[own], outlines.degree[own], outlines.subpath[own], outlines.closed)
        chain = flatten(part, self.values.points)
        corners = _solve(paint.to_canvas, torch.cat([chain.start, chain.end]))
        return corners.amin(dim=0), corners.amax(dim=0)


def _solve(matrix: Tensor, points: Tensor) -> Tensor:
    """Through the inverse of an affine map."""
    matrix = matrix.to(points)
    return (points - matrix[:, 2]) @ torch.linalg.inv(matrix[:, :2]).T


def _around(boxes: Sequence[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _over(canvas: Tensor, within: Box, sources: Sequence[tuple[Box, Tensor]]) -> Tensor:
    boxes = [(x0 - within[0], y0 - within[1], x1 - within[0], y1 - within[1]) for (x0, y0, x1, y1), _ in sources]
    return _Over.apply(canvas, boxes, *(source for _, source in sources))  # pyright: ignore[reportReturnType]


class _Over(torch.autograd.Function):
    """Porter-Duff "over" of premultiplied sources, one after the other, each in its box.

    One node for all of them: slices assigned in place would have autograd copy the whole canvas for each.
    """

    @staticmethod
    def forward(ctx, canvas: Tensor, boxes: list[Box], *sources: Tensor) -> Tensor:
        canvas, below = canvas.clone(), []
        for (x0, y0, x1, y1), source in zip(boxes, sources, strict=True):
            region = canvas[:, y0:y1, x0:x1]
            below.append(region.clone())
            region.mul_(1 - source[3]).add_(source)
        ctx.boxes = boxes
        ctx.save_for_backward(*below, *(source[3] for source in sources))
        return canvas

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, count = gradient.clone(), len(ctx.boxes)
        below, alphas = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        of_sources: list[Tensor] = []
        for (x0, y0, x1, y1), under, alpha in zip(reversed(ctx.boxes), reversed(below), reversed(alphas), strict=True):
            region = gradient[:, y0:y1, x0:x1]
            of_source = region.clone()
            of_source[3] -= (region * under).sum(dim=0)
            of_sources.append(of_source)
            region.mul_(1 - alpha)
        return gradient, None, *reversed(of_sources)
