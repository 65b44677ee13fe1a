"""New Gaussians where a scene may change, and nowhere else."""

import pytest
import torch

from pds_nerfstudio.scenes.populate import OPACITY, populate, spread_in
from pds_nerfstudio.scenes.region import Ball, Box, Common, Outside, bounds_of


@pytest.fixture
def model(toy_splats):
    from pds_nerfstudio.evaluation.before_after import load_run

    return load_run(toy_splats).model


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bounds_are_those_of_boxes_and_balls_also_among_others():
    box, ball = Box((0.0, 0.0, 0.0, 1.0, 2.0, 3.0)), Ball((1.0, 1.0, 1.0), 0.5)
    assert bounds_of(box) == bounds_of(Common(Outside(box), box)) == ((0.0, 0.0, 0.0), (1.0, 2.0, 3.0))
    assert bounds_of(ball) == ((0.5, 0.5, 0.5), (1.5, 1.5, 1.5))
    assert bounds_of(Outside(box)) is None


@pytest.mark.parametrize("region", [Box((5.0, 5.0, 5.0, 6.0, 7.0, 5.5)), Ball((0.0, 0.0, 1.0), 0.25)])
def test_points_are_spread_over_all_of_a_region_that_has_bounds(region):
    points = spread_in(region, torch.zeros(2, 3), 4000, drawn(), bounds_of(region))
    assert bool(region.contains(points).all())
    low, high = (torch.tensor(corner, dtype=torch.float32) for corner in bounds_of(region))
    torch.testing.assert_close(points.mean(0), (low + high) / 2, atol=0.05, rtol=0)
    assert bool((points.amax(0) - points.amin(0) > 0.85 * (high - low)).all())


def test_a_region_without_bounds_is_filled_near_what_it_holds_and_one_that_no_candidate_meets_where_that_is():
    around = torch.rand(50, 3, generator=drawn())
    outside = Outside(Box((0.0, 0.0, 0.0, 0.5, 0.5, 0.5)))
    points = spread_in(outside, around, 500, drawn())
    assert bool(outside.contains(points).all())
    assert float(points.abs().max()) < 2.5
    thin = Box((0.0, 0.0, 0.0, 1e-9, 1e-9, 1e-9))
    assert set(map(tuple, spread_in(thin, around, 9, drawn()).tolist())) <= set(map(tuple, around.tolist()))


@pytest.mark.slow
def test_a_scene_has_them_in_the_box_alone_nearly_transparent_and_the_rest_as_it_was(model):
    before = {name: value.detach().clone() for name, value in model.gauss_params.items()}
    box = Box((0.0, 0.0, 0.5, 0.2, 0.3, 0.7))  # air
    assert not bool(box.contains(before["means"]).any())
    populate(model, 40, box, drawn(), bounds_of(box))
    for name, value in model.gauss_params.items():
        assert torch.equal(value[:-40], before[name]), name
        assert bool(value.isfinite().all())
    assert bool(box.contains(model.means[-40:]).all())
    assert torch.sigmoid(model.gauss_params["opacities"][-40:]).allclose(torch.tensor(OPACITY))
    assert model.gauss_params["means"].requires_grad
    assert float(model.gauss_params["scales"][-40:].exp().max()) < 0.3


@pytest.mark.slow
def test_what_a_draw_leaves_outside_of_its_region_is_not_added(model, monkeypatch):
    before, box = len(model.means), Box((0.0, 0.0, 0.5, 0.2, 0.3, 0.7))
    off = torch.tensor([[0.1, 0.1, 0.6], [0.1, 0.1, 0.8], [0.1, 0.2, 0.6]])
    monkeypatch.setattr("pds_nerfstudio.scenes.populate.spread_in", lambda *_: off)
    populate(model, 3, box, drawn(), bounds_of(box))
    assert torch.equal(model.means[before:], off[[0, 2]])
