"""PDS: recorded coefficients, its two derivations, and the trap between single step and jump."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pds_nerfstudio.objectives import PDS, Edit, pds_coefficients, stochastic_latent
from pds_nerfstudio.objectives.base import predict_pair

from .fakes import SCHEDULE, FakePrior, random_edit
from .golden import COLUMNS, PDS_COEFFICIENTS, recompute

STRIDED = torch.arange(3, 1000, 2)
ALL_PAIRS = torch.combinations(torch.arange(0, 1000, 37)).flip(1)


@pytest.mark.parametrize("t", PDS_COEFFICIENTS)
def test_coefficients_equal_the_recorded_table(t):
    at = torch.tensor([t])
    coefficients = pds_coefficients(SCHEDULE, at, at - 2, "adjacent")
    for name, recorded in zip(COLUMNS, PDS_COEFFICIENTS[t], strict=True):
        assert getattr(coefficients, name).item() == pytest.approx(recorded, rel=1e-9), name


def test_the_recorded_table_is_what_its_script_prints():
    for t in (21, 979):
        assert [float(value) for value in recompute(t)] == pytest.approx(list(PDS_COEFFICIENTS[t]), rel=1e-13)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    height=st.integers(1, 5),
    stride=st.integers(1, 50),
    mode=st.sampled_from(["adjacent", "posterior"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@example(seed=0, batch=1, height=2, stride=2, mode="adjacent", dtype=torch.float32)
def test_closed_form_equals_difference_of_stochastic_latents(seed, batch, height, stride, mode, dtype):
    edit = random_edit(batch, (4, height, 3), dtype, seed, stride)
    prior = FakePrior()
    eps_tgt, eps_src = predict_pair(prior, edit, guidance_scale=7.5)
    shared = edit.t, edit.s, edit.eps, edit.eps_s
    z_tgt = stochastic_latent(SCHEDULE, edit.x0_tgt, *shared, eps_tgt, mode)
    z_src = stochastic_latent(SCHEDULE, edit.x0_src, *shared, eps_src, mode)
    gradient = PDS(guidance_scale=7.5, coefficients=mode).gradient(prior, edit)
    # The z̃ route divides rounding errors of x_s by σ, so it bounds what can be asked of the comparison.
    sigma = pds_coefficients(SCHEDULE, edit.t, edit.s, mode).sigma.min().item()
    tolerance = 60 * torch.finfo(dtype).eps / sigma
    torch.testing.assert_close(gradient, z_tgt - z_src, rtol=1e-3 if dtype == torch.float32 else 1e-9, atol=tolerance)


def test_stochastic_latent_of_a_perfect_prediction_is_the_posterior_noise():
    """With ε̂ = ε the mean is that of q(x_s | x_t, x⁰); a draw from it must give its own noise back."""
    edit, z = random_edit(stride=40), torch.randn(3, 4, 6, 5, dtype=torch.float64)
    bar_t, bar_s = (SCHEDULE.alpha_bar(u)[:, None, None, None] for u in (edit.t, edit.s))
    jump = bar_t / bar_s
    x_t = SCHEDULE.add_noise(edit.x0_src, edit.t, edit.eps)
    # Bayes' rule for the Gaussians q(x_s | x⁰) and q(x_t | x_s), written with precisions.
    precision = 1 / (1 - bar_s) + jump / (1 - jump)
    mean = (bar_s.sqrt() * edit.x0_src / (1 - bar_s) + jump.sqrt() * x_t / (1 - jump)) / precision
    x_s = mean + z / precision.sqrt()
    eps_s = (x_s - bar_s.sqrt() * edit.x0_src) / (1 - bar_s).sqrt()
    found = stochastic_latent(SCHEDULE, edit.x0_src, edit.t, edit.s, edit.eps, eps_s, edit.eps, "posterior")
    torch.testing.assert_close(found, z, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pairs", [torch.stack([STRIDED, STRIDED - 2], dim=1), ALL_PAIRS], ids=["strided", "all"])
def test_pair_consistent_posterior_has_no_identity_term(pairs):
    t, s = pairs.unbind(1)
    assert pds_coefficients(SCHEDULE, t, s, "posterior").identity.abs().max() < 1e-10


def test_single_step_coefficients_have_an_identity_term_at_every_sampled_step():
    identity = pds_coefficients(SCHEDULE, STRIDED, STRIDED - 2, "adjacent").identity
    assert identity.min() > 1e-3


def test_both_coefficients_coincide_for_consecutive_steps():
    t = torch.arange(1, 1000)
    single, jump = (pds_coefficients(SCHEDULE, t, t - 1, mode) for mode in ("adjacent", "posterior"))
    torch.testing.assert_close(single.sigma, jump.sigma, rtol=1e-12, atol=0)
    assert single.identity.abs().max() < 1e-10


def test_posterior_pds_is_a_reweighted_dds():
    edit = random_edit()
    gradient = PDS(coefficients="posterior").gradient(FakePrior(), edit)
    eps_tgt, eps_src = predict_pair(FakePrior(), edit, PDS().guidance_scale)
    ratio = gradient / (eps_tgt - eps_src)
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))


def test_psi_chi_is_the_derivative_of_the_squared_difference():
    """Eq. 14: ∇‖z̃_tgt − z̃_src‖² with the predictions held fixed, by autograd."""
    edit = random_edit()
    prior = FakePrior()
    eps_tgt, eps_src = predict_pair(prior, edit, guidance_scale=30.0)
    c = pds_coefficients(SCHEDULE, edit.t, edit.s, "adjacent")
    shape = (-1, 1, 1, 1)
    x0_tgt = edit.x0_tgt.clone().requires_grad_()
    difference = c.identity.view(shape) * (x0_tgt - edit.x0_src) + c.noise.view(shape) * (eps_tgt - eps_src)
    (expected,) = torch.autograd.grad(difference.square().sum(), x0_tgt)
    torch.testing.assert_close(PDS(guidance_scale=30.0, weighting="psi_chi").gradient(prior, edit), expected)
    by_parts = c.psi.view(shape) * (edit.x0_tgt - edit.x0_src) + c.chi.view(shape) * (eps_tgt - eps_src)
    torch.testing.assert_close(by_parts, expected)


def test_dreamcatalysts_weights_multiply_the_differences_of_noisy_latents_and_of_predictions():
    edit, prior = random_edit(), FakePrior()
    share = (edit.t / 1000).view(-1, 1, 1, 1)
    noisy = [SCHEDULE.add_noise(x0, edit.t, edit.eps) for x0 in (edit.x0_tgt, edit.x0_src)]
    eps_tgt, eps_src = predict_pair(prior, edit, guidance_scale=7.5)
    expected = 0.075 * torch.exp(share) * (noisy[0] - noisy[1]) + 0.75 * share ** (1 / math.e) * (eps_tgt - eps_src)
    found = PDS(guidance_scale=7.5, weighting="dreamcatalyst").gradient(prior, edit)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_noise_at_s_cancels():
    edit = random_edit()
    other = replace(edit, eps_s=torch.zeros_like(edit.eps_s))
    assert torch.equal(PDS().gradient(FakePrior(), edit), PDS().gradient(FakePrior(), other))


def test_samples_the_papers_steps():
    generator = torch.Generator().manual_seed(0)
    t, s = PDS().sample_timesteps(SCHEDULE, 20_000, generator)
    assert set(t.tolist()) == set(range(21, 980, 2))
    assert torch.equal(s, t - 2)


@pytest.mark.parametrize(("stride", "last"), [(1, 999), (2, 999), (3, 998), (500, 999)])
def test_the_full_range_reaches_every_pair_and_none_below_zero(stride, last):
    objective = PDS(stride=stride, min_step_percent=0.0, max_step_percent=1.0)
    t, s = objective.sample_timesteps(SCHEDULE, 20_000, torch.Generator().manual_seed(1))
    assert set(s.tolist()) == set(range(stride - 1, last - stride + 1, stride))
    assert t.max() == last


def test_an_empty_range_is_one_step():
    for percent, expected in ((0.75, 751), (0.0, 3), (1.0, 999)):
        objective = PDS(min_step_percent=percent, max_step_percent=percent)
        t, _ = objective.sample_timesteps(SCHEDULE, 100, torch.Generator().manual_seed(2))
        assert set(t.tolist()) == {expected}


@pytest.mark.parametrize("changes", [{"coefficients": "posterior"}, {"stride": 1}])
def test_settings_that_would_edit_nothing_are_refused(changes):
    with pytest.raises(ValueError, match='use weighting "unit"'):
        PDS(weighting="psi_chi", **changes)


def test_strides_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="stride is 0"):
        PDS(stride=0)
    with pytest.raises(ValueError, match="stride is 501"):
        PDS(stride=501).sample_timesteps(SCHEDULE, 1, torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradient_stays_near_the_exact_one(dtype):
    half = random_edit(dtype=dtype)
    exact = Edit(
        *(getattr(half, f).double() for f in ("x0_tgt", "x0_src")),
        half.src_prompt, half.tgt_prompt, half.t, half.s, half.eps.double(), half.eps_s.double(),
    )  # fmt: skip
    found, expected = PDS().gradient(FakePrior(), half), PDS().gradient(FakePrior(), exact)
    assert found.dtype == dtype
    assert (found - expected).norm() < 30 * torch.finfo(dtype).eps * expected.norm()
