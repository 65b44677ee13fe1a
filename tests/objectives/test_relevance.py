"""Where a prior would change an image: nothing where the prompts agree, and only where they differ."""

import torch

from pds_nerfstudio.objectives import Query
from pds_nerfstudio.objectives.relevance import prediction_difference, relevance

from .fakes import SCHEDULE, FakePrior


class LocalPrior:
    """Predicts the same for every prompt except in the left half, where "b" adds one."""

    schedule = SCHEDULE

    def predict_noise(self, queries: list[Query]):
        answers = [query.noisy_latents.clone() for query in queries]
        for query, answer in zip(queries, answers, strict=True):
            if query.prompt == "b":
                answer[..., :3] += 1
        return answers


def draws(batch: int = 4):
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, batch, 4, 5, 6, generator=generator)
    return x0, torch.randint(400, 600, (batch,), generator=generator), eps


def test_equal_prompts_differ_nowhere():
    x0, t, eps = draws()
    assert prediction_difference(FakePrior(), x0, "a", "a", t, eps).abs().max() == 0


def test_the_difference_is_where_the_prompts_disagree_and_asks_once():
    x0, t, eps = draws()
    difference = prediction_difference(LocalPrior(), x0, "a", "b", t, eps)
    assert difference.shape == (4, 5, 6)
    torch.testing.assert_close(difference[..., :3], torch.ones(4, 5, 3))
    assert difference[..., 3:].abs().max() == 0
    prior = FakePrior()
    prediction_difference(prior, x0, "a", "b", t, eps)
    assert len(prior.calls) == 1


def test_twice_the_mean_is_half_relevant_and_four_times_wholly():
    difference = torch.tensor([[0.0, 2.0, 4.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
    torch.testing.assert_close(relevance(difference), difference / 4)
    assert float(relevance(torch.zeros(3, 3)).max()) == 0
    torch.testing.assert_close(relevance(7 * difference), difference / 4)
