"""Files of Gaussian splats in any format that is known here: what a file is, is decided by its content."""

from collections.abc import Callable
from pathlib import Path

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.formats.dot_splat import read_dot_splat, write_dot_splat
from pds_nerfstudio.scenes.formats.gltf import write_glb
from pds_nerfstudio.scenes.formats.ply import read_ply
from pds_nerfstudio.scenes.formats.spz import MAGIC, read_spz, write_spz
from pds_nerfstudio.scenes.gaussians import Splats

WRITERS: dict[str, Callable[[Path, Splats], None]] = {
    "spz": write_spz,
    "splat": write_dot_splat,
    "glb": write_glb,
}
"""What splats are exported as beside nerfstudio's own .ply, by the ending of the name."""

NOT_READ = {
    b"PK\x03\x04": "a .sog or another archive",
    b"glTF": "a glTF",
    MAGIC: "version 4 of .spz",
    ".ksplat": "a .ksplat",
    ".sog": "a .sog",
    ".lcc": "an .lcc",
}
"""What else splats come in, by the first bytes or the name's ending."""


def read_splats(path: Path) -> tuple[Splats, int]:
    """The Gaussians of a .ply (ordinary or compressed), .spz or .splat, and how many are left out as not finite.

    Raises:
        UserError: the file cannot be read, holds no Gaussians, or is of another format.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(4)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file of Gaussian splats.") from error
    if begin.startswith(b"ply"):
        return read_ply(path)
    if begin.startswith(b"\x1f\x8b"):
        return read_spz(path)
    for sign, called in NOT_READ.items():
        if sign in (begin, path.suffix.lower()):
            raise UserError(
                f"{path} is {called}, which is not read here: open it in SuperSplat, and export PLY from there."
            )
    if path.suffix.lower() == ".splat":  # which begins with a position
        return read_dot_splat(path)
    return read_ply(path)
