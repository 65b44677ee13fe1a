"""Studio captures that come with the package: photographs that need no renderer.

captures/NAME/source/            nerfstudio dataset: JPEGs, masks, sparse points; no depth, which would be most of it
captures/NAME/EDIT/target/       what the held-out views should become
captures/NAME/EDIT/edit.json     prompts
"""

import json
import shutil
from pathlib import Path

from PIL import Image

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole, written
from pds_nerfstudio.studio.spec import STILLS, Still

PACKAGED = Path(__file__).parent / "captures"
RECONSTRUCTION = {
    "max_num_iterations": 1500,
    "pipeline.model.resolution_schedule": 300,
    "pipeline.model.stop_split_at": 750,
}
"""What `source-splatfacto` needs to show a capture in minutes on a CPU. Left alone, its densification doubles the
number of Gaussians every two hundred steps."""


def packaged() -> list[Still]:
    """The captures that are in this installation."""
    return [still for still in STILLS if is_complete(still, PACKAGED / still.name)]


def is_complete(still: Still, folder: Path) -> bool:
    """Whether a capture and all its edits were written to the end."""
    targets = [folder / edit.name / "target" for edit in still.edits]
    return all((scene / "transforms.json").is_file() for scene in (folder / "source", *targets))


def copy_capture(still: Still, folder: Path) -> None:
    """Write a packaged capture to FOLDER/source, FOLDER/EDIT/target and FOLDER/EDIT/edit.json.

    Files that are there already are kept, and the others appear whole, so that an interrupted copy can be repeated.

    Raises:
        UserError: it is not in this installation, or the disk is full.
    """
    if not is_complete(still, PACKAGED / still.name):
        known = ", ".join(found.name for found in packaged()) or "none"
        raise UserError(
            f"The capture {still.name!r} is not in this installation, which has: {known}. `make studio` renders all."
        )
    for name in files_of(still):
        if not (folder / name).exists():
            with written(folder / name) as partial:
                shutil.copyfile(PACKAGED / still.name / name, partial)


def files_of(still: Still) -> list[Path]:
    """What a packaged capture consists of, relative to its folder."""
    capture = PACKAGED / still.name
    return sorted(path.relative_to(capture) for path in capture.rglob("*") if path.is_file())


def pack(still: Still, rendered: Path, folder: Path, quality: int) -> int:
    """Write a rendered capture with JPEGs instead of PNGs and without depth; returns its size in bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    _pack_scene(rendered / "source", folder / "source", quality)
    for edit in still.edits:
        _pack_scene(rendered / edit.name / "target", folder / edit.name / "target", quality)
        shutil.copy(rendered / edit.name / "edit.json", folder / edit.name / "edit.json")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _pack_scene(rendered: Path, folder: Path, quality: int) -> None:
    transforms = json.loads((rendered / "transforms.json").read_text())
    renamed = {}
    for frame in transforms["frames"]:
        name = frame["file_path"]
        renamed[name] = str(Path(name).with_suffix(".jpg"))
        with written(folder / renamed[name]) as partial:
            Image.open(rendered / name).save(partial, quality=quality, subsampling=0, optimize=True, format="JPEG")
        mask = frame["object_mask_path"]
        with written(folder / mask) as partial:
            # Sixteen levels of coverage halve the file.
            Image.open(rendered / mask).quantize(16).save(partial, optimize=True)
        frame["file_path"] = renamed[name]
        del frame["depth_file_path"]
    for split in ("train", "val", "test"):
        transforms[f"{split}_filenames"] = [renamed[name] for name in transforms[f"{split}_filenames"]]
    if transforms["train_filenames"]:
        shutil.copy(rendered / "sparse.ply", folder / "sparse.ply")
    else:  # nothing is reconstructed from an edit's answer
        del transforms["ply_file_path"]
    write_whole(folder / "transforms.json", json.dumps(transforms))
