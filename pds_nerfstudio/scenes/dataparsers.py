"""Which of nerfstudio's dataparsers reads a folder: told by what lies in it."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import MAX_AUTO_RESOLUTION, ColmapDataParserConfig
from PIL import Image

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import visible_files
from pds_nerfstudio.pictures import UNREADABLE

COLMAP_FOLDERS = ("colmap/sparse/0", "sparse/0", "colmap/sparse", "sparse")
"""Where tools keep COLMAP's reconstruction beside `images`; Kerbl et al.'s code in the second."""
Rounding = Literal["floor", "round", "ceil"]
ROUNDINGS: dict[Rounding, Callable[[float], int]] = {
    "floor": math.floor,
    "round": lambda side: math.floor(side + 0.5),
    "ceil": math.ceil,
}
"""nerfstudio's names for how the sizes of photographs that were scaled down are rounded."""
OF_FILE = {"transforms.json": "nerfstudio-data", "transforms_train.json": "blender-data"}


def dataparser_of(data: Path, name: str | None = None) -> Any:
    """Settings of the dataparser that reads the cameras and photographs of `data`, without a cloud of points.

    Args:
        name: as `ns-train` names it; None to tell by what lies there.

    Raises:
        UserError: there is none of that name, or nothing that one could be told by.
    """
    from nerfstudio.configs.dataparser_configs import dataparsers

    if name is not None and name not in dataparsers:
        raise UserError(f"--dataparser {name} is not one of nerfstudio's: {', '.join(dataparsers)}.")
    colmap = next((path for path in COLMAP_FOLDERS if _is_reconstruction(data / path)), None)
    if name is None:
        by_file = (parser for file, parser in OF_FILE.items() if data.name == file or (data / file).is_file())
        name = next(by_file, None if colmap is None else "colmap")
    if name is None:
        raise UserError(
            f"--data {data} is no dataset that is recognised: give a folder with transforms.json, or with images and "
            "COLMAP's sparse/0, or name what reads it with --dataparser."
        )
    parser: Any = copy.deepcopy(dataparsers[name])
    parser.data = data
    if isinstance(parser, ColmapDataParserConfig):
        _fit_to_folder(parser, data, colmap)
    leave_points_out(parser)
    return parser


def leave_points_out(parser: Any) -> None:
    """Have a dataparser not read the cloud of points that a reconstruction begins from.

    Where there is a scene already nobody looks at them, and what reads them, open3d, takes seconds to import.
    """
    if hasattr(parser, "load_3D_points"):
        parser.load_3D_points = False


def parse(parser: Any) -> DataparserOutputs:
    """The training split. Raises UserError if the dataset cannot be read."""
    try:
        return parser.setup().get_dataparser_outputs("train")
    except Exception as error:  # each of fifteen parsers of strangers' files has its own
        kind = type(error).__name__ if not str(error) else first_line(error)
        raise UserError(f"--data {parser.data} cannot be read as a dataset ({kind[:200]}): check it.") from error


def _is_reconstruction(folder: Path) -> bool:
    return any((folder / f"cameras.{ending}").is_file() for ending in ("bin", "txt"))


def _fit_to_folder(parser: ColmapDataParserConfig, data: Path, colmap: str | None) -> None:
    """COLMAP's files where they are; no question whether photographs are to be scaled down."""
    if colmap is not None:
        parser.colmap_path = Path(colmap)
    images = data / parser.images_path
    if not images.is_dir():
        raise UserError(f"--data {data} has no folder {parser.images_path} beside COLMAP's: put the photographs there.")
    first = next(iter(visible_files(images)), images)
    size, factor = _size(first), 1
    while max(size) / factor > MAX_AUTO_RESOLUTION:
        factor *= 2
    scaled_down = images.with_name(f"{images.name}_{factor}") / first.relative_to(images)
    rounding = _rounding(size, factor, scaled_down) if factor > 1 and scaled_down.is_file() else None
    parser.downscale_factor = 1 if rounding is None else factor
    parser.downscale_rounding_mode = rounding or parser.downscale_rounding_mode


def _size(photograph: Path) -> tuple[int, int]:
    """Its width and height. Raises UserError if it cannot be read."""
    try:
        with Image.open(photograph) as image:
            return image.size
    except UNREADABLE as error:
        raise UserError(f"{photograph} cannot be read as a photograph ({error}): check the dataset.") from error


def _rounding(size: tuple[int, int], factor: int, scaled_down: Path) -> Rounding | None:
    """How whoever scaled a photograph down by a factor rounded its size, in nerfstudio's words; None for in no way that
    nerfstudio knows."""
    found = _size(scaled_down)
    return next(
        (name for name, rounded in ROUNDINGS.items() if found == tuple(rounded(side / factor) for side in size)), None
    )
