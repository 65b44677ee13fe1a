"""Masks carried into space: against the projection that nerfstudio's own rays define."""

import pytest
import torch
from nerfstudio.cameras.cameras import CameraType

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.hull import Hull, box_of, project, spread_over

from .conftest import look_at_origin

SIZE = 16


@pytest.fixture
def ring(camera):
    """Eight cameras around the origin."""

    def build(size: int = SIZE):
        cameras = []
        for i in range(8):
            one = camera(height=size, width=size)
            one.camera_to_worlds = look_at_origin(i * 0.785)[None]
            cameras.append(one)
        return cameras

    return build


@pytest.mark.parametrize("kind", [CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR])
def test_a_point_on_a_ray_projects_to_the_pixel_of_that_ray(camera, kind):
    one = camera(height=10, width=16)  # nerfstudio's fisheyes have no ray through their very middle
    one.camera_type = torch.full_like(one.camera_type, kind.value)
    if kind == CameraType.EQUIRECTANGULAR:  # all around
        one.fx, one.fy = torch.full_like(one.fx, 8), torch.full_like(one.fy, 10)
    rays = one.generate_rays(camera_indices=0)
    points = rays.origins + 1.7 * rays.directions
    place, depth = project(one, points.reshape(-1, 3))
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(16.0), indexing="ij")
    torch.testing.assert_close(place.reshape(10, 16, 2), torch.stack([columns, rows], -1) + 0.5, atol=1e-3, rtol=0)
    along = depth.reshape(10, 16, 1) * rays.metadata["directions_norm"]
    torch.testing.assert_close(along, torch.full_like(along, 1.7), atol=1e-4, rtol=0)


def test_masks_of_cameras_that_see_several_places_at_once_are_refused(camera):
    one = camera()
    one.camera_type = torch.full_like(one.camera_type, CameraType.ORTHOPHOTO.value)
    with pytest.raises(UserError, match=r"orthophoto.*--pipeline\.box"):
        project(one, torch.zeros(1, 3))


def test_what_all_views_call_relevant_is_inside_and_what_one_view_does_is_carved_away(ring):
    masks = torch.zeros(8, SIZE, SIZE)
    masks[:, 5:11, 5:11] = 1  # the middle of every picture: around the origin
    masks[0] = 1
    hull = Hull(ring(), list(masks), [torch.full((SIZE, SIZE), torch.inf)] * 8)
    points = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.45, 0.3]])
    assert hull.contains(points).tolist() == [True, False]
    torch.testing.assert_close(hull.relevance(points)[0], torch.tensor(1.0))


def test_a_hidden_point_is_judged_by_the_views_that_see_it(ring):
    masks = [torch.full((SIZE, SIZE), float(i < 4)) for i in range(8)]
    near, far = torch.full((SIZE, SIZE), 0.5), torch.full((SIZE, SIZE), torch.inf)
    hidden_from_the_others = Hull(ring(), masks, [far] * 4 + [near] * 4)
    assert hidden_from_the_others.relevance(torch.zeros(1, 3)).tolist() == [1.0]
    seen_by_all = Hull(ring(), masks, [far] * 8)
    assert seen_by_all.relevance(torch.zeros(1, 3)).tolist() == [0.5]
    seen_by_one = Hull(ring(), masks, [far] + [near] * 7)
    assert seen_by_one.relevance(torch.zeros(1, 3)).tolist() == [0.0]


def test_points_out_of_every_picture_and_behind_cameras_are_irrelevant(ring):
    hull = Hull(ring(), [torch.ones(SIZE, SIZE)] * 8, [torch.full((SIZE, SIZE), torch.inf)] * 8)
    assert hull.relevance(torch.tensor([[0.0, 0.0, 50.0], [0.0, 0.0, -50.0]])).tolist() == [0.0, 0.0]


def test_drawn_points_lie_in_the_hull_also_where_the_scene_has_none(ring):
    masks = torch.zeros(8, SIZE, SIZE)
    masks[:, 2:9, 5:11] = 1  # upper middle: above the origin
    hull = Hull(ring(), list(masks), [torch.full((SIZE, SIZE), torch.inf)] * 8)
    around = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * 0.4 - 0.2
    drawn = hull.draw(500, around, torch.Generator().manual_seed(0))
    assert hull.contains(drawn).float().mean() > 0.9
    assert drawn[:, 2].max() > 0.25
    assert len(drawn.unique(dim=0)) == 500
    nowhere = Hull(ring(), [torch.zeros(SIZE, SIZE)] * 8, [torch.full((SIZE, SIZE), torch.inf)] * 8)
    low, high = box_of(around)
    inside = nowhere.draw(100, around, torch.Generator().manual_seed(0))
    assert ((inside >= low) & (inside <= high)).all()


def test_pixels_without_a_say_take_their_neighbours_and_only_theirs():
    mask = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    counted = torch.tensor([[1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1]]).bool()
    assert spread_over(mask, counted).tolist() == [[True, True, False, False, False, False]] * 2
    assert torch.equal(spread_over(mask, torch.ones_like(mask)), mask)
