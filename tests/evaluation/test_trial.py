"""Toybox trials, before anything is trained."""

from pathlib import Path

import pytest

from pds_nerfstudio.evaluation.trial import edit_config, headless
from pds_nerfstudio.toybox.spec import find_edit


@pytest.mark.parametrize("method", ["pds-edit-splat", "sdedit-refine"])
def test_the_seed_of_a_trial_is_that_of_its_draws(method):
    config = edit_config(method, Path("run/config.yml"), find_edit("red-to-blue"), Path("out"), seed=7, steps=3)
    assert config.pipeline.run.seed == 7
    assert headless("source-splatfacto", Path("out"), seed=7, steps=3).machine.seed == 7


def test_a_setting_is_not_set_beside_its_group():
    config = edit_config("pds-edit", Path("run/config.yml"), find_edit("red-to-blue"), Path("out"), seed=0, steps=3)
    with pytest.raises(AttributeError, match="seed"):
        config.pipeline.seed = 3
