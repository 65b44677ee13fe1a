"""View consistency: the truth agrees with itself, a scene that turns its colour with the view does not."""

import pytest
import torch

from pds_nerfstudio.evaluation.consistency import view_consistency, warp
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import render
from pds_nerfstudio.toybox.spec import find_edit


@pytest.fixture(scope="module")
def scene():
    cameras = capture_cameras(8, 1)
    views = render(find_edit("raise-arms").source, cameras, 64, 64)
    return views.image.movedim(-1, 1), views.depth, cameras


def test_a_view_warped_into_itself_is_itself(scene):
    images, depth, cameras = scene
    warped, visible = warp(images, depth, cameras, torch.arange(8))
    assert visible.mean() > 0.5 * (depth > 0).float().mean()
    seen = visible[:, None].bool().expand_as(images)
    torch.testing.assert_close(warped[seen], images[seen], atol=1e-3, rtol=0)


def test_the_truth_agrees_with_itself_and_a_view_of_another_colour_with_no_other(scene):
    images, depth, cameras = scene
    everywhere = torch.ones_like(depth)
    truth = view_consistency(images, depth, cameras, everywhere)
    assert truth.min() > 25
    tinted = images.clone()
    tinted[0] = tinted[0].roll(1, 0) * 0.7
    other = view_consistency(tinted, depth, cameras, everywhere)
    assert other[0] < truth[0] - 5


def test_where_nothing_is_seen_in_common_the_answer_is_nan(scene):
    images, depth, cameras = scene
    assert view_consistency(images, depth, cameras, torch.zeros_like(depth)).isnan().all()
