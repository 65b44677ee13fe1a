"""A dataset as it is read: each photograph is looked at before anything is trained, and what is wrong is one sentence.

nerfstudio opens photographs where it needs them, nerfacto's while the datamanager is built and splatfacto's in the
first step; of what does not fit it says what its own code stumbled over, or nothing: a palette's numbers are taken for
grays, 16 bits are cut to 8, and a fisheye without coefficients is rasterised as a pinhole.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from PIL import Image

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.pictures import UNREADABLE

READABLE = ("L", "RGB", "RGBA")
"""Kinds of pixels, in Pillow's names, that nerfstudio reads as what they are."""
OTHER = {
    "LA": "gray with transparency",
    "PA": "a palette with transparency",
    "P": "a palette",
    "1": "one bit",
    "CMYK": "inks",
    "I;16": "16 bits of gray",
    "I;16B": "16 bits of gray",
    "I": "32 bits of gray",
    "F": "floating point",
}
"""What others that users have are called."""
ORIENTATION, UPRIGHT = 0x0112, 1
"""The EXIF tag that says how a picture is to be turned, and its value for not at all."""
SEVERAL = "a scene takes photographs from several places (for a single one there is `pds preview`)"
STUMBLES = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError)
"""What a dataparser raises over a file that is not as it expects; with ValueError."""


@contextmanager
def reading_dataset(splats: bool) -> Iterator[None]:
    """Within this block, what any dataparser reads is checked, and an image that then fails to load is named.

    Args:
        splats: whether the scene is splats, which see through pinholes alone.

    Raises:
        UserError: the dataset cannot be read, or some photograph, mask or camera cannot be used.
    """
    parse = DataParser.get_dataparser_outputs
    files: list[Path] = []

    @functools.wraps(parse)
    def checked(self: Any, split: str = "train", **settings: Any) -> DataparserOutputs:
        outputs = _parsed(parse, self, split, **settings)
        check_split(outputs, split, splats)
        files.extend([*outputs.image_filenames, *(outputs.mask_filenames or ())])
        return outputs

    with patch.object(DataParser, "get_dataparser_outputs", checked):
        try:
            yield
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            if reason := unreadable(files):
                raise UserError(reason) from error
            raise


def photographs_alone(datamanager: Any) -> Any:
    """The class that a datamanager's settings build, of photographs and masks alone.

    depth-nerfacto's reads a depth file beside each photograph, and makes them with a network where there are none: only
    a reconstruction needs them.
    """
    return getattr(datamanager._target, "__origin__", datamanager._target)


def check_split(outputs: DataparserOutputs, split: str, splats: bool) -> None:
    """Look at the cameras and at the header of each photograph and mask of a split.

    Raises:
        UserError: for the first that cannot be used: names the file, what is wrong, and the mend.
    """
    paths, cameras = [Path(path) for path in outputs.image_filenames], outputs.cameras
    if split == "train" and len(paths) == 1:
        raise UserError(f"{paths[0]} is the only photograph to train on: {SEVERAL}.")
    if splats:
        _require_pinholes(paths, cameras)
    for i, path in enumerate(paths):
        wanted = int(cameras.width[i]), int(cameras.height[i])
        size = _check_picture(path, wanted)
        if outputs.mask_filenames is not None:
            _check_mask(Path(outputs.mask_filenames[i]), size, path)


def unreadable(paths: Sequence[Path]) -> str | None:
    """A sentence that names the first of these images that cannot be decoded; None where all can."""
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
        except UNREADABLE as error:
            return _cannot_be_read(path, error)
    return None


