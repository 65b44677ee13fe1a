"""Views hand out cameras that fit their images, at any size, and that know which view they are."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.hull import project
from pds_nerfstudio.scenes.views import eval_views, train_views

KINDS = {"rays": VanillaDataManagerConfig, "images": FullImageDatamanagerConfig}


def datamanager(kind: str, data):
    parser = NerfstudioDataParserConfig(data=data, eval_mode="interval", eval_interval=4, load_3D_points=False)
    return KINDS[kind](dataparser=parser).setup(device="cpu", test_mode="val")


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_camera_carries_its_own_index_and_a_held_out_one_none(kind, make_dataset):
    manager = datamanager(kind, make_dataset())
    views, held_out = train_views(manager), eval_views(manager)
    assert (len(views), len(held_out)) == (3, 1)
    assert [views.camera(i, 8, 8).metadata["cam_idx"] for i in range(3)] == [0, 1, 2]
    assert "cam_idx" not in held_out.camera(0, 8, 8).metadata
    assert "cam_idx" not in (views.cameras.metadata or {})


@pytest.mark.parametrize("size", [(20, 16), (40, 32), (9, 13)])
def test_rays_of_a_view_are_those_of_a_pinhole_at_the_working_size(size, make_dataset):
    data = make_dataset()
    views = train_views(datamanager("rays", data))
    given = json.loads((data / "transforms.json").read_text())
    height, width = size
    for index in range(len(views)):
        camera = views.camera(index, height, width)
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        row, column = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        x = (column * given["w"] / width - given["cx"]) / given["fl_x"]
        y = (row * given["h"] / height - given["cy"]) / given["fl_y"]
        pose = views.cameras.camera_to_worlds[index]
        expected = F.normalize(torch.stack([x, -y, -torch.ones_like(x)], -1) @ pose[:, :3].T, dim=-1)
        torch.testing.assert_close(rays.directions, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(rays.origins, pose[:, 3].expand(height, width, 3))


@pytest.mark.parametrize("size", [(20, 16), (40, 32), (9, 13)])
def test_rays_of_a_panorama_go_all_around_at_the_working_size(size, make_dataset):
    data = make_dataset()
    path = data / "transforms.json"
    around = {"camera_model": "EQUIRECTANGULAR", "fl_x": 8.0, "cx": 8.0, "fl_y": 20.0, "cy": 10.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | around))
    views = train_views(datamanager("rays", data))
    height, width = size
    rays = views.camera(1, height, width).generate_rays(camera_indices=0, keep_shape=True)
    row, column = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    azimuth, polar = 2 * math.pi * (column / width - 0.5), math.pi * row / height
    directions = torch.stack([azimuth.sin() * polar.sin(), polar.cos(), -azimuth.cos() * polar.sin()], -1)
    expected = directions @ views.cameras.camera_to_worlds[1, :, :3].T
    torch.testing.assert_close(rays.directions, expected, atol=1e-5, rtol=0)


def test_fisheyes_that_were_undistorted_are_pinholes(make_dataset):
    data = make_dataset(distortion=0.05)
    path = data / "transforms.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"camera_model": "OPENCV_FISHEYE"}))
    views = {kind: train_views(datamanager(kind, data)) for kind in KINDS}
    assert set(views["rays"].cameras.camera_type.flatten().tolist()) == {CameraType.FISHEYE.value}
    camera = views["images"].camera(1, 20, 16)
    point = camera.camera_to_worlds[0] @ torch.tensor([0.4, 0.3, -1.0, 1.0])
    expected = torch.stack([0.4 * camera.fx[0] + camera.cx[0], -0.3 * camera.fy[0] + camera.cy[0]], dim=-1)
    torch.testing.assert_close(project(camera, point[None])[0], expected)


def test_a_camera_is_sent_to_a_device_once_and_whoever_gets_it_may_change_it(make_dataset):
    views = train_views(datamanager("rays", make_dataset()))
    first = views.camera(1, 8, 8, device="meta")
    pose, first.camera_to_worlds = first.camera_to_worlds, torch.zeros(1, 3, 4)
    first.metadata["cam_idx"] = 0
    again = views.camera(1, 8, 8, device="meta")
    assert again.camera_to_worlds is pose
    assert again.camera_to_worlds.is_meta
    assert again.metadata["cam_idx"] == 1
    assert not views.camera(1, 8, 8).camera_to_worlds.is_meta


def test_a_camera_at_another_size_leaves_the_dataset_as_it_is(make_dataset):
    views = train_views(datamanager("rays", make_dataset()))
    before = views.cameras.fx.clone(), views.size(1)
    views.camera(1, 64, 64)
    assert torch.equal(views.cameras.fx, before[0])
    assert views.size(1) == before[1] == (20, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_at_its_own_size_is_the_photograph(kind, make_dataset):
    manager = datamanager(kind, make_dataset())
    photograph = manager.train_dataset.get_image_float32(1).movedim(-1, 0)[None]
    torch.testing.assert_close(train_views(manager).image(1, 20, 16), photograph)


def test_resizing_keeps_the_mean_colour(make_dataset):
    views = train_views(datamanager("rays", make_dataset()))
    full, small = views.image(0, 20, 16), views.image(0, 5, 4)
    assert small.shape == (1, 3, 5, 4)
    torch.testing.assert_close(small.mean((2, 3)), full.mean((2, 3)), atol=0.03, rtol=0)


def test_undistorted_images_come_with_the_cameras_that_fit_them(make_dataset):
    manager = datamanager("images", make_dataset(distortion=0.3))
    distorted_focal = manager.train_dataset.cameras.fx.clone()
    views = train_views(manager)
    height, width = views.size(0)
    assert tuple(manager.cached_train[0]["image"].shape[:2]) == (height, width)
    assert not torch.equal(views.cameras.fx, distorted_focal)
    torch.testing.assert_close(views.camera(0, height, width).fx, views.cameras.fx[:1])


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_rays_of_undistorted_images_are_those_of_their_pinholes(model, make_dataset):
    data = make_dataset(distortion=0.2)
    path = data / "transforms.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"camera_model": model}))
    views = train_views(datamanager("images", data))
    camera = views.camera(1, *views.size(1))
    rays = camera.generate_rays(camera_indices=0, keep_shape=True).flatten()
    pixels, _ = project(camera, rays.origins + 2 * rays.directions)
    row, column = torch.meshgrid(*(torch.arange(side) + 0.5 for side in views.size(1)), indexing="ij")
    torch.testing.assert_close(pixels, torch.stack([column, row], -1).flatten(0, 1), atol=1e-4, rtol=0)


def test_transparency_shows_the_background(make_dataset):
    manager = datamanager("rays", make_dataset(channels=4))
    views = train_views(manager)
    red = torch.tensor([1.0, 0.0, 0.0])
    pixels = manager.train_dataset.get_image_float32(0)
    difference = views.image(0, 20, 16, red) - views.image(0, 20, 16)
    torch.testing.assert_close(difference[0].movedim(0, -1), (1 - pixels[..., 3:]) * red)


def test_an_unreadable_image_is_named(make_dataset):
    data = make_dataset()
    manager = datamanager("rays", data)
    broken = manager.train_dataset.image_filenames[1]
    broken.write_bytes(b"not a picture")
    views = train_views(manager)
    with pytest.raises(UserError, match=broken.name):
        views.image(1, 8, 8)


@pytest.mark.parametrize("distortion", [0.0, 0.3])
def test_photographs_are_decoded_when_one_is_asked_for_unless_they_have_to_be_undistorted(distortion, make_dataset):
    manager = datamanager("images", make_dataset(distortion=distortion))
    views = train_views(manager)
    assert ("cached_train" in vars(manager)) == (distortion != 0)
    assert views.cameras.distortion_params is None
    views.image(0, 8, 8)
    assert "cached_train" in vars(manager)


def test_one_that_is_cut_short_is_named_when_it_is_decoded(make_dataset):
    manager = datamanager("images", make_dataset())
    broken = manager.train_dataset.image_filenames[1]
    broken.write_bytes(broken.read_bytes()[:200])
    views = train_views(manager)
    with pytest.raises(UserError, match=f"{broken.name} cannot be read"):
        views.image(0, 8, 8)


def test_views_of_a_real_capture_fit_their_images(distorted):
    parser = NerfstudioDataParserConfig(data=distorted)
    manager = VanillaDataManagerConfig(dataparser=parser, eval_num_images_to_sample_from=1).setup(device="cpu")
    views = train_views(manager)
    assert len(views) == math.ceil(0.9 * len(list((distorted / "images").iterdir())))
    rays = views.camera(7, 24, 14).generate_rays(camera_indices=0, keep_shape=True)
    assert rays.shape == (24, 14)
    assert 0.1 < views.image(7, 24, 14).mean() < 0.9
