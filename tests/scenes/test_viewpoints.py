"""What a prior is told of a capture's cameras, and the orbits that it may be shown."""

import math

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.orbit import VIEWS, Subject, orbit_cameras
from pds_nerfstudio.scenes.viewpoints import capture_of, orbits_of, view_word, views_of
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import focal_length, toybox_matrices

SIZE = 64


def cameras_at(poses: torch.Tensor, height: int = SIZE, width: int = SIZE, **given) -> Cameras:
    focal = focal_length(min(height, width))
    return Cameras(poses, focal, focal, width / 2, height / 2, width, height, **given)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_toybox_prior_is_told_what_it_was_trained_with():
    poses = capture_cameras(40, 0)
    close(capture_of(cameras_at(poses)).matrices(), toybox_matrices(poses))


def test_neither_the_scenes_unit_nor_what_is_beside_the_picture_matters():
    poses = capture_cameras(40, 0)
    larger = torch.cat([poses[:, :, :3], 3 * poses[:, :, 3:] + 5], dim=-1)
    close(capture_of(cameras_at(larger, width=96)).matrices(), toybox_matrices(poses))


def test_the_front_is_where_azimuths_are_counted_from():
    poses, angle = capture_cameras(40, 0), math.radians(70)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    close(capture_of(cameras_at(turn @ poses)).matrices(front=70.0), toybox_matrices(poses))


def test_a_subject_that_is_named_is_what_cameras_are_told_about():
    poses = capture_cameras(40, 0)
    subject = Subject(torch.tensor([0.1, -0.2, 0.4]), 0.5)
    matrices = capture_of(cameras_at(poses)).matrices(subject)
    away = poses[:, :, 3] - subject.centre
    close(matrices[:, :3, 3], away / away.norm(dim=-1, keepdim=True))


def test_photographs_that_look_away_from_each_other_have_nothing_to_tell():
    outward = capture_cameras(40, 0)
    outward[:, :, [0, 2]] *= -1
    assert capture_of(cameras_at(outward)).matrices() is None


def test_a_fisheye_has_no_numbers():
    assert capture_of(cameras_at(capture_cameras(4, 0), camera_type=CameraType.FISHEYE)) is None


def test_orbits_are_views_like_those_of_the_capture_and_four_of_one_stand_90_degrees_apart():
    capture = capture_of(cameras_at(capture_cameras(40, 0)))
    views = views_of(orbits_of(capture, None, 5, seed=0), SIZE)
    matrices = capture_of(views.cameras).matrices(capture.framed)
    assert len(views) == 5 * VIEWS
    assert not views.in_training
    assert views.size(3) == (SIZE, SIZE)
    poses = views.cameras.camera_to_worlds
    close(matrices, toybox_matrices(poses))
    assert matrices[:, 3, 2].abs().max() < math.log(1.1) + 1e-3  # from about as far away
    offset = poses[:, :, 3] - capture.framed.centre
    elevation = torch.rad2deg(torch.atan2(offset[:, 2], offset[:, :2].norm(dim=-1)))
    assert elevation.min() > 13
    assert elevation.max() < 47
    azimuth = torch.rad2deg(torch.atan2(offset[:, 1], offset[:, 0])).unflatten(0, (5, VIEWS))
    close((azimuth.roll(-1, 1) - azimuth) % 360, torch.full((5, VIEWS), 90.0))
    again = orbits_of(capture, None, 5, seed=0)
    assert torch.equal(torch.cat([orbit.cameras for orbit in again]), poses)


def test_about_a_subject_that_is_named_the_subject_fills_the_picture():
    subject = Subject(torch.tensor([0.0, 0.0, 0.4]), 0.3)
    views = views_of(orbits_of(capture_of(cameras_at(capture_cameras(40, 0))), subject, 5, seed=0), SIZE)
    tan_half = SIZE / 2 / views.cameras.fx[:, 0]
    distance = (views.cameras.camera_to_worlds[:, :, 3] - subject.centre).norm(dim=-1)
    shown = distance * tan_half / subject.radius
    assert shown.min() >= 0.8 - 1e-3
    assert shown.max() <= 1.0 + 1e-3
    close(capture_of(views.cameras).matrices(subject)[:, 3, 2], shown.log())


def test_a_capture_from_the_front_is_refused_an_orbit():
    front = orbit_cameras(torch.zeros(3), torch.deg2rad(torch.arange(0.0, 60, 2)), 0.3, 2.5)
    with pytest.raises(UserError, match=r"cover 58 of the 360 degrees .* --pipeline.views training"):
        orbits_of(capture_of(cameras_at(front)), None, 1, seed=0)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "word"),
    [(0, 20, "front"), (44, 0, "front"), (-46, 0, "side"), (134, 0, "side"), (-136, 0, "back"), (10, 61, "overhead")],
)
def test_a_view_is_called_by_where_it_is_seen_from(azimuth, elevation, word):
    subject = Subject(torch.zeros(3), 1.0)
    pose = orbit_cameras(subject.centre, torch.deg2rad(torch.tensor([azimuth + 30.0])), math.radians(elevation), 3.0)
    (matrix,) = capture_of(cameras_at(pose)).matrices(subject, 30.0)
    assert view_word(matrix) == f"{word} view"


def test_the_fox_is_refused_an_orbit_with_the_angle_that_its_photographs_cover(distorted):
    if distorted.name != "fox":
        pytest.skip("NO FOX, ITS ORBIT IS NOT TESTED")
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    capture = capture_of(NerfstudioDataParserConfig(data=distorted).setup().get_dataparser_outputs("train").cameras)
    assert capture.matrices() is not None
    with pytest.raises(UserError, match="cover 91 of the 360 degrees"):
        orbits_of(capture, None, 1, seed=0)


def test_a_subject_is_found_from_a_point_on_it_and_from_a_box_around_it(toy_splats):
    from pds_nerfstudio.evaluation.before_after import load_run
    from pds_nerfstudio.scenes.subject import subject_at, subject_within
    from pds_nerfstudio.scenes.views import train_views

    run = load_run(toy_splats)
    views = train_views(run.datamanager)
    framed = capture_of(views.cameras).framed
    middle, radius = framed.centre, framed.radius
    beside = middle + torch.tensor([0.1 * radius, 0.0, 0.1 * radius])
    found = subject_at(run.model, views, beside.tolist(), radius / 2)
    boxed = subject_within(run.model, views, (*(middle - radius / 2).tolist(), *(middle + radius / 2).tolist()))
    for subject in (found, boxed):
        assert (subject.centre - middle).norm() < 0.35 * radius
        assert 0.1 * radius < subject.radius < radius
    assert subject_at(run.model, views, (1.0, 2.0, 3.0, 0.5), radius).radius == 0.5
