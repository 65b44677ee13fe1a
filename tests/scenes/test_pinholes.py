"""Perspective cameras in the place of others see what those see."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.hull import project
from pds_nerfstudio.scenes.pinholes import pinholes
from pds_nerfstudio.scenes.views import Views

from .conftest import look_at_origin


def views(sizes: list[tuple[int, int]], focal: float, kind: CameraType) -> Views:
    poses = torch.stack([look_at_origin(1.3 * i) for i in range(len(sizes))])
    heights, widths = (torch.tensor(side)[:, None] for side in zip(*sizes, strict=True))
    fx = torch.full((len(sizes), 1), focal)
    cameras = Cameras(poses, fx, 1.1 * fx, widths / 2, heights / 2, widths, heights, camera_type=kind)
    return Views(cameras, lambda index: torch.zeros(1), ("a.png",) * len(sizes), in_training=True)


def test_cameras_of_several_sizes_become_one_size_and_see_the_same():
    mixed = views([(20, 30), (40, 16)], 25.0, CameraType.PERSPECTIVE)
    same = pinholes(mixed)
    assert set(same.height.flatten().tolist()) == {20}
    assert set(same.width.flatten().tolist()) == {30}
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    for i, (height, width) in enumerate([(20, 30), (40, 16)]):
        place, depth = project(mixed.cameras[i : i + 1], points)
        shown, as_deep = project(same[i : i + 1], points)
        torch.testing.assert_close(shown / torch.tensor([30.0, 20.0]), place / torch.tensor([width, height]))
        torch.testing.assert_close(as_deep, depth)


def test_the_sides_of_a_panorama_see_every_direction_once_and_at_its_place():
    panorama = views([(24, 48)], 24.0, CameraType.EQUIRECTANGULAR)
    panorama.cameras.fy[:] = 24.0
    sides = pinholes(panorama)
    directions = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    points = panorama.cameras.camera_to_worlds[0, :, 3] + directions
    seen = torch.zeros(500)
    for i in range(6):
        place, depth = project(sides[i : i + 1], points)
        inside = (depth > 0) & ((place >= 0) & (place < 12)).all(-1)
        seen += inside
        rays = sides.generate_rays(i, coords=place[inside].flip(-1))
        torch.testing.assert_close(rays.directions, torch.nn.functional.normalize(directions[inside], dim=-1))
    assert (seen == 1).all()


def test_the_middle_of_a_fisheye_keeps_its_place():
    fisheye = views([(20, 20)], 9.0, CameraType.FISHEYE)
    centre = fisheye.cameras.camera_to_worlds[0, :, 3] - fisheye.cameras.camera_to_worlds[0, :, 2]
    for camera in (fisheye.cameras, pinholes(fisheye)):
        torch.testing.assert_close(project(camera, centre[None])[0], torch.tensor([[10.0, 10.0]]))


def test_cameras_of_other_kinds_are_refused():
    with pytest.raises(UserError, match=r"a\.png has a camera that is orthophoto"):
        pinholes(views([(20, 20)], 9.0, CameraType.ORTHOPHOTO))
