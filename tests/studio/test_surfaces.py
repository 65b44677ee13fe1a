"""Meshes are closed, smooth and of the right size; textures run through them without a seam."""

import numpy as np
import pytest

from pds_nerfstudio.studio.atlas import MARGIN, atlas
from pds_nerfstudio.studio.looks import Look
from pds_nerfstudio.studio.spec import ADDITIONS, IMPOSSIBLE, MATERIALS, THINGS, StudioSpec
from pds_nerfstudio.studio.surfaces import lathe, mesh, moved, positions, sheet, slab, spline, sweep
from pds_nerfstudio.studio.textures import fractal, marble, noise
from pds_nerfstudio.studio.things import TOP, parts_of


def volume(surfaces):
    """Of what the surfaces enclose together, by the divergence theorem: positive where normals point outwards."""
    total = 0.0
    for shape in map(mesh, surfaces):
        a, b, c = np.moveaxis(shape.vertices[shape.faces], 1, 0)
        total += (np.cross(a, b) * c).sum() / 6
    return total


def ball(samples=65):
    angle = np.linspace(-np.pi / 2, np.pi / 2, samples)
    return lathe(np.stack([np.cos(angle), np.sin(angle)], axis=-1))


def test_a_turned_half_circle_is_a_ball_with_its_volume_and_radial_normals():
    shape = mesh(ball())
    assert volume([ball()]) == pytest.approx(4 / 3 * np.pi, rel=5e-3)
    assert np.abs(shape.normals - shape.vertices).max() < 0.03


def test_a_straight_tube_has_the_volume_of_its_cylinder():
    path = np.linspace((0, 0, 0), (0, 0, 2), 30)
    assert volume([sweep(path, np.full(30, 0.25))]) == pytest.approx(np.pi * 0.25**2 * 2, rel=0.02)
    oval = volume([sweep(path, np.full(30, 0.25), across=2.0)])
    assert oval == pytest.approx(2 * np.pi * 0.25**2 * 2, rel=0.02)


def test_a_slab_is_closed_and_its_edges_are_round():
    sides = slab((-1, -2, 0), (1, 2, 0.5), bevel=0.05)
    assert volume(sides) == pytest.approx(4.0, rel=0.02)
    assert volume(sides) < 4.0
    points = np.concatenate([side.points.reshape(-1, 3) for side in sides])
    assert points.min(axis=0) == pytest.approx([-1, -2, 0])
    assert points.max(axis=0) == pytest.approx([1, 2, 0.5])


def test_a_spline_begins_and_ends_at_its_control_points():
    curve = spline([(0, 0), (1, 0), (1, 1), (0, 2)], 50)
    assert curve[0] == pytest.approx([0, 0])
    assert curve[-1] == pytest.approx([0, 2])


def test_moving_keeps_volumes_and_shifts_centres():
    shifted = moved(ball(), turn=0.7, by=(1, 2, 3), tilt=0.4)
    assert volume([shifted]) == pytest.approx(volume([ball()]))
    assert shifted.points.reshape(-1, 3).max(axis=0) == pytest.approx([2, 3, 4], abs=0.01)


@pytest.mark.parametrize("thing", THINGS)
def test_objects_stand_on_the_floor_are_as_high_as_said_and_closed(thing):
    body = [part.surface for part in parts_of(StudioSpec(thing, "white"))]
    points = np.concatenate([surface.points.reshape(-1, 3) for surface in body])
    assert points[:, 2].min() == pytest.approx(0, abs=0.01)
    highest = TOP[thing] + (0.24 if thing == "cheering" else 0)  # its hands
    assert points[:, 2].max() == pytest.approx(highest, abs=0.02)
    assert volume(body) > 0.02


def test_an_addition_leaves_the_object_as_it_is():
    for thing in THINGS:
        alone = parts_of(StudioSpec(thing, seed=3))
        for addition in ADDITIONS[1:]:
            if (thing, addition) in IMPOSSIBLE:
                continue
            both = parts_of(StudioSpec(thing, addition=addition, seed=3))
            assert len(both) > len(alone)
            for one, other in zip(alone, both, strict=False):
                assert np.array_equal(one.surface.points, other.surface.points)


def test_positions_lie_on_the_surface_under_the_centres_of_pixels():
    flat = sheet((0, 0, 0), (4, 0, 0), (0, 2, 0))
    assert positions(flat, 2, 4)[0, :, 0] == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert positions(flat, 2, 4)[:, 0, 1] == pytest.approx([0.5, 1.5])


def test_an_atlas_shows_every_vertex_the_colour_of_its_own_place():
    places = [sheet((0.1, 0.2, 0), (0.6, 0, 0), (0, 0.3, 0)), sheet((0.1, 0.1, 0.5), (0.2, 0, 0), (0, 0.8, 0))]
    joined, colours, relief = atlas(places, Look(lambda points: points, density=100))
    assert relief is None
    height, width = colours.shape[:2]
    column, row = (joined.uv * (width, height)).T
    inside = colours[row.clip(MARGIN, height - MARGIN - 1).astype(int), column.clip(0, width - 1).astype(int)]
    assert inside == pytest.approx(joined.vertices, abs=0.02)


def test_noise_is_of_its_seed_alone_in_range_and_continuous():
    points = np.random.default_rng(0).uniform(-20, 20, (4000, 3))
    assert np.array_equal(noise(points, 1), noise(points, 1))
    assert abs(np.corrcoef(noise(points, 1), noise(points, 2))[0, 1]) < 0.1
    for function in (noise, fractal):
        values = function(points, 1)
        assert 0 <= values.min() < 0.25
        assert 0.75 < values.max() <= 1
    assert np.abs(noise(points + 1e-5, 1) - noise(points, 1)).max() < 1e-3


def test_marble_has_light_ground_and_dark_veins():
    grey = marble(np.random.default_rng(0).uniform(-1, 1, (20000, 3)), 4).mean(axis=-1)
    assert np.median(grey) > 0.6
    assert np.quantile(grey, 0.01) < 0.45


@pytest.mark.parametrize("material", MATERIALS)
def test_materials_are_colours_and_not_all_of_one(material):
    from pds_nerfstudio.studio.looks import body

    spec = StudioSpec("vase", material)
    _, colours, _ = atlas([parts_of(spec)[0].surface], body(spec), detail=0.15)
    assert 0 <= colours.min() <= colours.max() <= 1
    assert colours.std(axis=(0, 1)).max() > 0.005
