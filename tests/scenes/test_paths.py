"""Camera paths: where they lead, and what their pictures would show."""

import pytest
import torch

from pds_nerfstudio.scenes.paths import camera_path, evenly
from pds_nerfstudio.scenes.views import train_views

from .conftest import HEIGHT, WIDTH
from .test_views import datamanager


@pytest.fixture
def views(make_dataset):
    return train_views(datamanager("images", make_dataset()))


@pytest.mark.parametrize("kind", ["interpolated", "orbit"])
@pytest.mark.parametrize("frames", [2, 7, 30])
def test_a_path_has_the_frames_and_the_size_that_were_asked_for(views, kind, frames):
    cameras = camera_path(views, kind, frames, 2 * HEIGHT, 3 * WIDTH)
    assert cameras.shape == (frames,)
    assert cameras.camera_to_worlds.isfinite().all()
    assert (int(cameras.height[0]), int(cameras.width[-1])) == (2 * HEIGHT, 3 * WIDTH)
    assert float(cameras.fx[0]) == pytest.approx(3 * float(views.cameras.fx[0]))
    assert float(cameras.cy[0]) == pytest.approx(2 * float(views.cameras.cy[0]))
    rotations = cameras.camera_to_worlds[:, :, :3].double()
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).double().expand_as(rotations), atol=1e-5, rtol=0)


def test_the_training_path_is_the_training_views_in_their_order(views):
    cameras = camera_path(views, "training", 99, HEIGHT, WIDTH)
    torch.testing.assert_close(cameras.camera_to_worlds, views.cameras.camera_to_worlds)


def test_an_interpolated_path_begins_and_ends_at_training_views(views):
    path = camera_path(views, "interpolated", 20, HEIGHT, WIDTH).camera_to_worlds
    for end in (path[0], path[-1]):
        assert min(float((end - pose).abs().max()) for pose in views.cameras.camera_to_worlds) < 1e-4


def test_an_orbit_looks_at_what_the_views_look_at_from_as_far(views):
    """The dataset's cameras lie on a ring around one point, which the dataparser has moved and scaled."""
    poses = views.cameras.camera_to_worlds
    orbit = camera_path(views, "orbit", 12, HEIGHT, WIDTH).camera_to_worlds
    distance = (poses[0, :, 3] - poses[1, :, 3]).norm()
    centre = orbit[:, :, 3].mean(0)
    radii = (orbit[:, :, 3] - centre).norm(dim=-1)
    torch.testing.assert_close(radii, radii[:1].expand_as(radii), rtol=1e-4, atol=1e-5)
    assert radii[0] > 0.3 * distance
    rays = -orbit[:, :, 2]
    crossing = orbit[:, :, 3] + rays * (orbit[:, :, 3].norm(dim=-1, keepdim=True))
    assert (crossing - crossing[0]).norm(dim=-1).max() < 1.0


@pytest.mark.parametrize(("count", "wanted", "chosen"), [(3, 8, [0, 1, 2]), (12, 4, [0, 3, 6, 9]), (5, 3, [0, 1, 3])])
def test_evenly_chosen(count, wanted, chosen):
    assert evenly(count, wanted) == chosen
