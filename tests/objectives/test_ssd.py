"""Stable Score Distillation: its four terms, each on its own, and where it does not vanish."""

from dataclasses import replace

import pytest
import torch

from pds_nerfstudio.objectives import DDS, PDS, SSD

from .fakes import SCHEDULE, FakePrior, random_edit

ALONE = {"guidance_scale": 0.0, "cross_trajectory": 0.0, "enhancement": 0.0, "hold": 0.0}


def of_one_term(edit, **weight: float):
    return SSD(**(ALONE | weight)).gradient(FakePrior(), edit)


def test_the_gradient_is_the_sum_of_its_terms():
    edit = random_edit()
    whole = SSD().gradient(FakePrior(), edit)
    named = {"guidance_scale": 7.5, "cross_trajectory": 1.0, "enhancement": 5.5, "hold": 0.075}
    torch.testing.assert_close(whole, sum(of_one_term(edit, **{name: value}) for name, value in named.items()))


def test_each_term_is_the_papers():
    edit = random_edit()
    x_t, x_t_src = (SCHEDULE.add_noise(x0, edit.t, edit.eps) for x0 in (edit.x0_tgt, edit.x0_src))

    def asked(x, prompt, guidance):
        return FakePrior().predict_noise([edit.query(x, prompt, guidance)])[0]

    target, source = asked(x_t, edit.tgt_prompt, 1.0), asked(x_t, edit.src_prompt, 1.0)
    any_, source_any = asked(x_t, edit.tgt_prompt, 0.0), asked(x_t_src, edit.src_prompt, 0.0)
    torch.testing.assert_close(of_one_term(edit, cross_trajectory=1.0), source - source_any)
    torch.testing.assert_close(of_one_term(edit, guidance_scale=2.0), target - source)
    torch.testing.assert_close(of_one_term(edit, enhancement=1.0), target - any_)
    share = torch.exp(edit.t / 1000)[:, None, None, None]
    torch.testing.assert_close(of_one_term(edit, hold=1.0), share * (x_t - x_t_src))


def test_it_holds_on_to_the_source_as_dreamcatalyst_does():
    edit = random_edit()
    weights = PDS(weighting="dreamcatalyst").weights(SCHEDULE, edit.t, edit.s)
    held = weights[0][:, None, None, None] * (edit.x0_tgt - edit.x0_src)
    torch.testing.assert_close(of_one_term(edit, hold=0.075), held)


@pytest.mark.parametrize("weight", ["guidance_scale", "hold"])
def test_these_terms_vanish_where_nothing_is_to_be_changed(weight):
    edit = random_edit()
    matched = replace(edit, x0_tgt=edit.x0_src, tgt_prompt=edit.src_prompt)
    assert torch.equal(of_one_term(matched, **{weight: 1.0}), torch.zeros_like(edit.x0_src))
    assert of_one_term(matched, enhancement=1.0).abs().max() > 0  # and this one does not


def test_it_compares_prompts_on_the_edited_trajectory_alone():
    edit = random_edit()
    elsewhere = replace(edit, x0_src=edit.x0_src + 1)
    ours = [of_one_term(one, guidance_scale=2.0) for one in (edit, elsewhere)]
    assert torch.equal(*ours)
    assert not torch.equal(DDS().gradient(FakePrior(), edit), DDS().gradient(FakePrior(), elsewhere))
