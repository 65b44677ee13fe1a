"""Piva and VSD: their limits, their signs, and their convergence on a mixture whose adapters are exact."""

from dataclasses import replace

import pytest
import torch

from pds_nerfstudio.objectives import DDS, VSD, Piva, guided

from .fakes import FakePrior, random_edit


class Untrained(FakePrior):
    """Adapters that have learned nothing: they predict what the prior does."""

    def predict_noise(self, queries):
        return super().predict_noise([replace(query, adapter=None) for query in queries])


def test_without_regularisation_and_with_separate_latents_piva_is_dds():
    edit = random_edit()
    piva = Piva(regularisation=0.0, noisy_source="separate", guidance_scale=7.5)
    prior = FakePrior()
    assert torch.equal(piva.gradient(prior, edit), DDS(weighting="variance").gradient(FakePrior(), edit))
    assert len(prior.calls[0]) == 2
    assert piva.adapters == ()


def test_untrained_adapters_pull_nowhere_for_one_prompt():
    edit = random_edit(tgt_prompt="a red ball")
    with_pull, without = (Piva(regularisation=value).gradient(Untrained(), edit) for value in (0.4, 0.0))
    torch.testing.assert_close(with_pull, without)


def test_a_matched_pair_gives_zero_gradient_while_adapters_agree():
    edit = random_edit(tgt_prompt="a red ball")
    edit = replace(edit, x0_tgt=edit.x0_src)
    for noisy_source in ("shared", "separate"):
        gradient = Piva(noisy_source=noisy_source).gradient(Untrained(), edit)
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_shared_latents_need_no_source_rendering():
    edit = random_edit()
    other = replace(edit, x0_src=torch.randn_like(edit.x0_src))
    assert torch.equal(Piva().gradient(FakePrior(), edit), Piva().gradient(FakePrior(), other))
    separate = Piva(noisy_source="separate")
    assert not torch.equal(separate.gradient(FakePrior(), edit), separate.gradient(FakePrior(), other))


class Guided(FakePrior):
    """A prior whose guidance is `guided`."""

    def predict_noise(self, queries):
        self.calls.append(list(queries))
        return [
            guided(
                self._one(replace(query, prompt="", guidance_scale=0.0)),
                self._one(replace(query, guidance_scale=0.0)),
                query.guidance_scale,
            )
            for query in queries
        ]


def test_on_a_shared_latent_the_unconditional_prediction_is_not_asked_and_makes_no_difference():
    edit = random_edit()
    prior = Guided()
    gradient = Piva(regularisation=0.0, guidance_scale=7.5).gradient(prior, edit)
    assert [query.guidance_scale for query in prior.calls[0]] == [1.0, 1.0]
    same = replace(edit, x0_src=edit.x0_tgt)
    separate = Piva(regularisation=0.0, guidance_scale=7.5, noisy_source="separate")
    torch.testing.assert_close(gradient, separate.gradient(Guided(), same))


class Points(FakePrior):
    """Exact noise of distributions that are points: the source's at −1, the edited scene's where it is now."""

    def __init__(self, x0_tgt):
        super().__init__()
        self.x0_tgt = x0_tgt

    def predict_noise(self, queries):
        answers = []
        for query in queries:
            alpha_bar = self.schedule.alphas_cumprod[query.t][:, None, None, None]
            mean = {None: torch.zeros_like(self.x0_tgt), "source": -torch.ones_like(self.x0_tgt), "edited": self.x0_tgt}
            answers.append((query.noisy_latents - alpha_bar.sqrt() * mean[query.adapter]) / (1 - alpha_bar).sqrt())
        return answers


def test_the_pull_is_towards_the_source_and_grows_with_lambda():
    edit = random_edit()
    pulls = [Piva(regularisation=value).gradient(Points(edit.x0_tgt), edit) for value in (0.0, 0.2, 0.4)]
    towards_source = -(-torch.ones_like(edit.x0_tgt) - edit.x0_tgt)  # a gradient points away from where it leads
    first, second = pulls[1] - pulls[0], pulls[2] - pulls[0]
    assert (first * towards_source > 0).all()
    torch.testing.assert_close(second, 2 * first)


def test_vsd_stops_where_the_prior_and_the_scene_agree_and_leads_to_the_prior():
    edit = random_edit()
    at_the_prior = replace(edit, x0_tgt=torch.zeros_like(edit.x0_tgt))
    gradient = VSD(guidance_scale=1.0).gradient(Points(at_the_prior.x0_tgt), at_the_prior)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    gradient = VSD(guidance_scale=1.0).gradient(Points(edit.x0_tgt), edit)
    assert (gradient * edit.x0_tgt > 0).all()


def test_a_negative_lambda_is_refused():
    with pytest.raises(ValueError, match="regularisation"):
        Piva(regularisation=-0.1)
