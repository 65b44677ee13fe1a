"""Which of nerfstudio's dataparsers reads a folder: told by what lies in it."""

import copy
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import MAX_AUTO_RESOLUTION, ColmapDataParserConfig
from PIL import Image

from pds_nerfstudio.errors import UserError, first_line

COLMAP_FOLDERS = ("colmap/sparse/0", "sparse/0", "colmap/sparse", "sparse")
"""Where tools keep COLMAP's reconstruction beside `images`; Kerbl et al.'s code in the second."""
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
    first = next((path for path in sorted(images.rglob("*")) if path.is_file()), None)
    try:
        with Image.open(first or images) as image:
            longest = max(image.size)
    except OSError as error:
        raise UserError(f"{first or images} cannot be read as a photograph ({error}): check the dataset.") from error
    factor = 1
    while longest / factor > MAX_AUTO_RESOLUTION:
        factor *= 2
    scaled_down = images.with_name(f"{images.name}_{factor}")
    parser.downscale_factor = factor if factor > 1 and scaled_down.is_dir() else 1
