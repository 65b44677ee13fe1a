"""The exact prior against autograd and against the objectives' closed-form end points."""

import math

import pytest
import torch

from pds_nerfstudio.objectives import DDS, PDS, SDS, NoiseSchedule, Prior, Query, pds_coefficients
from pds_nerfstudio.objectives.figure3 import trajectories
from pds_nerfstudio.objectives.mixture import GaussianMixturePrior

SCHEDULE = NoiseSchedule.scaled_linear()


def random_mixture(dims: int, modes: int = 5, seed: int = 0) -> GaussianMixturePrior:
    generator = torch.Generator().manual_seed(seed)
    return GaussianMixturePrior(
        schedule=SCHEDULE,
        means=torch.randn(modes, dims, generator=generator, dtype=torch.float64),
        stds=0.2 + torch.rand(modes, generator=generator, dtype=torch.float64),
        labels=("a", "b", "a", "b", "c")[:modes],
        weights=0.1 + torch.rand(modes, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("prompt", ["a", "b", "c", ""])
@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 3, 2)])
def test_prediction_is_the_scaled_autograd_score(prompt, shape):
    prior = random_mixture(math.prod(shape))
    x = torch.randn(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    t = torch.tensor([0, 5, 100, 400, 800, 999])
    (score,) = torch.autograd.grad(prior.log_density(x, t, prompt).sum(), x)
    scale = (1 - SCHEDULE.alphas_cumprod[t]).sqrt()[:, None, None, None]
    (found,) = prior.predict_noise([Query(x.detach(), t, prompt)])
    torch.testing.assert_close(found, -scale * score)


@pytest.mark.parametrize("prompt", ["a", ""])
def test_density_integrates_to_one(prompt):
    prior = random_mixture(2)
    axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).reshape(-1, 2, 1, 1)
    cell = (axis[1] - axis[0]) ** 2
    for step in (0, 600):
        density = prior.log_density(grid, torch.full((len(grid),), step), prompt).exp()
        assert (density.sum() * cell).item() == pytest.approx(1, abs=1e-6)


def test_prediction_is_the_expected_noise():
    """ε̂ minimises the denoising error, hence E[ε | x_t ≈ x] by brute force over draws of the mixture."""
    prior = GaussianMixturePrior(
        SCHEDULE, torch.tensor([[-1.0], [1.0]]).double(), torch.tensor([0.3, 0.3]).double(), ("a", "b")
    )
    generator = torch.Generator().manual_seed(2)
    count, t = 400_000, torch.tensor([400])
    x0 = prior.means[torch.randint(2, (count,), generator=generator)]
    x0 = (x0 + 0.3 * torch.randn(count, 1, generator=generator, dtype=torch.float64))[..., None, None]
    eps = torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    x_t = SCHEDULE.add_noise(x0, t.expand(count), eps)
    for x in (-0.5, 0.1, 0.8):
        near = (x_t - x).abs().flatten() < 0.02
        (expected,) = prior.predict_noise([Query(torch.full((1, 1, 1, 1), x, dtype=torch.float64), t, "")])
        assert eps[near].mean().item() == pytest.approx(expected.item(), abs=0.03)


def test_guidance_combines_conditional_and_unconditional():
    prior = random_mixture(2)
    x, t = torch.randn(4, 2, 1, 1, dtype=torch.float64), torch.tensor([3, 50, 300, 900])
    ask = lambda prompt, scale: prior.predict_noise([Query(x, t, prompt, scale)])[0]  # noqa: E731
    unconditional, conditional = ask("", 1.0), ask("a", 1.0)
    torch.testing.assert_close(ask("a", 0.0), unconditional)
    torch.testing.assert_close(ask("a", 7.5), unconditional + 7.5 * (conditional - unconditional))


def test_answers_every_query_in_its_own_dtype():
    prior = random_mixture(2)
    t = torch.tensor([10])
    queries = [Query(torch.ones(1, 2, 1, 1, dtype=dtype), t, "a") for dtype in (torch.float32, torch.float64)]
    assert [answer.dtype for answer in prior.predict_noise(queries)] == [torch.float32, torch.float64]
    assert isinstance(prior, Prior)


@pytest.mark.usefixtures("as_users_run_it")
def test_unknown_prompts_and_ragged_modes_are_refused():
    prior = random_mixture(2)
    with pytest.raises(ValueError, match='prompt is "d": this mixture knows a, b, c'):
        prior.predict_noise([Query(torch.ones(1, 2, 1, 1), torch.tensor([10]), "d")])
    with pytest.raises(ValueError, match="lengths"):
        GaussianMixturePrior(SCHEDULE, torch.zeros(2, 2).double(), torch.ones(3).double(), ("a", "b"))


class TestEndPointsOnTwoGaussians:
    """One Gaussian per prompt, unguided: predictions are linear in x, and every objective's end point is known.

    The gap d = x⁰_tgt − x⁰_src and the modes' distance D meet in E[ε̂_tgt − ε̂_src] = r_t (d − D) with
    r_t = √ᾱ_t √(1−ᾱ_t)/v_t: DDS ends at d = D, SDS at the target's mean, PDS at d = D E[c r]/(E[k/σ] + E[c r]).
    """

    std = 0.3
    distance = torch.tensor([2.0, 0.5], dtype=torch.float64)
    start = torch.tensor([[-1.2, 0.3], [-0.7, -0.4], [-1.0, 0.0]], dtype=torch.float64)

    def end(self, objective) -> torch.Tensor:
        mean = torch.tensor([-1.0, 0.0], dtype=torch.float64)
        prior = GaussianMixturePrior(
            SCHEDULE,
            torch.stack([mean, mean + self.distance]),
            torch.full((2,), self.std, dtype=torch.float64),
            ("left", "right"),
        )
        return trajectories(objective, prior, self.start, torch.Generator().manual_seed(5), draws=32)[:, -1]

    def test_dds_carries_every_point_by_the_distance_of_the_modes(self):
        end = self.end(DDS(guidance_scale=1.0))
        torch.testing.assert_close(end, self.start + self.distance, rtol=0, atol=1e-3)

    def test_sds_collapses_to_the_mean_of_the_target(self):
        end = self.end(SDS(guidance_scale=1.0))
        target = torch.tensor([1.0, 0.5], dtype=torch.float64).expand_as(end)
        torch.testing.assert_close(end, target, rtol=0, atol=0.03)

    def test_pds_stops_where_identity_balances_the_prior(self):
        t = torch.arange(21, 981, 2)
        c = pds_coefficients(SCHEDULE, t, t - 2, "adjacent")
        bar = SCHEDULE.alphas_cumprod[t]
        rate = (bar * (1 - bar)).sqrt() / (bar * self.std**2 + 1 - bar)
        pull, hold = (c.noise * rate).mean(), c.identity.mean()
        fraction = (pull / (pull + hold)).item()
        assert 0.2 < fraction < 0.8
        end = self.end(PDS(guidance_scale=1.0))
        torch.testing.assert_close(end, self.start + fraction * self.distance, rtol=0, atol=0.05)

    def test_pair_consistent_pds_goes_all_the_way_like_dds(self):
        end = self.end(PDS(guidance_scale=1.0, coefficients="posterior"))
        torch.testing.assert_close(end, self.start + self.distance, rtol=0, atol=0.02)
