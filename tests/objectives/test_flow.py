"""Flows: their schedule against its formulas, PDS's posterior in a flow's own units, DVRF and FlowEdit in theirs."""

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pds_nerfstudio.objectives import DDS, DVRF, PDS, NoiseSchedule, Query, pds_coefficients, stochastic_latent
from pds_nerfstudio.objectives.figure3 import starting_points, trajectories, two_marginals
from pds_nerfstudio.objectives.flowedit import FlowEdit
from pds_nerfstudio.objectives.sdedit import denoise

from .fakes import FakePrior, random_edit
from .golden import COLUMNS, FLOW_COEFFICIENTS, recompute

ALL = torch.arange(1000)


def of_flow(prior, x_sigma: torch.Tensor, t: torch.Tensor, prompt: str, guidance: float = 1.0) -> torch.Tensor:
    """The velocity that a prior means at x_σ: (ε̂ − x_σ)/(1 − σ)."""
    schedule = prior.schedule
    scale = schedule.flow_scale(t)[:, None, None, None].to(x_sigma)
    (eps_hat,) = prior.predict_noise([Query(x_sigma / scale, t, prompt, guidance)])
    return (eps_hat - x_sigma) / (1 - schedule.sigma(t)[:, None, None, None].to(x_sigma))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_table_is_diffusers(shift):
    schedule = NoiseSchedule.flow(1000, shift)
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift).sigmas.flip(0)
    torch.testing.assert_close(schedule.sigma(ALL).float(), theirs, rtol=1e-5, atol=1e-6)
    assert schedule.alphas_cumprod[-1] == 0


def test_noising_and_velocity_are_straight_lines():
    schedule = NoiseSchedule.flow(shift=3.0)
    x0, eps = torch.randn(2, 5, 4, 3, 3, dtype=torch.float64)
    t = torch.tensor([0, 1, 500, 900, 998])
    sigma = schedule.sigma(t)[:, None, None, None]
    x_t = schedule.add_noise(x0, t, eps)
    x_sigma = schedule.flow_scale(t)[:, None, None, None] * x_t
    torch.testing.assert_close(x_sigma, (1 - sigma) * x0 + sigma * eps)
    torch.testing.assert_close(schedule.flow_to_epsilon(x_t, t, eps - x0), eps)


