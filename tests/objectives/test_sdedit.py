"""SDEdit against a prior whose images are known."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pds_nerfstudio.objectives import NoiseSchedule, Query
from pds_nerfstudio.objectives.sdedit import SDEdit

from .fakes import SCHEDULE, FakePrior


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


@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"strength": 1.1}, {"num_steps": 0}])
def test_settings_that_edit_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SDEdit(**settings)
