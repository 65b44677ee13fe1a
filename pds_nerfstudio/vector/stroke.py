"""Strokes as outlines: the union of one quadrilateral for each line of a polyline, with its joins and caps.

Every part is wound the same way round, so that overlaps add up to a winding number of 2 and never cancel; a wide stroke
around a tight bend stays filled, which the usual two offset curves do not give. Borders between neighbours cancel, so
no seam shows. The pen is a circle of the element's user space: under a transform that is no similarity, an ellipse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pds_nerfstudio.vector.drawing import Cap, Join, Paint

SHORTEST = 1e-4
"""Pixels below which a line has no direction."""
ARC = 8
"""Lines of a round join or cap."""
CAPS, JOINS = get_args(Cap), get_args(Join)


@dataclass(frozen=True, eq=False)
class Chain:
    """Lines of polylines, in order along their subpaths."""

    start: Float[Tensor, "lines 2"]
    end: Float[Tensor, "lines 2"]
    subpath: Int[Tensor, " lines"]
    corner: Bool[Tensor, " lines"]
    """Whether a line's end is the end of a Bézier segment: elsewhere a curve goes on smoothly."""

    def select(self, kept: Tensor) -> "Chain":
        """Those of a mask, or of indices in their order."""
        return Chain(self.start[kept], self.end[kept], self.subpath[kept], self.corner[kept])


def stroke_edges(
    chain: Chain,
    closed: Bool[Tensor, " subpaths"],
    owner: Int[Tensor, " subpaths"],
    paints: Sequence[Paint],
    widths: Float[Tensor, " strokes"],
) -> tuple[Float[Tensor, "edges 2 2"], Int[Tensor, " edges"]]:
    """The outline's edges, and the paint that each belongs to.

    Args:
        chain: lines of stroked subpaths alone.
        closed: of all subpaths.
        owner: paint of each subpath.
        widths: in pixels of the picture.
    """
    chain = _closed_up(chain, closed)
    lines = _Lines(chain, owner[chain.subpath], paints, widths)
    following, first, last = _neighbours(chain.subpath, closed)
    everyone = torch.arange(len(chain.start), device=chain.start.device)
    parts = [
        (torch.stack([lines.beside("start", everyone, -1), lines.beside("end", everyone, -1)], dim=1), everyone),
        (torch.stack([lines.beside("end", everyone, 1), lines.beside("start", everyone, 1)], dim=1), everyone),
        *_joins(lines, (following >= 0).nonzero().squeeze(-1), following),
        *_caps(lines, last, "end"),
        *_caps(lines, first, "start"),
    ]
    edges = [torch.stack([part[:, :-1], part[:, 1:]], dim=2).reshape(-1, 2, 2) for part, _ in parts]
    owners = [lines.paint[of].repeat_interleave(part.shape[1] - 1) for part, of in parts]
    return torch.cat(edges), torch.cat(owners)


class _Lines:
    """The lines of a chain in the user spaces of their elements, where the pen is a circle."""

    def __init__(self, chain: Chain, paint: Int[Tensor, " lines"], paints: Sequence[Paint], widths: Tensor):
        self.ends = {"start": chain.start, "end": chain.end}
        self.corner, self.paint = chain.corner, paint
        pens, rows, caps, joins, limits = [], [], [], [], []
        for p in paints:
            linear = p.to_canvas[:, :2].double()
            pens.append(linear / linear.det().abs().sqrt())
            rows.append(p.stroke.row if p.stroke else 0)
            caps.append(CAPS.index(p.stroke.cap) if p.stroke else 0)
            joins.append(JOINS.index(p.stroke.join) if p.stroke else 0)
            limits.append(p.stroke.miter_limit if p.stroke else 0.0)
        device = paint.device
        self.pen = torch.stack(pens).to(chain.start)[paint]
        self.half = widths[torch.tensor(rows, device=device)[paint]] / 2
        self.cap, self.join = (torch.tensor(codes, device=device)[paint] for codes in (caps, joins))
        self.limit = widths.new_tensor(limits)[paint]
        along = torch.einsum("nij,nj->ni", torch.linalg.inv(self.pen), chain.end - chain.start)
        self.length = along.norm(dim=1)
        self.along = along / self.length[:, None]
        self.normal = torch.stack([-self.along[:, 1], self.along[:, 0]], dim=1)

    def offset(self, end: str, of: Tensor, by: Float[Tensor, "n m 2"]) -> Float[Tensor, "n m 2"]:
        """Positions `by` half widths of user space away from an end of lines `of`."""
        return self.ends[end][of, None] + self.half[of, None, None] * torch.einsum("nij,nmj->nmi", self.pen[of], by)

    def beside(self, end: str, of: Tensor, side: int) -> Float[Tensor, "n 2"]:
        """Half a width to the left (1) or right (-1) of an end."""
        return self.offset(end, of, side * self.normal[of, None])[:, 0]


Part = tuple[Float[Tensor, "n points 2"], Int[Tensor, " n"]]
"""Pieces of outline as polylines, and the line whose paint each has."""


