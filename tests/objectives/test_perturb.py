"""Perturb-and-Revise's formulas: golden values of Algorithm 2, the ends of every interpolation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pds_nerfstudio.objectives import OBJECTIVES
from pds_nerfstudio.objectives.perturb import (
    annealed_range,
    choose_eta,
    falling_weight,
    feature_distance,
    identity_loss,
    interpolate,
    loss_increase,
    with_range,
)

from .fakes import SCHEDULE


@pytest.mark.parametrize(
    ("increase", "eta"), [(-1e3, 0.0), (-500.0, 0.17573593), (0.0, 0.3), (1e3, 0.45), (3e3, 0.5625), (-5e3, 0.0)]
)
def test_golden_values_of_algorithm_2(increase, eta):
    assert choose_eta(increase, 1000.0, 0.6) == pytest.approx(eta, abs=1e-8)


@pytest.mark.parametrize(("slope", "eta"), [(-1000.0, 0.0), (0.0, 0.3), (1000.0, 0.6)])
def test_a_falling_flat_and_rising_loss_give_none_half_and_nearly_all(slope, eta):
    losses = [2000 + slope * step for step in range(50)]
    assert choose_eta(loss_increase(losses)) == pytest.approx(eta, abs=1e-6)


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e6), st.floats(0, 1))
def test_eta_stays_between_zero_and_its_maximum_and_never_falls_with_the_loss_rising(increase, decrease, maximum):
    eta = choose_eta(increase, decrease, maximum)
    assert 0 <= eta <= maximum
    assert choose_eta(increase + decrease, decrease, maximum) >= eta


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e3))
def test_eta_depends_on_the_loss_in_units_of_its_minimum_decrease(increase, scale):
    assert choose_eta(increase * scale, 1000.0 * scale) == pytest.approx(choose_eta(increase), abs=1e-9)


def test_the_ends_of_the_interpolation_are_exact_and_copies():
    source, fresh = torch.randn(2, 1000) * torch.tensor([[1e-9], [1e9]])
    for eta, expected in ((0.0, source), (1.0, fresh)):
        result = interpolate(source, fresh, eta)
        assert torch.equal(result, expected)
        assert result.data_ptr() != expected.data_ptr()


def test_two_hundred_draws_have_the_interpolated_mean():
    generator = torch.Generator().manual_seed(0)
    source, eta = torch.randn(50, generator=generator, dtype=torch.float64), 0.6
    draws = 2 + 3 * torch.randn(200, 50, generator=generator, dtype=torch.float64)
    mean = torch.stack([interpolate(source, fresh, eta) for fresh in draws]).mean(0)
    standard_error = eta * 3 / 200**0.5
    assert ((mean - ((1 - eta) * source + eta * 2)).abs() < 4 * standard_error).all()


def test_timesteps_anneal_from_three_quarters_to_the_papers_range_at_eighty_percent():
    assert annealed_range(0.0) == (0.75, 0.75)
    assert annealed_range(0.4) == pytest.approx((0.385, 0.575))
    assert annealed_range(0.8) == pytest.approx((0.02, 0.40))
    assert annealed_range(1.0) == annealed_range(0.8)


@given(st.floats(-1, 2))
def test_every_annealed_range_is_one_that_objectives_accept(progress):
    low, high = annealed_range(progress)
    generator = torch.Generator().manual_seed(0)
    for objective in OBJECTIVES:
        t, s = with_range(objective(), (low, high)).sample_timesteps(SCHEDULE, 8, generator)
        assert ((t >= 1000 * low - 3) & (t <= 1000 * high + 3)).all()
        assert (s < t).all()


def test_the_identity_weight_is_gone_at_half():
    assert [falling_weight(p) for p in (0.0, 0.25, 0.5, 0.9)] == [1.0, 0.5, 0.0, 0.0]


def test_identity_loss_is_zero_on_the_source_and_weighs_both_distances():
    image, source = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.25)

    def constant(a, b):
        return torch.tensor(0.1)

    def nothing(a, b):
        return torch.tensor(0.0)

    assert identity_loss(source, source, nothing) == 0
    assert float(identity_loss(image, source, constant, 100.0, 10.0)) == pytest.approx(100 * 0.25 + 10 * 0.1)


def test_feature_distance_ignores_scale_and_counts_layers_and_views():
    a, b = torch.rand(2, 2, 5, 4, 4) + 0.1
    assert float(feature_distance([a], [3 * a])) == pytest.approx(0, abs=1e-6)
    one = feature_distance([a], [b])
    assert float(feature_distance([a, a], [b, b])) == pytest.approx(2 * float(one))
    views = feature_distance([a[:1]], [b[:1]]) + feature_distance([a[1:]], [b[1:]])
    assert float(views) == pytest.approx(float(one), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: interpolate(torch.zeros(2), torch.ones(2), 1.1), "eta"),
        (lambda: choose_eta(0.0, 0.0), "minimum_decrease"),
        (lambda: choose_eta(0.0, 1.0, 1.5), "maximum"),
        (lambda: loss_increase([1.0] * 19), "probe"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(call, name):
    with pytest.raises(ValueError, match=name):
        call()
