"""Where a subject is, the cameras around it, and the captures that do not look around theirs."""

import math

import pytest
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.cameras import camera_matrices
from pds_nerfstudio.scenes.orbit import (
    OrbitRange,
    Subject,
    check_orbit,
    covered_degrees,
    find_subject,
    framed_by,
    looked_at,
    orbit_cameras,
    sees,
    subject_in_box,
)
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import FIELD_OF_VIEW, LOOK_AT, ORBIT_RADIUS, toybox_matrices

CENTRE = torch.tensor([1.0, -2.0, 0.5])
TAN_HALF = math.tan(FIELD_OF_VIEW / 2)


def ball(centre: torch.Tensor, radius: float, count: int, seed: int = 0) -> torch.Tensor:
    """Points spread evenly through a ball."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return centre + radius * torch.rand(count, 1, generator=generator) ** (1 / 3) * direction


def arc(degrees: float, count: int = 30) -> torch.Tensor:
    """Cameras evenly along an arc about CENTRE."""
    return orbit_cameras(CENTRE, torch.deg2rad(torch.linspace(0, degrees, count)), 0.3, 4.0)


def test_orbits_are_rigid_look_at_the_subject_and_stand_90_degrees_apart():
    orbit = OrbitRange().draw(Subject(CENTRE, 0.7), torch.Generator().manual_seed(3))
    rotation = orbit.cameras[:, :, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(4, -1, -1))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(4))
    torch.testing.assert_close(looked_at(orbit.cameras), CENTRE, rtol=1e-4, atol=1e-4)
    offset = orbit.cameras[:, :, 3] - CENTRE
    assert offset[:, 2].std() < 1e-6
    azimuth = torch.atan2(offset[:, 1], offset[:, 0])
    turns = torch.rad2deg(azimuth.roll(-1) - azimuth) % 360
    torch.testing.assert_close(turns, torch.full((4,), 90.0), rtol=1e-4, atol=1e-3)
    assert (rotation[:, 2, 1] > 0).all()  # upright


def test_orbits_stay_within_their_ranges():
    subject, generator = Subject(CENTRE, 0.7), torch.Generator().manual_seed(0)
    for _ in range(200):
        orbit = OrbitRange((5.0, 40.0), (20.0, 50.0), (0.9, 1.2)).draw(subject, generator)
        offset = orbit.cameras[0, :, 3] - CENTRE
        distance = float(offset.norm())
        assert 5 <= math.degrees(math.asin(float(offset[2]) / distance)) <= 40
        assert 20 <= 2 * math.degrees(math.atan(orbit.tan_half)) <= 50
        assert 0.9 <= distance * orbit.tan_half / subject.radius <= 1.2


def test_a_camera_of_an_orbit_has_mvdreams_own_matrix():
    """Straight at the subject from where it fills the picture: rotation, unit translation, last row (0, 0, 0, 1)."""
    subject = Subject(CENTRE, 0.7)
    orbit = OrbitRange(distance=(1.0, 1.0)).draw(subject, torch.Generator().manual_seed(1))
    matrices = camera_matrices(orbit.cameras, CENTRE, subject.radius, orbit.tan_half)
    torch.testing.assert_close(matrices[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(4, -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(matrices[:, :3, 3], orbit.cameras[:, :, 2], rtol=1e-4, atol=1e-5)


def test_the_last_row_says_where_the_picture_shows_the_subject_and_how_large():
    camera = orbit_cameras(CENTRE, torch.tensor([0.4]), 0.3, 4.0)
    right, up, away = (camera[0, :, axis] for axis in range(3))
    moved = camera.clone()
    moved[0, :, 3] += -0.5 * right + 0.2 * up + 4.0 * away
    matrix = camera_matrices(moved, CENTRE, 4.0 * TAN_HALF, TAN_HALF)[0]
    expected = torch.tensor([0.5 / (8 * TAN_HALF), -0.2 / (8 * TAN_HALF)])
    torch.testing.assert_close(matrix[3, :2], expected, rtol=1e-4, atol=1e-5)
    assert float(matrix[3, 2]) == pytest.approx(math.log(2), abs=0.01)


def test_the_point_looked_at_is_that_of_a_capture():
    torch.testing.assert_close(looked_at(capture_cameras(40, 0)), torch.tensor(LOOK_AT), rtol=1e-3, atol=1e-3)


def test_a_capture_frames_the_same_in_any_unit():
    cameras = capture_cameras(40, 0)
    larger = torch.cat([cameras[:, :, :3], 7 * cameras[:, :, 3:] + 1], dim=-1)
    frames = [framed_by(some, TAN_HALF) for some in (cameras, larger)]
    assert frames[0].radius == pytest.approx(ORBIT_RADIUS * TAN_HALF, rel=1e-3)
    own, scaled = (
        camera_matrices(some, frame.centre, frame.radius, TAN_HALF)
        for some, frame in zip((cameras, larger), frames, strict=True)
    )
    torch.testing.assert_close(scaled, own, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(own, toybox_matrices(cameras), rtol=1e-3, atol=1e-3)


def test_a_subject_is_found_from_a_point_on_its_surface_beside_a_lighter_floor():
    subject = ball(CENTRE, 0.5, 4000)
    floor = torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([6.0, 6.0, 0.01])
    floor += torch.tensor([-2.0, -5.0, -0.6])
    points = torch.cat([subject, floor])
    opacity = torch.cat([torch.full((4000,), 0.9), torch.full((4000,), 0.1)])
    found = find_subject(points, opacity, CENTRE + torch.tensor([0.45, 0.1, 0.0]), reach=0.9)
    assert (found.centre - CENTRE).norm() < 0.05
    assert found.radius == pytest.approx(0.5 * 0.95 ** (1 / 3), abs=0.05)


def test_a_box_takes_its_middle_and_the_opacity_within():
    points = torch.cat([ball(CENTRE, 0.5, 4000), ball(CENTRE + 3, 0.5, 4000)])
    found = subject_in_box(points, torch.ones(8000), CENTRE - 1, CENTRE + 1)
    torch.testing.assert_close(found.centre, CENTRE)
    assert found.radius == pytest.approx(0.5 * 0.95 ** (1 / 3), abs=0.01)


def test_nothing_there_is_refused_in_a_sentence():
    points, opacity = ball(CENTRE, 0.5, 100), torch.ones(100)
    with pytest.raises(UserError, match=r"nothing of the scene within 0.5 of the point \(11.00, 8.00, 10.50\)"):
        find_subject(points, opacity, CENTRE + 10, 0.5)
    with pytest.raises(UserError, match="holds nothing"):
        subject_in_box(points, opacity, CENTRE + 5, CENTRE + 6)


@pytest.mark.parametrize("degrees", [0.0, 40.0, 180.0, 300.0])
def test_the_angle_covered_is_that_of_the_arc(degrees):
    assert covered_degrees(arc(degrees), CENTRE) == pytest.approx(degrees, abs=1e-3)


def test_the_angle_does_not_depend_on_where_azimuth_begins():
    cameras = arc(100)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = torch.cat([turn @ cameras[:, :, :3], (turn @ (cameras[:, :, 3] - CENTRE).T).T[..., None]], dim=-1)
    assert covered_degrees(turned, torch.zeros(3)) == pytest.approx(100, abs=1e-3)


def test_a_capture_all_around_is_accepted_and_one_from_the_front_is_refused_with_its_angle():
    subject = Subject(torch.tensor(LOOK_AT), 0.7)
    check_orbit(capture_cameras(40, 0), TAN_HALF, subject)
    with pytest.raises(UserError, match=r"30 of 30 photographs .* cover 100 of the 360 degrees"):
        check_orbit(arc(100), TAN_HALF, Subject(CENTRE, 0.7))


def test_photographs_that_do_not_show_the_subject_do_not_count():
    around = orbit_cameras(CENTRE, torch.deg2rad(torch.arange(0.0, 360, 10)), 0.3, 4.0)
    outward = around.clone()
    outward[:, :, [0, 2]] *= -1
    assert sees(around, TAN_HALF, CENTRE).all()
    assert not sees(outward, TAN_HALF, CENTRE).any()
    with pytest.raises(UserError, match="0 of 36 photographs"):
        check_orbit(outward, TAN_HALF, Subject(CENTRE, 0.7))
