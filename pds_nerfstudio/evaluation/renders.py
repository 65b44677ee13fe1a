"""Matched renderings before and after an edit: films, stills, sheets, and the scene as a file for other programs."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.before_after import Pair, load_run, set_up
from pds_nerfstudio.files import distinct_names, written
from pds_nerfstudio.pictures import heat, save_image, side_by_side, video
from pds_nerfstudio.scenes.formats.splat_files import WRITERS, read_splats
from pds_nerfstudio.scenes.hull import box_of
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.pinholes import pinholes
from pds_nerfstudio.scenes.scene import Family
from pds_nerfstudio.scenes.shots import Shot, before_after_sheet, depth_pictures, shoot, shown_camera, view_camera
from pds_nerfstudio.scenes.views import train_views

SHEET_COLUMNS = 8
CPU_MESH = {"unwrap_method": "custom", "target_num_faces": 5000}
"""A mesh that two cores can texture: of nerfstudio's 50,000 faces the charts alone took more than seven minutes."""
MESH_RESOLUTION = 128
"""Voxels along the longest side of a mesh's bounding box."""

OnFrame = Callable[[], None]


def film(
    before: Model,
    after: Model,
    cameras: Cameras,
    path: Path,
    labels: tuple[str, str],
    sides: tuple[Path, Path] | None = None,
    fps: int = 20,
    on_frame: OnFrame = lambda: None,
    times: float = 1.0,
) -> list[tuple[Shot, Shot]]:
    """Film both scenes along one path, side by side.

    Args:
        path: where the film goes, an MP4.
        sides: where each side goes as a film of its own, frame by frame the same: what a before/after slider takes.
        times: how many times larger it is than the photographs.

    Returns:
        up to eight frames of it, evenly chosen, before and after.
    """
    keep, kept = evenly(len(cameras), SHEET_COLUMNS), []
    with ExitStack() as stack:
        both = stack.enter_context(video(path, fps))
        each = [stack.enter_context(video(side, fps)) for side in sides or ()]
        for i in range(len(cameras)):
            pair = shoot(before, cameras[i : i + 1], times), shoot(after, cameras[i : i + 1], times)
            both(side_by_side([shot.image for shot in pair], labels))
            for add, shot in zip(each, pair, strict=False):
                add(shot.image)
            if i in keep:
                kept.append(pair)
            on_frame()
    return kept


def film_alone(scene: Model, cameras: Cameras, path: Path, fps: int = 20, times: float = 1.0) -> None:
    """Film one scene along a path: an MP4, so many times larger than the photographs."""
    with video(path, fps) as add:
        for i in range(len(cameras)):
            add(shoot(scene, cameras[i : i + 1], times).image)


def still_views(
    pair: Pair, folder: Path, sheet: Path, title: str, short_side: int | None, on_frame: OnFrame = lambda: None
) -> None:
    """The held-out views: FOLDER/{before,after,change,depth_before,depth_after}/VIEW.png; a sheet of up to eight."""
    keep, kept = evenly(len(pair.held_out), SHEET_COLUMNS), []
    for i, name in enumerate(distinct_names(pair.held_out.names)):
        camera, times = shown_camera(pair.held_out, i, short_side, pair.after)
        before, after = shoot(pair.before, camera, times), shoot(pair.after, camera, times)
        depth_before, depth_after = depth_pictures(before, after)
        pictures = {
            "before": before.image,
            "after": after.image,
            "change": heat(after.image[None], before.image[None])[0],
            "depth_before": depth_before,
            "depth_after": depth_after,
        }
        for kind, picture in pictures.items():
            save_image(picture, folder / kind / f"{name}.png")
        if i in keep:
            kept.append((before, after))
        on_frame()
    before_after_sheet([b for b, _ in kept], [a for _, a in kept], sheet, title)


