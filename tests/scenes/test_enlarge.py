"""Pictures of splats that are larger than their photographs are as smooth as those."""

import pytest
import torch

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.scenes.enlarge import PIXEL, enlarged, spread
from pds_nerfstudio.scenes.families import scene_of
from pds_nerfstudio.scenes.shots import shoot, shown_camera
from pds_nerfstudio.scenes.views import train_views

TIMES = 3
"""Odd: the middle of every small pixel is then the middle of a large one."""


@pytest.fixture(scope="module")
def scene(toy_splats):
    pipeline = load_run(toy_splats)
    return pipeline.model, train_views(pipeline.datamanager)


def test_a_larger_picture_has_the_values_of_the_small_one_in_its_places(scene):
    model, views = scene
    height, width = views.size(0)
    small = shoot(model, views.camera(0, height, width)).image
    camera, times = shown_camera(views, 0, TIMES * min(height, width), model)
    assert times == TIMES
    large, needles = (shoot(model, camera, factor).image[:, 1::TIMES, 1::TIMES] for factor in (times, 1.0))
    assert large.shape == small.shape
    torch.testing.assert_close(large, small, atol=2e-2, rtol=0)  # the rasteriser cuts Gaussians off at whole tiles
    assert float((needles - small).abs().max()) > 0.1


def test_a_smaller_picture_is_drawn_as_ever(scene):
    model, views = scene
    camera, times = shown_camera(views, 0, 16, model)
    assert (int(camera.height), times) == (16, 1.0)
    with enlarged(0.25):
        assert spread() == PIXEL
    assert spread() == PIXEL


def test_nerfs_are_not_enlarged(toy_nerf):
    pipeline = load_run(toy_nerf)
    views = train_views(pipeline.datamanager)
    camera, times = shown_camera(views, 0, 4096, pipeline.model)
    assert ((int(camera.height), int(camera.width)), times) == (views.size(0), 1.0)


def test_a_source_is_shown_beside_its_edit_as_smooth_as_it(scene, toy_splats):
    edited, views = scene
    source = load_run(toy_splats).model
    edited.focal = float(views.cameras.fx.max())
    try:
        scene_of(source).show_on(edited)
    finally:
        expected, edited.focal = edited.focal, None
    assert source.focal == expected


def test_the_viewer_shows_splats_as_smooth_as_their_photographs(scene):
    model, views = scene
    large = views.camera(0, *(TIMES * side for side in views.size(0)))
    plain = model.get_outputs_for_camera(large)["rgb"]
    model.focal = float(views.cameras.fx.max())
    try:
        smooth = model.get_outputs_for_camera(large)["rgb"]
    finally:
        model.focal = None
    torch.testing.assert_close(smooth.movedim(-1, 0), shoot(model, large, float(TIMES)).image)
    assert not torch.equal(smooth, plain)
