"""An object as a capture of Noe's protocol (Le et al. 2024, A.1): a mesh, normalised and rendered from its cameras.

    python data_scripts/make_noe_scene.py --mesh flower_box.glb --out data/noe/flower-box
    ns-train source-nerfacto --max-num-iterations 10000 blender-data --data data/noe/flower-box

100 training views lie uniformly on the upper hemisphere, 120 test views on a circle at an elevation of 15°, all at a
distance of 4 under a field of view of 50°. The object's bounding box gets a longest side of 2 ("roughly 2.0" in A.1,
which also speaks of "the radius of 2"; nerfstudio's blender-data reads a box from −1.5 to 1.5). NeRF-synthetic's
folders have this layout and size already. Pictures are Blender's, from its Python module (`bpy`, GPL, not among this
package's dependencies: install it in an environment of its own). Rendering by it has not been run here.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

DISTANCE, FIELD_OF_VIEW, ELEVATION = 4.0, math.radians(50), math.radians(15)
TRAIN_VIEWS, TEST_VIEWS = 100, 120
LONGEST_SIDE = 2.0


def normalisation(points: NDArray[np.floating]) -> tuple[NDArray[np.floating], float]:
    """Centre c and factor s such that s · (points − c) has a bounding box around the origin, its longest side 2.

    Args:
        points: an object's vertices, [points 3].
    """
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, LONGEST_SIDE / float((high - low).max())


def look_at_origin(position: NDArray[np.floating]) -> NDArray[np.floating]:
    """Camera to world [4 4] from there to the origin: OpenGL axes, z up."""
    back = position / np.linalg.norm(position)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(back, right), back, position], axis=1)
    return matrix


def hemisphere_cameras(count: int = TRAIN_VIEWS, seed: int = 0) -> list[NDArray[np.floating]]:
    """Cameras spread uniformly over the upper hemisphere: its height is uniform (Archimedes)."""
    draws = np.random.default_rng(seed)
    azimuths, heights = draws.uniform(0, 2 * math.pi, count), draws.uniform(0, 0.999, count)
    return [_on_sphere(azimuth, math.asin(height)) for azimuth, height in zip(azimuths, heights, strict=True)]


def circle_cameras(count: int = TEST_VIEWS) -> list[NDArray[np.floating]]:
    """Cameras on one circle around the object."""
    return [_on_sphere(2 * math.pi * i / count, ELEVATION) for i in range(count)]


def _on_sphere(azimuth: float, elevation: float) -> NDArray[np.floating]:
    across = math.cos(elevation)
    direction = [across * math.cos(azimuth), across * math.sin(azimuth), math.sin(elevation)]
    return look_at_origin(DISTANCE * np.array(direction))


def write_split(folder: Path, split: str, cameras: list[Any], field_of_view: float = FIELD_OF_VIEW) -> list[Path]:
    """Write transforms_SPLIT.json in NeRF-synthetic's layout; returns where each camera's RGBA picture belongs."""
    names = [f"{split}/r_{i:03d}" for i in range(len(cameras))]
    frames = [
        {"file_path": f"./{name}", "transform_matrix": np.asarray(camera).tolist()}
        for name, camera in zip(names, cameras, strict=True)
    ]
    (folder / split).mkdir(parents=True, exist_ok=True)
    described = {"camera_angle_x": field_of_view, "frames": frames}
    (folder / f"transforms_{split}.json").write_text(json.dumps(described, indent=1))
    return [folder / f"{name}.png" for name in names]


def main(mesh: Path, out: Path, size: int = 512, seed: int = 0) -> None:
    """Render a mesh into a folder for `ns-train … blender-data`.

    Args:
        mesh: a .glb, .gltf or .obj file, as Objaverse has them.
        out: the folder to write.
        size: width and height of the pictures in pixels.
        seed: of the training cameras.
    """
    try:
        import bpy  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SystemExit(
            "Rendering needs Blender's Python module bpy: install it in an environment of its own."
        ) from None
    splits = {"train": hemisphere_cameras(seed=seed), "val": circle_cameras(8), "test": circle_cameras()}
    bpy.ops.wm.read_factory_settings(use_empty=True)
    read = bpy.ops.wm.obj_import if mesh.suffix == ".obj" else bpy.ops.import_scene.gltf
    read(filepath=str(mesh))
    objects = [thing for thing in bpy.context.scene.objects if thing.type == "MESH"]
    corners = [thing.matrix_world @ vertex.co for thing in objects for vertex in thing.data.vertices]
    centre, scale = normalisation(np.array(corners))
    root = bpy.data.objects.new("root", None)
    bpy.context.scene.collection.objects.link(root)
    for thing in bpy.context.scene.objects:
        if thing.parent is None and thing is not root:
            thing.parent = root
    root.scale, root.location = [scale] * 3, -scale * centre
    scene = bpy.context.scene
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.film_transparent, scene.render.image_settings.color_mode = True, "RGBA"
    scene.world = bpy.data.worlds.new("even light")
    scene.world.use_nodes = True
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.angle = FIELD_OF_VIEW
    scene.collection.objects.link(camera)
    scene.camera = camera
    for split, cameras in splits.items():
        for matrix, path in zip(cameras, write_split(out, split, cameras), strict=True):
            camera.matrix_world = matrix.T.tolist()  # Blender reads columns
            scene.render.filepath = str(path.resolve())
            bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