def export(
    config_path: Path, family: Family, folder: Path, name: str = "splat.ply", data: Path | None = None, **mesh: Any
) -> Path:
    """The scene as a file by nerfstudio's own exporters: Gaussians of splats, a textured TSDF mesh of a NeRF.

    Args:
        name: of the Gaussians' file; a mesh is always tsdf_mesh.ply.
        data: the dataset, where it is not at the place that the run names.
        mesh: settings of nerfstudio's `ExportTSDFMesh`, by default its own on a GPU and `CPU_MESH` elsewhere.
    """
    from unittest.mock import patch

    from nerfstudio.scripts import exporter

    def loaded(path: Path, **settings: Any) -> Any:
        """What nerfstudio's own set-up returns: that one reads a copied run's original, and runs code."""
        made = set_up(path, data=data, **settings)
        if family == "nerfacto":  # its meshes are made from what perspective cameras of one size see
            dataset: Any = made[1].datamanager.train_dataset
            cameras = pinholes(train_views(made[1].datamanager))
            dataset._dataparser_outputs = dataclasses.replace(dataset._dataparser_outputs, cameras=cameras)
        return made

    made = "tsdf_mesh.ply" if family == "nerfacto" else name
    with patch.object(exporter, "eval_setup", loaded), meshing(config_path), written(folder / made) as partial:
        private = partial.parent
        if family == "nerfacto":
            settings: dict[str, Any] = ({} if torch.cuda.is_available() else CPU_MESH) | mesh
            exporter.ExportTSDFMesh(load_config=config_path, output_dir=private, **settings).main()
        else:
            exporter.ExportGaussianSplat(load_config=config_path, output_dir=private, output_filename=name).main()
        for file in private.iterdir():
            if file != partial:  # such as a mesh's texture
                file.replace(folder / file.name)
    return folder / made


@contextmanager
def meshing(config_path: Path) -> Iterator[None]:
    """Within this block, a run without any surface is named as that. Raises UserError for it."""
    try:
        yield
    except ValueError as error:
        if "Surface level" not in str(error):  # scikit-image's marching cubes, which found none
            raise
        raise UserError(
            f"{config_path.parent} has no surface to make a mesh of in the part of its scene that meshes are made of: "
            "train it longer."
        ) from error


def convert(ply: Path, formats: Iterable[str], antialiased: bool = False) -> list[Path]:
    """Gaussians of a .ply as files of other formats beside it; see `scenes.formats.splat_files.WRITERS`.

    Args:
        antialiased: see `Splats.antialiased`; a .ply does not tell.
    """
    splats = dataclasses.replace(read_splats(ply)[0], antialiased=antialiased)
    files = []
    for ending in formats:
        files.append(ply.with_suffix(f".{ending}"))
        WRITERS[ending](files[-1], splats)
    return files


@torch.no_grad()
def export_splat_mesh(config_path: Path, path: Path, short_side: int = 512, data: Path | None = None) -> Path:
    """A mesh of splats with coloured vertices, from the depth of their training views.

    nerfstudio's `ns-export tsdf` asks for rays, which splats do not have; its TSDF does not.
    """
    from nerfstudio.exporter.tsdf_utils import TSDF

    pipeline = load_run(config_path, data=data)
    model: Any = pipeline.model
    views = train_views(pipeline.datamanager)
    solid = model.means[torch.sigmoid(model.opacities).squeeze(-1) > 0.5].cpu()
    solid = solid if len(solid) else model.means.cpu()
    low, high = box_of(solid)
    size = (high - low).clamp(min=1e-3)
    low, high = low - 0.1 * size, high + 0.1 * size
    dims = (MESH_RESOLUTION * (high - low) / (high - low).max()).ceil().long().clamp(min=8)
    tsdf = TSDF.from_aabb(torch.stack([low, high]), dims)
    for i in range(len(views)):
        camera = view_camera(views, i, short_side, model.device)
        shot = shoot(model, camera)
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        distance = shot.depth * rays.metadata["directions_norm"][..., 0].cpu()
        distance = torch.where(shot.accumulation > 0.5, distance, 0.0)  # 0: not seen
        pose = torch.eye(4)[None].clone()
        pose[0, :3] = model.camera_optimizer.apply_to_camera(camera)[0, :3].cpu()  # from where it was rendered
        tsdf.integrate_tsdf(pose, camera.get_intrinsics_matrices().cpu(), distance[None, None], shot.image[None])
    with meshing(config_path), written(path) as partial:
        TSDF.export_mesh(tsdf.get_mesh(), str(partial))
    return path
