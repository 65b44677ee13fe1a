"""Edit-friendly DDPM inversion, against its own property and against diffusers' DDIM with η = 1."""

import pytest
import torch

from pds_nerfstudio.objectives.inversion import DDPMInversion

from .fakes import FakePrior, diffusers_ddim

SIZE = (2, 4, 3, 3)


def drawn(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.64, 1.0])
def test_the_same_prompt_and_guidance_give_the_image_back(strength):
    editor = DDPMInversion(guidance_scale=3.5, strength=strength, num_steps=20)
    x0 = drawn(0, *SIZE)
    edited = editor.edit(FakePrior(), x0, "a ball", "a ball", drawn(1, 20, *SIZE))
    torch.testing.assert_close(edited, x0)
    other = editor.edit(FakePrior(), x0, "a ball", "a cube", drawn(1, 20, *SIZE))
    assert torch.equal(other, x0) == (strength == 0)


def test_its_steps_are_diffusers_ddim_with_all_of_the_noise():
    scheduler = diffusers_ddim(20)
    x, eps_hat = drawn(0, *SIZE), drawn(1, *SIZE)
    for t in (999, 499, 99):
        wanted = scheduler.step(eps_hat, t, x, eta=1.0, variance_noise=torch.zeros_like(x)).prev_sample
        mean = DDPMInversion._mean(FakePrior(), x, torch.tensor(t), torch.tensor(t - 50), eps_hat)
        torch.testing.assert_close(mean, wanted)


@pytest.mark.parametrize("settings", [{"strength": 1.1}, {"num_steps": 0}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DDPMInversion(**settings)