def _joins(lines: _Lines, a: Int[Tensor, " joints"], following: Int[Tensor, " lines"]) -> list[Part]:
    """From the right side of each line to that of the next, and back on the left."""
    if len(a) == 0:
        return []
    b = following[a]
    n_a, n_b = lines.normal[a], lines.normal[b]
    cosine = (n_a * n_b).sum(dim=1)
    turn = torch.atan2(n_a[:, 0] * n_b[:, 1] - n_a[:, 1] * n_b[:, 0], cosine)
    # On the inner side the outline goes through the joint itself, unless the bend is so gentle that the two
    # quadrilaterals overlap there anyway; the short cut then spares the rim a double count.
    gentle = (lines.half[a] * turn.abs() < torch.minimum(lines.length[a], lines.length[b])) & ~lines.corner[a]
    smooth, sharp = gentle.nonzero().squeeze(-1), (~gentle).nonzero().squeeze(-1)
    parts = [
        (torch.stack([lines.beside("end", a[smooth], -1), lines.beside("start", b[smooth], -1)], dim=1), a[smooth]),
        (torch.stack([lines.beside("start", b[smooth], 1), lines.beside("end", a[smooth], 1)], dim=1), a[smooth]),
    ]
    if len(sharp) == 0:
        return parts
    a, b, cosine, turn = a[sharp], b[sharp], cosine[sharp], turn[sharp]
    side = torch.where(turn >= 0, 1.0, -1.0)[:, None]
    n_a, n_b = side * n_a[sharp], side * n_b[sharp]  # towards the inside of the bend
    inner = [lines.offset("start", b, n_b[:, None]), lines.offset("end", a, 0 * n_a[:, None])]
    inner.append(lines.offset("end", a, n_a[:, None]))
    parts.append((_turned(torch.cat(inner, dim=1), side), a))
    # A bend that is sharp within one Bézier segment is a smooth curve all the same, whose offset is an arc.
    rounded = (lines.join[a] == JOINS.index("round")) | ~lines.corner[a]
    for chosen, is_round in ((~rounded, False), (rounded, True)):
        index = chosen.nonzero().squeeze(-1)
        if len(index) == 0:
            continue
        ends = [lines.offset("end", a[index], -n_a[index, None]), lines.offset("start", b[index], -n_b[index, None])]
        if is_round:
            angle = turn[index, None] * torch.linspace(0, 1, ARC + 1, device=turn.device)[1:-1]
            way = _rotated(-n_a[index], angle)
        else:
            # The tip of a miter lies (n_a + n_b) / (1 + n_a · n_b) away, √(2 / (1 + n_a · n_b)) half widths.
            spread = 1 + cosine[index]
            pointed = (lines.join[a[index]] == JOINS.index("miter")) & (spread * lines.limit[a[index]] ** 2 >= 2)
            reach = torch.where(pointed, 1 / spread.clamp(min=1e-6), 0.5)
            way = -((n_a[index] + n_b[index]) * reach[:, None])[:, None]
        outer = torch.cat([ends[0], lines.offset("end", a[index], way), ends[1]], dim=1)
        parts.append((_turned(outer, side[index]), a[index]))
    return parts


def _caps(lines: _Lines, of: Int[Tensor, " n"], end: str) -> list[Part]:
    """From one side of an end to the other, around what the stroke's cap adds."""
    parts = []
    outward = 1 if end == "end" else -1
    for kind in CAPS:
        index = of[lines.cap[of] == CAPS.index(kind)]
        if len(index) == 0:
            continue
        along, normal = outward * lines.along[index, None], outward * lines.normal[index, None]
        match kind:
            case "butt":
                way = torch.cat([-normal, normal], dim=1)
            case "square":
                way = torch.cat([-normal, along - normal, along + normal, normal], dim=1)
            case _:
                half_turn = torch.linspace(0, torch.pi, ARC + 1, device=of.device)
                way = _rotated(-normal[:, 0], half_turn.expand(len(index), -1))
        parts.append((lines.offset(end, index, way), index))
    return parts


def _rotated(vectors: Float[Tensor, "n 2"], angles: Float[Tensor, "n m"]) -> Float[Tensor, "n m 2"]:
    x, y = vectors[:, None, 0], vectors[:, None, 1]
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=-1)


def _turned(ways: Float[Tensor, "n points 2"], side: Float[Tensor, "n 1"]) -> Float[Tensor, "n points 2"]:
    """The other way round where `side` is -1."""
    return torch.where(side[..., None] > 0, ways, ways.flip(1))


def _closed_up(chain: Chain, closed: Bool[Tensor, " subpaths"]) -> Chain:
    """With the line that closes each closed subpath, and without lines too short to have a direction."""
    is_last = torch.ones_like(chain.corner)
    is_last[:-1] = chain.subpath[1:] != chain.subpath[:-1]
    last = is_last.nonzero().squeeze(-1)
    first = torch.cat([last.new_zeros(1), last[:-1] + 1])
    shut = closed[chain.subpath[last]]
    start = torch.cat([chain.start, chain.end[last[shut]]])
    end = torch.cat([chain.end, chain.start[first[shut]]])
    subpath = torch.cat([chain.subpath, chain.subpath[last[shut]]])
    corner = torch.cat([chain.corner, chain.corner.new_ones(int(shut.sum()))])
    order = subpath.argsort(stable=True)
    long_enough = (end - start).detach().norm(dim=1)[order] > SHORTEST
    return Chain(start, end, subpath, corner).select(order[long_enough])


def _neighbours(
    subpath: Int[Tensor, " lines"], closed: Bool[Tensor, " subpaths"]
) -> tuple[Int[Tensor, " lines"], Int[Tensor, " open"], Int[Tensor, " open"]]:
    """The line after each one, -1 where there is none; the first and the last line of every open subpath."""
    if len(subpath) == 0:
        return subpath, subpath, subpath
    is_last = torch.ones_like(subpath, dtype=torch.bool)
    is_last[:-1] = subpath[1:] != subpath[:-1]
    last = is_last.nonzero().squeeze(-1)
    first = torch.cat([last.new_zeros(1), last[:-1] + 1])
    following = torch.arange(1, len(subpath) + 1, device=subpath.device)
    shut = closed[subpath[last]]
    following[last] = torch.where(shut, first, -1)
    return following, first[~shut], last[~shut]
