"""Writes studio scenes as nerfstudio datasets, laid out as toybox's.

FOLDER/studio.json says which scene it is and how it was photographed; the rest is as toybox/dataset.py says.

Views that are there already are kept, so that a rendering that was interrupted goes on where it stopped.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import from_json, is_vacant, write_whole
from pds_nerfstudio.studio.photography import Photography
from pds_nerfstudio.studio.render import FULL_DETAIL, Studio
from pds_nerfstudio.studio.spec import Still, StudioEdit, StudioSpec
from pds_nerfstudio.toybox.dataset import (
    capture_views,
    read_depth,
    surface_points,
    write_description,
    write_points,
    write_transforms,
    write_view,
)
from pds_nerfstudio.toybox.render import RenderedViews

Say = Callable[[str], None]
"""Told what was rendered."""


def write_scene(
    spec: StudioSpec, folder: Path, how: Photography, say: Say = print, threads: int = 0, held_out_only: bool = False
) -> None:
    """Renders what is missing of a scene and writes it as a nerfstudio dataset.

    Args:
        threads: of Mitsuba; 0 for as many as there are cores.
        held_out_only: for an edit's right answer, which is measured on and not reconstructed.

    Raises:
        UserError: another scene is in the folder, or Mitsuba is not installed.
    """
    _claim(spec, folder, how)
    names, cameras = capture_views(how.train_views, how.test_views, how.seed)
    first = how.train_views if held_out_only else 0
    names, cameras = names[first:], cameras[first:]
    studio: Studio | None = None
    for i, name in enumerate(names):
        if (folder / "images" / name).exists():
            continue
        studio = studio or Studio(spec, threads, how.size / FULL_DETAIL)
        image = studio.photograph(cameras[i], how.size, how.samples, how.denoise, seed=first + i)
        write_view(folder, name, image, *studio.geometry(cameras[i], how.size))
        say(f"{folder / 'images' / name}")
    images = np.stack([np.asarray(Image.open(folder / "images" / name)) for name in names])
    depth = read_depth(folder, names)
    views = RenderedViews(torch.from_numpy(images).float() / 255, depth, torch.zeros_like(depth))
    write_points(folder / "sparse.ply", *surface_points(views, cameras, how.num_points, how.seed))
    write_transforms(folder, names, cameras, how.train_views - first, how.size)


def write_edit(edit: StudioEdit, folder: Path, how: Photography, say: Say = print, threads: int = 0) -> None:
    """Writes FOLDER/source, FOLDER/target (the held-out views alone, from the same cameras) and FOLDER/edit.json."""
    write_description(edit, folder, prior="studio")
    write_scene(edit.source, folder / "source", how, say, threads)
    write_scene(edit.target, folder / "target", how, say, threads, held_out_only=True)


def write_still(still: Still, folder: Path, how: Photography, say: Say = print, threads: int = 0) -> None:
    """Writes FOLDER/source and, for each of its edits, FOLDER/EDIT/target and FOLDER/EDIT/edit.json."""
    write_scene(still.source, folder / "source", how, say, threads)
    for edit in still.edits:
        write_description(edit, folder / edit.name, prior="studio")
        write_scene(edit.target, folder / edit.name / "target", how, say, threads, held_out_only=True)


def _claim(spec: StudioSpec, folder: Path, how: Photography) -> None:
    """Note in the folder what is photographed there, and how."""
    note = folder / "studio.json"
    said = asdict(spec) | asdict(how)
    there = None
    with suppress(OSError, ValueError):
        there = from_json(note)
    if there != said and not is_vacant(folder):
        raise UserError(
            f"{folder} holds something else, or a scene with other settings: give a folder that is new with --out."
        )
    write_whole(note, json.dumps(said, indent=1))
