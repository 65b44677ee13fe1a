"""Editing a latent: the objectives' own gradients, descended as stated."""

import math

import pytest
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import DDS, OBJECTIVES, PDS, Edit, Piva
from pds_nerfstudio.objectives.dvrf import DVRF
from pds_nerfstudio.objectives.sdedit import SDEdit
from pds_nerfstudio.pipelines.image_edit import WAY, edit_latents
from pds_nerfstudio.priors.load import load_prior

PROMPTS = ("a photo of a red ball", "a photo of a blue ball")


@pytest.fixture(scope="module")
def prior():
    return load_prior("toybox", "cpu")


@pytest.fixture(scope="module")
def x0():
    return 0.5 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))


def test_one_step_is_the_objectives_gradient_times_the_rate(prior, x0):
    """Each photograph of several steps as if it were alone: a sum over the batch."""
    both = torch.cat([x0, -x0])
    generator = torch.Generator().manual_seed(7)
    t, s = PDS().sample_timesteps(prior.schedule, 2, generator)
    eps, eps_s = (torch.randn(both.shape, generator=generator) for _ in range(2))
    gradient = PDS().gradient(prior, Edit(both, both, *PROMPTS, t, s, eps, eps_s))
    edited = edit_latents(prior, PDS(), both, *PROMPTS, steps=1, seed=7, rate=0.03)
    torch.testing.assert_close(edited, both - 0.03 * gradient)


def test_the_way_is_as_long_in_few_steps_as_in_many(prior, x0, monkeypatch):
    """Under a constant gradient: the papers' thousand steps, whatever their number here."""
    monkeypatch.setattr(DDS, "gradient", lambda self, prior, edit: torch.ones_like(edit.x0_tgt))
    moved = {steps: float((x0 - edit_latents(prior, DDS(), x0, *PROMPTS, steps)).mean()) for steps in (50, 1000)}
    assert moved[1000] == pytest.approx(
        0.01 * sum(0.5 * (1 + math.cos(math.pi * i / 1000)) for i in range(1000)), rel=1e-4
    )
    assert moved[50] == pytest.approx(moved[1000], rel=0.03)
    assert pytest.approx(10.0) == WAY


def test_where_t_falls_velocities_are_followed_once_from_noise_to_image(prior, x0, monkeypatch):
    monkeypatch.setattr(DVRF, "gradient", lambda self, prior, edit: torch.ones_like(edit.x0_tgt))
    falls, drawn = (x0 - edit_latents(prior, DVRF(descend=d), x0, *PROMPTS, 100) for d in (True, False))
    assert float(falls.mean()) == pytest.approx(0.75, rel=0.02)  # in σ
    assert float(drawn.mean()) == pytest.approx(WAY / 2, rel=0.02)


@pytest.mark.parametrize("kind", [*OBJECTIVES, SDEdit])
def test_every_editor_moves_the_latent_and_repeats_itself(prior, x0, kind):
    """Adapters included: what an earlier edit has taught them is forgotten."""
    first, second = (edit_latents(prior, kind(), x0, *PROMPTS, steps=2, adapter_rank=2) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, x0)
    assert first.isfinite().all()
    assert not first.requires_grad


def test_a_pivas_adapters_learn_during_the_edit(prior, x0):
    edit_latents(prior, Piva(), x0, *PROMPTS, steps=2, adapter_rank=2)
    learned = {name: bool(value.any()) for name, value in prior.adapters.state_dict().items() if ".lora_B." in name}
    assert all(learned.values())
    prior.adapters.reset(seed=1)
    again = {name: value for name, value in prior.adapters.state_dict().items()}
    assert not any(value.any() for name, value in again.items() if ".lora_B." in name)
    assert all(value.any() for name, value in again.items() if ".lora_A." in name)


def test_a_rate_that_diverges_is_one_sentence(prior, x0):
    with pytest.raises(UserError, match="lower learning rate"):
        edit_latents(prior, PDS(), x0, *PROMPTS, steps=2, rate=1e38)
