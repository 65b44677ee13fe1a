"""Writes toybox scenes as nerfstudio datasets: images, exact depth, object masks, poses and a sparse point cloud.

FOLDER/transforms.json      poses, intrinsics, train/val/test split, `ply_file_path`
FOLDER/images/*.png         RGB
FOLDER/depth/*.png          16-bit millimetres along the optical axis, 0 on the background
FOLDER/object_masks/*.png   share of the pixel that shows the object (not a training mask: nothing is hidden)
FOLDER/sparse.ply           points on the visible surfaces
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import from_json, is_vacant, write_whole, written
from pds_nerfstudio.toybox.render import RGB, RenderedViews, camera_rays, focal_length, orbit_cameras, render
from pds_nerfstudio.toybox.spec import SceneSpec, ToyEdit

MILLIMETRES_PER_METRE = 1000


def capture_cameras(num_views: int, seed: int) -> Float[Tensor, "views 3 4"]:
    """Cameras of a hand-held walk around the object: golden-ratio azimuths, elevations of 14 to 46 degrees."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(num_views)
    golden = (math.sqrt(5) - 1) / 2
    azimuth = 2 * math.pi * ((index * golden + torch.rand((), generator=generator)) % 1)
    elevation = torch.deg2rad(14 + 32 * torch.rand(num_views, generator=generator))
    return orbit_cameras(azimuth, elevation)


def write_scene(
    spec: SceneSpec,
    folder: Path,
    train_views: int = 40,
    test_views: int = 8,
    size: int = 64,
    num_points: int = 3000,
    seed: int = 0,
    paint: RGB | None = None,
) -> RenderedViews:
    """Renders `spec` and writes it as a nerfstudio dataset; returns the views, training views first.

    Cameras depend on the seed and the counts alone, so two scenes written with the same ones share them. With `paint`,
    the object has that colour, RGB in [0, 1], which need not be one that has a name.
    """
    names, cameras = capture_views(train_views, test_views, seed)
    views = render(spec, cameras, size, size, paint=paint)
    for i, name in enumerate(names):
        write_view(folder, name, views.image[i], views.depth[i], views.mask[i])
    write_points(folder / "sparse.ply", *surface_points(views, cameras, num_points, seed))
    write_transforms(folder, names, cameras, train_views, size)
    return views


def capture_views(train_views: int, test_views: int, seed: int) -> tuple[list[str], Float[Tensor, "views 3 4"]]:
    """Names and cameras of a capture's pictures, training views first."""
    cameras = torch.cat([capture_cameras(train_views, 2 * seed), capture_cameras(test_views, 2 * seed + 1)])
    names = [f"train_{i:03d}.png" for i in range(train_views)] + [f"test_{i:03d}.png" for i in range(test_views)]
    return names, cameras


def write_view(
    folder: Path,
    name: str,
    image: Float[Tensor, "height width 3"],
    depth: Float[Tensor, "height width"],
    mask: Float[Tensor, "height width"],
) -> None:
    """One view's picture, depth and mask, the picture last: where it is, the others are."""
    _write_png(folder / "object_masks" / name, mask)
    millimetres = (depth * MILLIMETRES_PER_METRE).round().numpy().astype(np.uint16)
    _save(Image.fromarray(millimetres), folder / "depth" / name)
    _write_png(folder / "images" / name, image)


