"""Gaussians as Niantic's .spz, a quarter of a .ply or less: github.com/nianticlabs/spz, versions 2 and 3.

A gzip stream of 16 bytes of header and then, of all Gaussians each, positions (24-bit fixed point), opacities, colours
(0.5 + 0.15 f_dc), log-scales (10 + s, in sixteenths), rotations and harmonics (one byte each, in [−1, 1]).

The traps: rotations have their real part last; harmonics lie coefficient by coefficient (RGB together), where a .ply
has them channel by channel; and the axes are right, up, back, where a .ply has right, down, front. As in Niantic's own
tools y and z change their signs on the way, so that what is written here is read there as the .ply of the same scene.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import written
from pds_nerfstudio.scenes.gaussians import MOST_DEGREE, Splats, logits, whole, with_largest

MAGIC = b"NGSP"
HEADER = struct.Struct("<4sIIBBBB")
"""Magic, version, number of Gaussians, degree, fractional bits of positions, flags, and a byte in reserve."""
ANTIALIASED, EXTENDED = 1, 2
MOST = 10_000_000
"""Gaussians, at most: the limit of Niantic's own reader."""
MOST_COMPRESSION = 1032
"""Bytes that one byte of a deflate stream can stand for, at most."""
COLOR = 0.15
OTHER_AXES = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
MOST_FRACTIONAL_BITS = 20


