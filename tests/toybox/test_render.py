"""The renderer against geometry that can be computed by hand."""

import math

import pytest
import torch

from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.geometry import BOUND_CENTRE, BOUND_RADIUS, Material, signed_distance, solid
from pds_nerfstudio.toybox.render import camera_rays, orbit_cameras, palette, render, shade, toybox_matrices, trace
from pds_nerfstudio.toybox.spec import SHAPES, SceneSpec

CAMERAS = orbit_cameras(torch.tensor([0.4, 2.5]), torch.tensor([0.35, 0.7]))


def test_depth_of_a_ball_is_that_of_the_analytic_intersection():
    views = trace(SceneSpec("ball"), CAMERAS, 48, 48)
    origins, directions = camera_rays(CAMERAS, 48, 48)
    centre, radius = torch.tensor([0.0, 0.0, 0.55]), 0.55
    offset = origins - centre
    a, b, c = directions.square().sum(-1), (offset * directions).sum(-1), offset.square().sum(-1) - radius**2
    discriminant = b.square() - a * c
    expected = (-b - discriminant.clamp_min(0).sqrt()) / a
    well_inside = discriminant > 0.05
    found = views.depth.flatten(1)
    assert well_inside.sum() > 100
    assert (found - expected)[well_inside].abs().max() < 5e-3


def test_depth_of_the_floor_is_where_the_ray_meets_the_plane():
    views = trace(SceneSpec("flat can"), CAMERAS, 48, 48)
    origins, directions = camera_rays(CAMERAS, 48, 48)
    on_floor = (views.material == Material.FLOOR).flatten(1)
    points = origins + views.depth.flatten(1)[..., None] * directions
    assert on_floor.sum() > 200
    assert points[on_floor][:, 2].abs().max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("hat", [False, True])
def test_every_object_lies_within_the_sphere_that_rays_are_tested_against(shape, hat):
    points = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    points = points / points.norm(dim=0) * (1 + torch.rand(20_000)) * BOUND_RADIUS + torch.tensor(BOUND_CENTRE)[:, None]
    above = points[:, points[2] > 0]
    assert signed_distance(solid(shape, hat), above).min() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_never_overestimate(shape):
    """Sphere tracing may step by the distance: no surface may be nearer (1-Lipschitz)."""
    generator = torch.Generator().manual_seed(1)
    a, b = (2 * torch.rand(3, 5000, generator=generator) - torch.tensor([[1.0], [1.0], [0.0]]) for _ in range(2))
    parts = solid(shape, True)
    difference = (signed_distance(parts, a) - signed_distance(parts, b)).abs()
    assert (difference <= (a - b).norm(dim=0) + 1e-5).all()


def test_arms_held_out_are_wider_than_arms_down_and_raised_arms_higher_than_both():
    front = orbit_cameras(torch.tensor([math.pi / 2]), torch.tensor([0.0]))
    widths, tops = [], []
    for shape in ("man", "man stretching out his arms", "man raising his arms"):
        figure = trace(SceneSpec(shape), front, 96, 96).material[0] >= Material.OBJECT
        columns = figure.any(dim=0).nonzero()
        widths.append(int(columns.max() - columns.min()))
        figure[:, 38:58] = False  # head and trunk
        tops.append(int(figure.any(dim=1).nonzero()[0]))
    assert widths[1] > widths[0] + 10
    assert tops[2] < min(tops[:2]) - 10


def test_a_hat_adds_dark_pixels_above_the_object_and_changes_none_below():
    with_hat, without = (render(SceneSpec("ball", hat=hat), CAMERAS[:1], 48, 48) for hat in (True, False))
    assert with_hat.mask.sum() > without.mask.sum()
    assert (with_hat.mask >= without.mask - 1e-6).all()


def test_colour_changes_the_object_and_nothing_else():
    red, blue = (render(SceneSpec("cube", colour), CAMERAS[:1], 48, 48) for colour in ("red", "blue"))
    outside = red.mask == 0
    assert torch.equal(red.image[outside], blue.image[outside])
    assert (red.image - blue.image)[red.mask == 1].abs().amax(-1).min() > 0.1


def test_the_shadow_darkens_the_floor():
    traced = trace(SceneSpec("ball"), CAMERAS, 48, 48)
    floor = traced.diffuse[traced.material == Material.FLOOR]
    assert floor.min() < 0.6 * floor.max()


def test_images_are_in_range_and_equal_specs_give_equal_images():
    spec = SceneSpec("man", "white", "beige", hat=True)
    first, second = (render(spec, CAMERAS, 32, 32) for _ in range(2))
    assert first.image.min() >= 0
    assert first.image.max() <= 1
    assert torch.equal(first.image, second.image)
    assert torch.equal(shade(trace(spec, CAMERAS, 32, 32), palette(spec))[first.depth == 0].unique(), torch.ones(1))


def test_a_capture_looks_straight_at_its_subject_from_where_the_prior_was_told():
    """The last row of a camera's matrix is what a camera's aim and distance differ by: nothing, in a capture."""
    matrices = toybox_matrices(capture_cameras(12, seed=3))
    torch.testing.assert_close(matrices[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(12, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(matrices[:, :3, 3], matrices[:, :3, 2], rtol=0, atol=1e-5)
