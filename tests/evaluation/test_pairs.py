"""Which scene an edited run is compared with, found without loading either."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pds_nerfstudio.cli.evaluate import require_readable
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.before_after import plan_pair
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.carried import CARRIED

SOURCE, EDIT, REFINEMENT = "source-splatfacto", "pnr-edit-splat", "sdedit-refine-splat"


@pytest.fixture
def home(tmp_path) -> Path:
    """A scene, its edit, the edit's refinement, and a refinement of that, by their files alone."""
    home = tmp_path / "home"
    before: Path | None = None
    for name, method in ((SOURCE, SOURCE), (EDIT, EDIT), (REFINEMENT, REFINEMENT), ("again", REFINEMENT)):
        config: Any = copy.deepcopy(METHODS[method].config)
        config.output_dir, config.experiment_name, config.method_name, config.timestamp = home, "e", name, "t"
        config.made_in = folder = config.get_base_dir()
        if before is not None:
            config.pipeline.run.base, config.pipeline.run.base_step = before / "config.yml", 1
        (folder / "nerfstudio_models").mkdir(parents=True)
        (folder / "config.yml").write_text(yaml.dump(config))
        torch.save({"step": 1, "pipeline": {}}, folder / "nerfstudio_models" / "step-000000001.ckpt")
        before = folder
    return home


def run_in(home: Path, name: str) -> Path:
    return home / "e" / name / "t"


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", [EDIT, REFINEMENT, "again"])
def test_edits_and_refinements_are_compared_with_the_scene_before_the_edit(home, name, moved):
    """Their prompts speak of that scene, wherever all of it lies now."""
    if moved:
        home = home.rename(home.with_name("elsewhere"))
    plan = plan_pair(run_in(home, name))
    assert plan.before == run_in(home, SOURCE)
    assert (plan.refined is None) == (name == EDIT)
    if plan.refined is not None:
        assert plan.refined.config_path.parent == run_in(home, EDIT)


def test_where_the_scene_is_gone_the_edit_that_is_refined_carries_it(home):
    shutil.rmtree(run_in(home, SOURCE))
    with pytest.raises(UserError, match=f"{EDIT}.* was edited from is not at .*--source"):
        plan_pair(run_in(home, REFINEMENT))
    (run_in(home, EDIT) / CARRIED).touch()
    assert plan_pair(run_in(home, REFINEMENT)).before == run_in(home, SOURCE)


def test_a_refinement_is_not_compared_with_the_wrong_scene_where_its_edit_is_gone(home):
    (run_in(home, REFINEMENT) / CARRIED).touch()  # the edit's, of which the prompts do not speak
    shutil.rmtree(run_in(home, EDIT))
    with pytest.raises(UserError, match=f"{REFINEMENT}.* was edited from is not at .*--source"):
        plan_pair(run_in(home, REFINEMENT))
    assert plan_pair(run_in(home, REFINEMENT), source=run_in(home, SOURCE)).before == run_in(home, SOURCE)
    assert plan_pair(run_in(home, REFINEMENT), compared=False).refined is None


def test_of_a_refinement_the_scene_before_its_edit_is_read_beforehand(home, monkeypatch):
    """And not its own source, which nothing is compared with."""
    read: list[Any] = []
    monkeypatch.setattr("pds_nerfstudio.checkpoints.load_tensors", lambda path, remedy: read.append(path))
    monkeypatch.setattr("pds_nerfstudio.scenes.source.load_source_state", lambda run: read.append(run.checkpoint_path))
    monkeypatch.setattr("pds_nerfstudio.pipelines.carried.source_state", lambda settings: read.append(settings.base))
    plan = plan_pair(run_in(home, REFINEMENT))
    require_readable(plan)
    assert read[-1] == run_in(home, SOURCE) / "config.yml"
    assert {path.parents[1] for path in read[:-1]} == {run_in(home, REFINEMENT), run_in(home, EDIT)}