def write_transforms(
    folder: Path, names: Sequence[str], cameras: Float[Tensor, "views 3 4"], train_views: int, size: int
) -> None:
    """transforms.json: what nerfstudio's parser reads. Views after the first `train_views` are held out."""
    frames = []
    for name, camera in zip(names, cameras, strict=True):
        matrix = torch.cat([camera, torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
        frames.append(
            {
                "file_path": f"images/{name}",
                "depth_file_path": f"depth/{name}",
                "object_mask_path": f"object_masks/{name}",
                "transform_matrix": matrix.tolist(),
            }
        )
    held_out = [frame["file_path"] for frame in frames[train_views:]]
    transforms = {
        "camera_model": "OPENCV",
        "fl_x": focal_length(size),
        "fl_y": focal_length(size),
        "cx": size / 2,
        "cy": size / 2,
        "w": size,
        "h": size,
        "ply_file_path": "sparse.ply",
        "train_filenames": [frame["file_path"] for frame in frames[:train_views]],
        "val_filenames": held_out,
        "test_filenames": held_out,
        "frames": frames,
    }
    write_whole(folder / "transforms.json", json.dumps(transforms, indent=1))


def write_edit(edit: ToyEdit, folder: Path, **settings: Any) -> tuple[RenderedViews, RenderedViews]:
    """Writes FOLDER/source and FOLDER/target, the same cameras in both, and FOLDER/edit.json with the prompts."""
    write_description(edit, folder, prior="toybox", **settings)
    source = write_scene(edit.source, folder / "source", **settings)
    target = write_scene(edit.target, folder / "target", **settings)
    return source, target


def require_folder_of(name: str, folder: Path, settings: Mapping[str, int] | None = None) -> None:
    """Raise UserError where a folder holds something else than the edit of that name, or photographs by other settings,
    from which a run may have been made."""
    if is_vacant(folder):
        return
    settings = settings or {}
    try:
        there = from_json(folder / "edit.json")
        known, written = there["name"], {field: there.get(field, value) for field, value in settings.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known, written = None, {}
    if known != name:
        raise UserError(f"{folder} holds something else than {name}: give a folder that is new with --out.")
    other = next((field for field, value in settings.items() if written[field] != value), None)
    if other is not None:
        flag = f"--{other.replace('_', '-')}"
        raise UserError(
            f"{folder} was made with {flag} {written[other]}, and runs may have been made from it: give a folder that "
            "is new with --out."
        )


def write_description(edit: Any, folder: Path, **further: str | int) -> None:
    """FOLDER/edit.json: name, kind and prompts of an edit of toybox or of studio, the prior that knows it, and the
    settings by which it was written."""
    description = further | {
        "name": edit.name,
        "kind": edit.kind,
        "source_prompt": edit.source_prompt,
        "target_prompt": edit.target_prompt,
    }
    write_whole(folder / "edit.json", json.dumps(description, indent=1))


def read_geometry(
    folder: Path, names: Sequence[str | Path]
) -> tuple[Float[Tensor, "views height width"], Float[Tensor, "views 3 4"]]:
    """Exact depth in metres, 0 on the background, and cameras (OpenGL, camera to world) of a written scene's views.

    Args:
        names: the views' image files; only the last parts of their paths count.
    """
    return read_depth(folder, [Path(name).name for name in names]), read_poses(folder, names)


def read_poses(folder: Path, names: Sequence[str | Path]) -> Float[Tensor, "views 3 4"]:
    """The cameras alone of `read_geometry`."""
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    matrices = {Path(frame["file_path"]).name: frame["transform_matrix"] for frame in frames}
    return torch.tensor([matrices[Path(name).name] for name in names])[:, :3]


def read_depth(folder: Path, names: Sequence[str]) -> Float[Tensor, "views height width"]:
    """Exact depth in metres, 0 on the background, of a scene's views that are written."""
    depth = [np.asarray(Image.open(folder / "depth" / name), dtype=np.float32) for name in names]
    return torch.from_numpy(np.stack(depth)) / MILLIMETRES_PER_METRE


def surface_points(
    views: RenderedViews, camera_to_world: Float[Tensor, "views 3 4"], num_points: int, seed: int
) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points 3"]]:
    """Positions (metres) and colours in [0, 1] of random surface points that some view sees."""
    origins, directions = camera_rays(camera_to_world, *views.depth.shape[1:])
    depth = views.depth.flatten(1)
    seen = (depth > 0).nonzero()
    chosen = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed))[:num_points]]
    v, p = chosen.unbind(-1)
    return origins[v, p] + depth[v, p, None] * directions[v, p], views.image.flatten(1, 2)[v, p]


def change_mask(
    source: Float[Tensor, "*views height width 3"],
    target: Float[Tensor, "*views height width 3"],
    threshold: float = 0.03,
    margin: int = 2,
) -> Float[Tensor, "*views height width"]:
    """1 where the two ground-truth images differ by more than `threshold` in a channel, grown by `margin` pixels."""
    changed = ((source - target).abs().amax(dim=-1) > threshold).to(source)
    flat = changed.reshape(-1, 1, *changed.shape[-2:])
    grown = torch.nn.functional.max_pool2d(flat, 2 * margin + 1, stride=1, padding=margin)
    return grown.reshape(changed.shape)


def _write_png(path: Path, values: Float[Tensor, "height width *channels"]) -> None:
    _save(Image.fromarray((values * 255).round().clamp(0, 255).to(torch.uint8).numpy()), path)


def _save(image: Image.Image, path: Path) -> None:
    """Whole or not at all: a scene is drawn again where it was interrupted."""
    with written(path) as partial:
        image.save(partial)


def write_points(path: Path, points: Float[Tensor, "points 3"], colours: Float[Tensor, "points 3"]) -> None:
    """A point cloud as PLY: metres, colours in [0, 1]."""
    header = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(points)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        "end_header",
    ]
    rows = [
        "{:.5f} {:.5f} {:.5f} {} {} {}".format(*point, *colour)
        for point, colour in zip(points.tolist(), (colours * 255).round().int().tolist(), strict=True)
    ]
    write_whole(path, "\n".join([*header, *rows]) + "\n")
