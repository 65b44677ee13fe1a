"""Runs that were moved or copied: what they name is found again, and an edit needs nothing of its source but itself."""

import shutil
from pathlib import Path

import pytest
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.before_after import load_pair, plan_pair
from pds_nerfstudio.evaluation.trial import edit_config, train
from pds_nerfstudio.pipelines.belongings import _found
from pds_nerfstudio.pipelines.carried import CARRIED
from pds_nerfstudio.pipelines.plan import prepare
from pds_nerfstudio.pipelines.scene_trainer import SceneTrainer, SceneTrainerConfig
from pds_nerfstudio.pipelines.trainer import default_of
from pds_nerfstudio.scenes.places import found_again
from pds_nerfstudio.scenes.run_config import load_config, usable_config
from pds_nerfstudio.scenes.source import checksum, find_run, load_source_state
from pds_nerfstudio.toybox.spec import find_edit

pytestmark = pytest.mark.slow
MEANS = "_model.gauss_params.means"


def moved(folder: Path, to: Path) -> Path:
    """A copy of `folder` whose runs think that they are still where `folder` was, which is not there any more."""
    shutil.copytree(folder, to)
    for path in to.rglob("config.yml"):
        path.write_text(path.read_text().replace(f"- {folder.name}\n", "- gone\n"))
    return to


@pytest.fixture(scope="module")
def home(toy_scene, toy_splats, tmp_path_factory) -> Path:
    """A folder with a dataset, a run of it, and an edit of that run, of two steps."""
    there = toy_scene.parent
    home = tmp_path_factory.mktemp("home") / there.name
    shutil.copytree(toy_scene / "source", home / "scene" / "source")
    run = home / toy_splats.relative_to(there)
    shutil.copytree(toy_splats.parent, run.parent)
    home = moved(home, tmp_path_factory.mktemp("moved") / "home")
    edit(home / toy_splats.relative_to(there), home, 2, run=train)
    return home


def edit(source: Path, out: Path, steps: int, run=lambda config: prepare(config, default_of(config)), **changes):
    config = edit_config("pds-edit-splat", source, find_edit("can-to-cone"), out, 0, steps)
    config.pipeline.prior, config.pipeline.view.resolution = "toybox", 32
    for name, value in changes.items():
        setattr(config.pipeline.run, name, value)
    return run(config)


def base_of(home: Path) -> Path:
    return next(home.glob("**/source-splatfacto/*/config.yml"))


def edit_of(home: Path) -> Path:
    return next(home.glob("**/pds-edit-splat/*/config.yml"))


def test_a_dataset_that_moved_with_its_run_is_found(home):
    assert find_run(base_of(home)).data == home / "scene" / "source"
    assert find_run(edit_of(home)).data == home / "scene" / "source"


def test_relative_places_count_from_where_the_run_was_started(home, tmp_path, monkeypatch):
    """Runs of nerfstudio's own methods do not say where they were made."""
    config = load_config(base_of(home))
    config.made_in, config.output_dir = None, Path("outputs")
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    folder = project / config.get_base_dir()
    assert found_again(Path("data"), folder, config) == project / "data"
    assert found_again(Path("other"), folder, config) == Path("other")
    monkeypatch.chdir(project)
    assert found_again(Path("data"), folder, config).resolve() == project / "data"


