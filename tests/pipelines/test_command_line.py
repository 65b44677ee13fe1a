"""What a command line named counts, whatever its value; where there is none, what departs from the defaults."""

import copy
import sys
from typing import Any

import pytest

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.command_line import Given, merged, named
from pds_nerfstudio.pipelines.plan import _share_between_stages
from pds_nerfstudio.pipelines.settings_tree import change

from .conftest import PROMPTS
from .test_edit import TOYBOX


def test_flags_are_named_as_they_are_written():
    words = ["pds-edit", "--pipeline.objective.guidance-scale", "7.5", "--vis=tensorboard", "--pipeline.box", "-1", "0"]
    assert named(words) == {"pipeline.objective.guidance_scale", "vis", "pipeline.box"}
    behind = named([*words, "nerfstudio-data", "--data", "x", "--eval-mode", "all"])
    dataparser = "pipeline.datamanager.dataparser"
    assert {dataparser, f"{dataparser}.data", f"{dataparser}.eval_mode"} <= behind


def test_without_a_command_line_what_departs_from_the_default_was_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pds", "bench", "--pipeline.seed", "3"])
    default = METHODS["pnr-edit-splat"].config
    config = copy.deepcopy(default)
    change(config, "pipeline.box", (0.0, 0.0, 0.0, 1.0, 1.0, 1.0))
    change(config, "pipeline.objective.stride", 4)
    change(config, "optimizers.means.optimizer.lr", 0.5)
    given = Given.of(config, default)
    assert "pipeline.box" in given
    assert "pipeline.objective.stride" in given
    assert "optimizers.means.optimizer.lr" in given
    assert given.within("pipeline.objective")
    assert not given.within("pipeline.seed")
    assert not given.within("pipeline.objective.guidance_scale")


def test_parts_are_merged_one_by_one():
    before, now = ({"a": {"lr": value, "eps": value}, "b": value} for value in (1, 2))
    given = Given({"rates.a.lr"})
    assert merged(before, now, given, "rates") == {"a": {"lr": 2, "eps": 1}, "b": 1}
    assert merged(before, now, Given({"rates"}), "rates") == now


def test_a_short_trial_shortens_both_stages_in_proportion():
    def stages(steps: int, *names: str, resumes: bool = False) -> tuple[int, int]:
        config: Any = copy.deepcopy(METHODS["pnr-edit-splat"].config)
        config.max_num_iterations = steps
        _share_between_stages(config, Given({"max_num_iterations", *names}), resumes)
        return config.pipeline.edit_steps, config.pipeline.refinement.refine_steps

    default: Any = METHODS["pnr-edit-splat"].config.pipeline
    whole, refined = default.steps, default.refinement.refine_steps
    assert stages(60) == (60 - round(60 * refined / whole), round(60 * refined / whole))
    assert min(stages(60)) > 0
    assert stages(whole + 100) == (whole + 100 - refined, refined)
    assert stages(refined + 5, "pipeline.refine_steps") == (5, refined), "what was asked for stays"
    assert stages(refined + 5, resumes=True) == (5, refined)
    with pytest.raises(UserError, match="leaves no step"):
        stages(60, "pipeline.refine_steps")


@pytest.mark.slow
def test_naming_the_default_goes_back_to_it(ns_train, toy_splats, capsys):
    edit = (*PROMPTS, *TOYBOX, "--pipeline.views-per-step", 2, "--pipeline.loss-weight", 0.5)
    first = ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *edit, "--max-num-iterations", 2)
    back = ("--pipeline.views-per-step", 1, "--max-num-iterations", 4)
    capsys.readouterr()
    resumed = ns_train("pds-edit-splat", "--load-dir", first.get_base_dir(), *back)
    printed = " ".join(capsys.readouterr().out.split())
    assert resumed.pipeline.view.views_per_step == 1
    assert resumed.pipeline.loss.loss_weight == 0.5
    assert "Taken from its run:" in printed
    assert "loss_weight 0.5" in printed