def read_spz(path: Path) -> tuple[Splats, int]:
    """The Gaussians of a .spz in the axes of a .ply, and how many more it holds that are not finite.

    Raises:
        UserError: it cannot be read, is cut short, promises more than it holds, or is of another version.
    """
    try:
        with gzip.open(path, "rb") as file:
            header = file.read(HEADER.size)
            if len(header) < HEADER.size or not header.startswith(MAGIC):
                raise UserError(f"{path} is compressed by gzip and holds no .spz: give a file of Gaussian splats.")
            _, version, count, degree, fraction, flags, _ = HEADER.unpack(header)
            _check(path, version, count, degree, fraction, flags)
            turned = 4 if version == 3 else 3
            sizes = [9, 1, 3, 3, turned, 3 * ((degree + 1) ** 2 - 1)]
            if count * sum(sizes) > MOST_COMPRESSION * path.stat().st_size:
                raise EOFError
            parts = [_rows(file, count, size) for size in sizes]
    except (OSError, EOFError, zlib.error) as error:
        reason = "it ends before what it promises" if isinstance(error, EOFError) else str(error)
        raise UserError(f"{path} cannot be read as a .spz ({reason}): export or copy it again.") from error
    positions, opacities, colors, scales, rotations, rest = parts
    unpacked = _smallest_three(rotations) if version == 3 else _first_three(rotations)
    first = (colors[:, None] / np.float32(255) - np.float32(0.5)) / np.float32(COLOR)
    rest = (rest.reshape(count, sizes[-1] // 3, 3).astype(np.float32) - 128) / 128
    splats, broken = whole(
        path,
        means=_fixed_point(positions) / np.float32(2**fraction),
        quats=unpacked,
        scales=scales / np.float32(16) - 10,
        opacities=logits(opacities / np.float32(255)),
        harmonics=np.concatenate([first, rest], axis=1),
        of_spz=True,
        antialiased=bool(flags & ANTIALIASED),
    )
    return splats.moved(torch.cat([OTHER_AXES, torch.zeros(3, 1)], dim=1), 1.0), broken


def write_spz(path: Path, splats: Splats) -> None:
    """Version 3, with as many fractional bits of positions as the scene leaves room for."""
    moved = splats.moved(torch.cat([OTHER_AXES, torch.zeros(3, 1)], dim=1), 1.0)
    reach = float(moved.means.abs().max())
    fraction = max(0, min(MOST_FRACTIONAL_BITS, math.floor(math.log2((2**23 - 1) / max(reach, 1e-6)))))
    fixed = np.rint(moved.means.double().numpy() * 2**fraction).clip(-(2**23), 2**23 - 1).astype("<i4")
    harmonics = moved.harmonics.numpy()
    parts = [
        fixed[..., None].view(np.uint8)[..., :3],
        _byte(255 * moved.opacities.sigmoid().numpy()),
        _byte(255 * (0.5 + COLOR * harmonics[:, 0])),
        _byte(16 * (moved.scales.numpy() + 10)),
        _packed_rotations(moved.quats.numpy()),
        _byte(128 + 128 * harmonics[:, 1:]),
    ]
    header = HEADER.pack(MAGIC, 3, len(fixed), splats.sh_degree, fraction, ANTIALIASED * splats.antialiased, 0)
    with written(path) as partial, gzip.GzipFile(partial, "wb", mtime=0) as file:
        file.write(header)
        for part in parts:
            file.write(np.ascontiguousarray(part).tobytes())


def _check(path: Path, version: int, count: int, degree: int, fraction: int, flags: int) -> None:
    if version not in (2, 3):
        raise UserError(f"{path} is version {version} of .spz, and 2 and 3 are read: export one of these, or a .ply.")
    if flags & EXTENDED:
        raise UserError(f"{path} is a .spz with a vendor's extensions, which are not read: export a .ply.")
    if count > MOST or degree > MOST_DEGREE or fraction > 24:
        raise UserError(
            f"{path} is damaged (its header says {count} Gaussians of degree {degree} and {fraction} fractional bits): "
            "export or copy it again."
        )


def _rows(file: gzip.GzipFile, count: int, size: int) -> np.ndarray:
    """`count` rows of so many bytes; read in pieces, so that a header that lies asks for no memory."""
    pieces, left = [], count * size
    while left:
        piece = file.read(min(left, 1 << 22))
        if not piece:
            raise EOFError
        pieces.append(piece)
        left -= len(piece)
    return np.frombuffer(b"".join(pieces), np.uint8).reshape(count, size)


def _fixed_point(positions: np.ndarray) -> np.ndarray:
    """Three signed integers of three bytes each, the lowest first."""
    low, middle, high = positions.reshape(-1, 3, 3).astype(np.int32).transpose(2, 0, 1)
    whole_number = low | middle << 8 | high << 16
    return (whole_number - (whole_number >> 23 << 24)).astype(np.float32)


def _first_three(rotations: np.ndarray) -> np.ndarray:
    """x, y and z in [−1, 1]; w is what makes the length 1, and not negative."""
    xyz = rotations / np.float32(127.5) - 1
    w = np.sqrt(np.clip(1 - (xyz**2).sum(axis=1, keepdims=True), 0, None))
    return np.concatenate([w, xyz], axis=1)


def _smallest_three(rotations: np.ndarray) -> np.ndarray:
    """Of x, y, z, w, two bits name the largest; the others follow in that order, each a sign and nine bits of √½."""
    packed = rotations.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16, 1 << 24], np.uint32)
    fields = np.stack([packed >> np.uint32(low) & np.uint32(1023) for low in (20, 10, 0)], axis=1)
    others = np.where(fields & 512, -1, 1) * (fields & 511) * np.float32(math.sqrt(0.5) / 511)
    return with_largest(others, packed >> np.uint32(30))[:, [3, 0, 1, 2]]


def _packed_rotations(quats: np.ndarray) -> np.ndarray:
    """The inverse, four bytes each."""
    xyzw = (quats / np.linalg.norm(quats, axis=1, keepdims=True))[:, [1, 2, 3, 0]]
    which = np.abs(xyzw).argmax(axis=1)
    xyzw = xyzw * np.sign(np.take_along_axis(xyzw, which[:, None], axis=1))
    others = xyzw[np.arange(4) != which[:, None]].reshape(-1, 3)
    fields = (others < 0) * 512 + np.rint(511 * np.abs(others) / math.sqrt(0.5)).clip(0, 511).astype(np.int64)
    packed = which << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    return packed.astype("<u4")[:, None].view(np.uint8)


def _byte(values: np.ndarray) -> np.ndarray:
    """The nearest byte."""
    return np.rint(values).clip(0, 255).astype(np.uint8)