def test_what_another_project_has_at_the_same_relative_place_is_not_taken(home, tmp_path, monkeypatch):
    config = load_config(base_of(home))
    config.made_in, config.output_dir = None, Path("outputs")
    for project in ("its", "other"):
        (tmp_path / project / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other")
    assert found_again(Path("data"), tmp_path / "its" / config.get_base_dir(), config) == tmp_path / "its" / "data"


def test_an_edit_carries_its_source(home):
    carried = torch.load(edit_of(home).parent / CARRIED, weights_only=True)
    source = find_run(base_of(home))
    assert (
        carried["checksum"] == checksum(source.checkpoint_path) == load_config(edit_of(home)).pipeline.run.base_checksum
    )
    state = load_source_state(source)
    assert {name for name in state if name.startswith("_model.")} == set(carried["pipeline"])
    assert torch.equal(carried["pipeline"][MEANS], state[MEANS])


def test_without_its_base_an_edit_is_compared_and_goes_on(home, tmp_path):
    source = load_source_state(find_run(base_of(home)))[MEANS]
    there = moved(home, tmp_path / "there")
    shutil.rmtree(base_of(there).parent)
    pair = load_pair(plan_pair(edit_of(there)))
    assert torch.equal(pair.before.means, source)
    assert not torch.equal(pair.after.means, source)
    further = edit(edit_of(there), tmp_path, 3, run=train)
    assert find_run(further).step == 2
    assert torch.equal(torch.load(further.parent / CARRIED, weights_only=True)["pipeline"][MEANS], source)


def test_without_base_and_source_the_flag_is_named_and_takes_that_scene_alone(home, tmp_path):
    there = moved(home, tmp_path / "there")
    base = tmp_path / "base"
    shutil.move(base_of(there).parent, base)
    (edit_of(there).parent / CARRIED).unlink()
    with pytest.raises(UserError, match=r"is not at .*gone.* --pipeline.base"):
        edit(edit_of(there), tmp_path / "out", 3)
    with pytest.raises(UserError, match=r"is not at .*gone.* --source"):
        plan_pair(edit_of(there))
    assert edit(edit_of(there), tmp_path / "out", 3, base=base).resumes
    checkpoint = next(base.glob("**/*.ckpt"))
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\0")
    with pytest.raises(UserError, match="is not the scene that this edit began with"):
        edit(edit_of(there), tmp_path / "out", 3, base=base)


def test_a_new_edit_takes_no_other_base(home, tmp_path):
    with pytest.raises(UserError, match="--load-dir alone"):
        edit(base_of(home), tmp_path / "out", 3, base=edit_of(home))


def test_a_dataset_that_moved_alone_is_named(home, tmp_path):
    there = moved(home, tmp_path / "there")
    data = tmp_path / "data"
    shutil.move(there / "scene" / "source", data)
    with pytest.raises(UserError, match="is not there: name it with --data"):
        plan_pair(edit_of(there))
    plan = plan_pair(edit_of(there), data=data)
    assert plan.run.data == data
    config = load_config(usable_config(edit_of(there), plan.run.config, tmp_path / "usable"))
    assert config.pipeline.datamanager.data == data


def test_an_edit_can_go_without(home, tmp_path):
    config = edit(base_of(home), tmp_path, 1, run=train, carry_source=False)
    assert not (config.parent / CARRIED).exists()


def test_files_of_the_prior_are_found_where_they_lie_now(home, tmp_path):
    run = find_run(edit_of(home))
    lora, gone = home / "detail.safetensors", home.parent / "gone" / "detail.safetensors"
    lora.touch()
    for rest in ("", ":0.5"):
        assert _found(f"{lora}{rest}", run) == f"{lora}{rest}"
    assert _found(Path(lora), run) == lora
    assert _found(f"{gone}:0.5", run) == f"{gone}:0.5", "what lies nowhere is not guessed at"
    assert _found("somebody/prior", run) == "somebody/prior"


def test_only_a_folder_that_a_run_has_made_is_removed_when_it_is_refused(tmp_path, monkeypatch):
    def refused(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yml").touch()
        trainer = SceneTrainer.__new__(SceneTrainer)
        trainer.base_dir, trainer.config = folder, SceneTrainerConfig(output_dir=tmp_path)
        with pytest.raises(SystemExit), trainer._leaving_nothing():
            raise UserError("no")

    made, older, full = (tmp_path / "e" / "m" / name for name in ("made", "older", "full"))
    monkeypatch.setattr("pds_nerfstudio.pipelines.beginning.begun_here", {made, full})
    (full / "nerfstudio_models").mkdir(parents=True)
    (full / "nerfstudio_models" / "step-000000001.ckpt").touch()
    for folder in (made, older, full):
        refused(folder)
    assert not made.exists()
    assert (older / "config.yml").is_file(), "it was there before"
    assert (full / "config.yml").is_file(), "a checkpoint is in it"
