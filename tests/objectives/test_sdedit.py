"""SDEdit against a prior whose images are known."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pds_nerfstudio.objectives import NoiseSchedule, Query
from pds_nerfstudio.objectives.sdedit import SDEdit

from .fakes import SCHEDULE, FakePrior, diffusers_ddim


@dataclass
class OneImagePrior:
    """The exact ε̂ of a prior that knows a single image, whatever the prompt."""

    image: Tensor
    schedule: NoiseSchedule = SCHEDULE

    def predict_noise(self, queries: Sequence[Query]) -> list[Tensor]:
        return [self.schedule.sample_to_epsilon(query.noisy_latents, query.t, self.image) for query in queries]


@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0])
def test_it_ends_in_the_only_image_that_the_prior_knows(strength):
    source, image, eps = torch.randn(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edited = SDEdit(strength=strength).edit(OneImagePrior(image), source, "a ball", eps)
    torch.testing.assert_close(edited, image)


def test_strength_is_the_share_of_the_noise_and_of_the_steps():
    prior = FakePrior()
    x0 = torch.zeros(1, 4, 3, 3, dtype=torch.float64)
    SDEdit(strength=0.5, num_steps=20, guidance_scale=3.0).edit(prior, x0, "a ball", torch.ones_like(x0))
    queries = [query for call in prior.calls for query in call]
    assert len(queries) == 10
    assert int(queries[0].t) == 499
    torch.testing.assert_close(queries[0].noisy_latents, (1 - SCHEDULE.alpha_bar(queries[0].t)).sqrt().expand_as(x0))
    assert all(int(a.t) > int(b.t) for a, b in itertools.pairwise(queries))
    assert {(query.prompt, query.guidance_scale) for query in queries} == {("a ball", 3.0)}


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_its_loop_is_diffusers_ddim_step_for_step(strength):
    scheduler = diffusers_ddim(20)
    prior = FakePrior()
    x0, eps = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edited = SDEdit(strength=strength, guidance_scale=3.0).edit(prior, x0, "a ball", eps)

    steps = scheduler.timesteps[-round(20 * strength) :]
    latents = scheduler.add_noise(x0, eps, steps[:1])
    assert len(prior.calls) == len(steps)
    for (query,), t in zip(prior.calls, steps, strict=True):
        assert query.t.tolist() == [int(t)] * 2
        torch.testing.assert_close(query.noisy_latents, latents)
        (eps_hat,) = FakePrior().predict_noise([Query(latents, t.expand(2), "a ball", 3.0)])
        latents = scheduler.step(eps_hat, int(t), latents).prev_sample
    torch.testing.assert_close(edited, latents)


def test_without_noise_it_returns_the_image_up_to_the_vae():
    from pds_nerfstudio.evaluation.metrics import psnr
    from pds_nerfstudio.priors.load import load_prior
    from pds_nerfstudio.toybox.render import orbit_cameras, render
    from pds_nerfstudio.toybox.spec import SceneSpec

    toybox_prior = load_prior("toybox", "cpu")
    image = render(SceneSpec(), orbit_cameras(torch.tensor([1.0]), torch.tensor([0.5])), 64, 64).image.movedim(-1, 1)
    latents = toybox_prior.encode(image)
    edited = SDEdit(strength=0.0).edit(toybox_prior, latents, "a photo of a blue cube", torch.randn_like(latents))
    assert torch.equal(edited, latents)
    assert psnr(toybox_prior.decode(edited), image) > 30


@pytest.mark.parametrize("settings", [{"strength": -0.1}, {"strength": 1.1}, {"num_steps": 0}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SDEdit(**settings)