def test_pdss_posterior_is_that_of_the_flow_in_its_own_units():
    """q(x_s | x_t, x⁰) of any Gaussian process x = a x⁰ + b ε, from its definition; z̃ does not depend on units."""
    schedule = NoiseSchedule.flow(shift=3.0)
    t, s = torch.tensor([40, 300, 700, 940]), torch.tensor([38, 298, 698, 938])
    x0, eps, eps_s, eps_hat = torch.randn(4, 4, 4, 3, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    ours = stochastic_latent(schedule, x0, t, s, eps, eps_s, eps_hat, "posterior")
    b_t, b_s = (schedule.sigma(step)[:, None, None, None] for step in (t, s))
    a_t, a_s = 1 - b_t, 1 - b_s
    x_t, x_s = a_t * x0 + b_t * eps, a_s * x0 + b_s * eps_s
    jump = a_t / a_s  # x_t = jump x_s + noise of this variance
    variance = b_t**2 - jump**2 * b_s**2
    predicted = (x_t - b_t * eps_hat) / a_t
    mean = (jump * b_s**2 * x_t + a_s * variance * predicted) / b_t**2
    theirs = (x_s - mean) / (b_s**2 * variance / b_t**2).sqrt()
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mode", ["adjacent", "posterior"])
def test_both_routes_to_pdss_gradient_agree_on_a_flow(mode):
    prior, edit = FakePrior(NoiseSchedule.flow(shift=3.0)), random_edit()
    objective = PDS(guidance_scale=3.0, coefficients=mode)
    closed = objective.gradient(prior, edit)
    latents = []
    for x0, prompt in ((edit.x0_tgt, edit.tgt_prompt), (edit.x0_src, edit.src_prompt)):
        x_t = prior.schedule.add_noise(x0, edit.t, edit.eps)
        (eps_hat,) = prior.predict_noise([edit.query(x_t, prompt, 3.0)])
        latents.append(stochastic_latent(prior.schedule, x0, edit.t, edit.s, edit.eps, edit.eps_s, eps_hat, mode))
    torch.testing.assert_close(closed, latents[0] - latents[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("shift", "t"), FLOW_COEFFICIENTS)
def test_golden_coefficients_of_a_flow(shift, t):
    recorded = FLOW_COEFFICIENTS[shift, t]
    assert [float(value) for value in recompute(t, shift=shift)] == pytest.approx(recorded, rel=1e-14)
    ours = pds_coefficients(
        NoiseSchedule.flow(shift=float(shift)), torch.tensor([t]), torch.tensor([t - 2]), "adjacent"
    )
    assert [getattr(ours, name).item() for name in COLUMNS] == pytest.approx(recorded, rel=1e-9)


def test_dvrf_is_its_velocities_and_dds_without_its_shift():
    edit = random_edit()
    prior = FakePrior(NoiseSchedule.flow(shift=3.0))
    ours = DVRF(guidance_scale=5.0, src_guidance_scale=2.0).gradient(prior, edit)
    sigma = prior.schedule.sigma(edit.t)[:, None, None, None]
    eta = 1 - edit.t.double()[:, None, None, None] / 1000
    change = edit.x0_tgt - edit.x0_src
    noisy_tgt = (1 - sigma) * edit.x0_tgt + sigma * edit.eps + eta * sigma * change
    noisy_src = (1 - sigma) * edit.x0_src + sigma * edit.eps
    velocities = (
        of_flow(prior, noisy_tgt, edit.t, edit.tgt_prompt, 5.0),
        of_flow(prior, noisy_src, edit.t, edit.src_prompt, 2.0),
    )
    torch.testing.assert_close(ours, velocities[0] - velocities[1] + (1 - eta) * change, rtol=1e-6, atol=1e-6)
    unshifted = DVRF(guidance_scale=5.0, src_guidance_scale=5.0, shift=0.0).gradient(prior, edit)
    torch.testing.assert_close(unshifted, DDS(guidance_scale=5.0).gradient(prior, edit) / (1 - sigma))


def test_dvrf_leaves_a_matched_pair_alone_and_descends():
    edit = random_edit()
    matched = replace(edit, x0_tgt=edit.x0_src, tgt_prompt=edit.src_prompt)
    same = DVRF(src_guidance_scale=4.0, guidance_scale=4.0)
    assert torch.equal(same.gradient(FakePrior(), matched), torch.zeros_like(edit.x0_src))
    drawn = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        t, _ = same.at(progress).sample_timesteps(NoiseSchedule.flow(), 4, torch.Generator().manual_seed(0))
        assert len(set(t.tolist())) == 1
        drawn.append(int(t[0]))
    assert drawn == sorted(drawn, reverse=True)
    assert drawn[0] > 970
    assert drawn[-1] < 30
    drawn_at_random = replace(same, descend=False)
    assert drawn_at_random.at(0.3) == drawn_at_random


def test_flowedit_is_eulers_way_along_the_difference_of_velocities():
    prior = FakePrior(NoiseSchedule.flow())
    x0 = random_edit().x0_src
    editor = FlowEdit(guidance_scale=4.0, src_guidance_scale=2.0, strength=0.5, num_steps=8)
    eps = torch.randn(editor.steps_run, *x0.shape, dtype=x0.dtype, generator=torch.manual_seed(0))
    ours = editor.edit(prior, x0, "a", "b", eps)
    z, sigmas = x0, [0.5, 0.375, 0.25, 0.125, 0.0]
    for i, (now, then) in enumerate(itertools.pairwise(sigmas)):
        t = torch.full((len(x0),), round(now * 1000) - 1)
        noisy = (1 - now) * x0 + now * eps[i]
        source, target = of_flow(prior, noisy, t, "a", 2.0), of_flow(prior, z + noisy - x0, t, "b", 4.0)
        z = z + (then - now) * (target - source)
    torch.testing.assert_close(ours, z, rtol=1e-6, atol=1e-6)
    same = FlowEdit(guidance_scale=3.0, src_guidance_scale=3.0).edit(prior, x0, "a", "a", eps.repeat(9, 1, 1, 1, 1))
    torch.testing.assert_close(same, x0)


def test_ddim_on_a_flow_is_eulers_step():
    prior = FakePrior(NoiseSchedule.flow())
    x_sigma = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    t, s = torch.tensor(799), torch.tensor(599)
    scale_t, scale_s = (prior.schedule.flow_scale(step[None]).item() for step in (t, s))
    ours = scale_s * denoise(prior, x_sigma / scale_t, torch.stack([t, s]), "a", 2.0)
    theirs = x_sigma + (0.6 - 0.8) * of_flow(prior, x_sigma, t.expand(2), "a", 2.0)
    torch.testing.assert_close(ours, theirs)


def moved(schedule: NoiseSchedule, objective) -> float:
    """How far objectives move figure 3's points, on average."""
    prior = replace(two_marginals(), schedule=schedule)
    generator = torch.Generator().manual_seed(0)
    start = starting_points(prior, 16, generator)
    end = trajectories(objective, prior, start, generator, steps=60, draws=8)[:, -1]
    return (end - start).norm(dim=1).mean().item()


@pytest.mark.parametrize("kind", [PDS, DDS])
def test_figure_3_on_an_exact_flow_is_figure_3_at_the_same_noise(kind):
    """Koo et al. 2024, figure 3. Stable Diffusion's steps 0.02 to 0.98 are a flow's σ of 0.125 to 0.93; over smaller σ
    PDS would hold on to the source several times as strongly."""
    plain = moved(NoiseSchedule.scaled_linear(), kind(guidance_scale=3.0))
    flow = moved(NoiseSchedule.flow(shift=3.0), kind(3.0, *(s / (3 - 2 * s) for s in (0.125, 0.93))))
    assert flow == pytest.approx(plain, rel=0.1)
    if kind is PDS:
        assert moved(NoiseSchedule.flow(), PDS(guidance_scale=3.0)) < 0.7 * plain