def _parsed(parse: Any, parser: Any, split: str, **settings: Any) -> DataparserOutputs:
    """What the dataparser makes of its dataset. Raises UserError where it stumbles."""
    data = parser.config.data
    try:
        return parse(parser, split, **settings)
    except ZeroDivisionError as error:  # nerfstudio divides by the distance to the outermost camera
        with patch.object(parser.config, "auto_scale_poses", False, create=True):
            check_split(parse(parser, split, **settings), split, splats=False)
        raise UserError(f"All photographs of {data} were taken from one place: {SEVERAL}.") from error
    except (ValueError, *STUMBLES) as error:
        if isinstance(error, OSError) and error.errno is None and error.filename is None:
            reason = first_line(error)
        else:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        mend = _mend_of_path(getattr(error, "filename", None), "check it, or name another")
        raise UserError(f"The dataset {data} cannot be read ({reason}): {mend}.") from error


def _require_pinholes(paths: Sequence[Path], cameras: Cameras) -> None:
    """Raise UserError for a camera that splats cannot be seen through.

    Perspective cameras and fisheyes are undistorted when their images are loaded, but none whose coefficients are all
    zero: of a fisheye that still is no pinhole.
    """
    distorted = cameras.distortion_params
    for i, path in enumerate(paths):
        kind = int(cameras.camera_type[i])
        bent = distorted is not None and bool(torch.any(distorted[i] != 0))
        if kind == CameraType.PERSPECTIVE.value or (bent and kind == CameraType.FISHEYE.value):
            continue
        name = CameraType(kind).name.lower()
        without = " without distortion coefficients" if kind == CameraType.FISHEYE.value else ""
        raise UserError(
            f"The camera of {path} is {name}{without}, and splats are seen through perspective cameras: reconstruct "
            "with source-nerfacto, which casts its rays as they are, or make perspective views of it first."
        )


def _check_picture(path: Path, wanted: tuple[int, int]) -> tuple[int, int]:
    """Raise UserError for a photograph that is missing, of pixels that nerfstudio misreads, or not its camera's size;
    returns its width and height."""
    try:
        with Image.open(path) as image:
            size, mode = image.size, image.mode
            turned = image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT if size != wanted else False
    except FileNotFoundError as error:
        mend = _mend_of_path(path, "put it back, or take its frame out of the dataset")
        raise UserError(f"The image {path} is missing: {mend}.") from error
    except UNREADABLE as error:
        raise UserError(_cannot_be_read(path, error)) from error
    if mode not in READABLE:
        what = f"{OTHER[mode]} ({mode})" if mode in OTHER else mode
        raise UserError(f"The image {path} is {what}, which nerfstudio does not read: save it as 8-bit RGB or RGBA.")
    if size != wanted:
        sizes = f"The image {path} has {size[0]} x {size[1]} pixels and its camera {wanted[0]} x {wanted[1]}"
        if turned and size == wanted[::-1]:
            raise UserError(
                f"{sizes}: its EXIF orientation asks viewers to turn it, and nerfstudio reads pixels as they are "
                "stored. Turn the pixels (`mogrify -auto-orient`), or give the cameras as stored."
            )
        raise UserError(f"{sizes}: give w, h and the intrinsics of the images that are there, or those images.")
    return size


def _check_mask(path: Path, size: tuple[int, int], of: Path) -> None:
    try:
        with Image.open(path) as image:
            own, bands = image.size, image.getbands()
    except FileNotFoundError as error:
        raise UserError(f"The mask {path} of {of} is missing: put it back, or take mask_path out.") from error
    except UNREADABLE as error:
        raise UserError(_cannot_be_read(path, error, "mask")) from error
    if own != size:
        raise UserError(
            f"The mask {path} has {own[0]} x {own[1]} pixels and {of} {size[0]} x {size[1]}: give masks of the images' "
            "size."
        )
    if len(bands) > 1:
        raise UserError(
            f"The mask {path} has colours or transparency, and nerfstudio reads gray ones: save it as gray."
        )


def _mend_of_path(path: object, otherwise: str) -> str:
    """What to do about a file that is not there: Windows' paths name no folder here."""
    return "write / for every \\ in the dataset's paths" if "\\" in str(path) else otherwise


def _cannot_be_read(path: Path, error: Exception, what: str = "image") -> str:
    return f"The {what} {path} cannot be read ({first_line(error)}): replace it, or take it out of the dataset."
