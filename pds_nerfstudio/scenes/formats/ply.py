"""Gaussians from a .ply: in the layout of Kerbl et al. 2023, which nearly every tool for splats writes, and compressed.

    x y z   f_dc_0…2   f_rest_0…3((L+1)²−1)−1   opacity   scale_0…2   rot_0…3

Opacities are logits, scales logarithms, rot a quaternion (w first), f_rest all of red, then green, then blue.
nerfstudio writes the same, in the frame of its scene; files of other tools are in that of the dataset's poses.

PlayCanvas's compressed .ply (SuperSplat's "Compressed PLY") has 32 bits for each of position, rotation, scale and
colour. Positions, log-scales and colours are shares of the range that they have among 256 Gaussians, a `chunk`.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.formats.ply_file import Table, read_tables
from pds_nerfstudio.scenes.gaussians import C0, MOST_DEGREE, Splats, logits, whole, with_largest

CHUNK = 256
"""Gaussians that share one range in a compressed .ply."""
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def read_ply(path: Path) -> tuple[Splats, int]:
    """The Gaussians of a .ply, and how many more it holds whose values are not finite; see `whole`.

    Raises:
        UserError: the file cannot be read, holds no Gaussians, or keeps them in another way.
    """
    tables = read_tables(path, "vertex")
    if PACKED[0] in (tables["vertex"].rows.dtype.names or ()):
        return _unpacked(path, tables)
    vertices = tables["vertex"].rows
    names = vertices.dtype.names or ()
    count = sum(name.startswith("f_rest_") for name in names)
    rest = [f"f_rest_{i}" for i in range(count)]
    flat = "scale_1" in names and "scale_2" not in names
    layout = {
        "means": ("x", "y", "z"),
        "quats": tuple(f"rot_{i}" for i in range(4)),
        "scales": tuple(f"scale_{i}" for i in range(2 if flat else 3)),
        "opacities": ("opacity",),
    }
    first = [f"f_dc_{i}" for i in range(3)]
    missing = [name for group in (*layout.values(), first) for name in group if name not in names]
    if missing or not _whole_set(rest) or not set(rest) <= set(names):
        raise UserError(
            f"{path} has no {missing[0] if missing else 'whole set of f_rest'}: give Gaussians with spherical "
            "harmonics (not a mesh, a point cloud, or an export with --ply-color-mode rgb)."
        )
    means, quats, scales, opacities = (_columns(vertices, columns) for columns in layout.values())
    harmonics = _harmonics(_columns(vertices, first), _columns(vertices, rest))
    return whole(path, means, quats, scales, opacities, harmonics)


def _columns(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """[rows columns] in float32; a number too large for it becomes infinite."""
    values = np.empty((len(rows), len(names)), np.float32)
    with np.errstate(over="ignore"):
        for i, name in enumerate(names):
            values[:, i] = rows[name]
    return values


def _whole_set(rest: Sequence[str]) -> bool:
    """Whether so many coefficients make up whole degrees."""
    bases = len(rest) // 3 + 1
    return len(rest) % 3 == 0 and math.isqrt(bases) ** 2 == bases and bases <= (MOST_DEGREE + 1) ** 2


def _harmonics(first: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """[Gaussians bases 3] of f_dc and f_rest."""
    return np.concatenate([first[:, None], rest.reshape(len(rest), 3, rest.shape[1] // 3).transpose(0, 2, 1)], axis=1)


def _unpacked(path: Path, tables: dict[str, Table]) -> tuple[Splats, int]:
    """The Gaussians of a compressed .ply."""
    vertices = tables["vertex"].rows
    chunks = tables["chunk"].rows if "chunk" in tables else np.empty(0)
    ranges = {
        name: [f"{end}_{kind}{axis}" for end in ("min", "max") for axis in axes]
        for name, (kind, axes) in {"position": ("", "xyz"), "scale": ("scale_", "xyz"), "color": ("", "rgb")}.items()
    }
    has = set(chunks.dtype.names or ())
    if not has.issuperset(ranges["color"]):  # files of before 2024, whose colours lie in [0, 1]
        del ranges["color"]
    missing = sorted({name for names in ranges.values() for name in names} - has)
    missing += sorted(set(PACKED) - set(vertices.dtype.names or ()))
    if missing or len(chunks) * CHUNK < len(vertices) or any(vertices.dtype[name].kind not in "iu" for name in PACKED):
        what = missing[0] if missing else "whole set of chunks"
        raise UserError(f"{path} is a compressed .ply without its {what}: export it again, or as an ordinary PLY.")
    of = np.arange(len(vertices)) // CHUNK
    packed = {name: vertices[name].astype(np.int64).astype(np.uint32) for name in PACKED}

    def within(name: str, shares: np.ndarray) -> np.ndarray:
        ends = _columns(chunks, ranges[name])[of]
        return ends[:, :3] * (1 - shares) + ends[:, 3:] * shares

    color = _shares(packed["packed_color"], (8, 8, 8, 8))
    rgb = within("color", color[:, :3]) if "color" in ranges else color[:, :3]
    rest = np.empty((len(vertices), 0), np.float32)
    if "sh" in tables:
        sh = tables["sh"].rows
        names = [f"f_rest_{i}" for i in range(len(sh.dtype.names or ()))]
        if len(sh) != len(vertices) or set(names) != set(sh.dtype.names or ()) or not _whole_set(names):
            raise UserError(f"{path} is a compressed .ply with harmonics that do not fit it: export it again.")
        bytes_ = _columns(sh, names)
        rest = 8 * (np.where(bytes_ == 0, 0, np.where(bytes_ == 255, 1, (bytes_ + 0.5) / 256)) - 0.5)
    with np.errstate(invalid="ignore", over="ignore"):
        return whole(
            path,
            means=within("position", _shares(packed["packed_position"], (11, 10, 11))),
            quats=_smallest_three(packed["packed_rotation"]),
            scales=within("scale", _shares(packed["packed_scale"], (11, 10, 11))),
            opacities=logits(color[:, 3:]),
            harmonics=_harmonics((rgb - 0.5) / C0, rest),
        )


def _shares(packed: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """Fields of so many bits, the highest first, as shares of the largest number each can hold. [Gaussians fields]"""
    below = [sum(bits[i + 1 :]) for i in range(len(bits))]
    fields = [(packed >> np.uint32(low) & np.uint32(2**n - 1)) / (2**n - 1) for n, low in zip(bits, below, strict=True)]
    return np.stack(fields, axis=1).astype(np.float32)


def _smallest_three(packed: np.ndarray) -> np.ndarray:
    """Quaternions of which two bits name the largest component, and ten each give the others, in [−√½, √½]."""
    others = (_shares(packed, (2, 10, 10, 10))[:, 1:] - 0.5) * math.sqrt(2)
    return with_largest(others, packed >> np.uint32(30))
