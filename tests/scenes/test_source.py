"""A base run is found, or one sentence says what is wrong; it is never written to."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.instant_ngp import InstantNGPModelConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

from pds_nerfstudio import compat
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes import nerfacto as scene
from pds_nerfstudio.scenes.families import family_of
from pds_nerfstudio.scenes.source import find_run, fingerprint, load_source_state, looked_into, scene_config
from pds_nerfstudio.scenes.views import train_views

compat.apply()


def config(model, name: str, data: Path | None = None) -> TrainerConfig:
    pipeline = VanillaPipelineConfig(datamanager=VanillaDataManagerConfig(data=data), model=model)
    return TrainerConfig(method_name=name, pipeline=pipeline)


@pytest.fixture
def run(tmp_path) -> Path:
    """A nerfacto-big run with checkpoints of steps 9 and 1999, without weights."""
    folder = tmp_path / "run"
    models = folder / "nerfstudio_models"
    models.mkdir(parents=True)
    settings = config(NerfactoModelConfig(hidden_dim=128, implementation="torch"), "nerfacto", Path("data/fox"))
    (folder / "config.yml").write_text(yaml.dump(settings), encoding="utf8")
    for step in (9, 1999):
        state = {"_model.field.weight": torch.full((2,), float(step))}
        torch.save({"step": step, "pipeline": state}, models / f"step-{step:09d}.ckpt")
    (models / "notes.txt").write_text("nerfstudio itself cannot parse this name")
    return folder


@pytest.mark.parametrize("method", ["nerfacto", "depth-nerfacto", "splatfacto"])
def test_whoever_looks_at_single_photographs_decodes_no_others(method, make_dataset, monkeypatch):
    """nerfstudio's nerfacto decodes all of them in worker processes of its own, splatfacto puts them on the GPU."""
    of_run: Any = copy.deepcopy(all_methods[method].pipeline.datamanager)
    of_run.dataparser = NerfstudioDataParserConfig(data=make_dataset(), load_3D_points=False)
    own = looked_into(of_run)
    manager = own.setup(device="cpu", test_mode="val")
    assert len(train_views(manager)) == len(manager.train_dataset)
    if method == "splatfacto":
        assert (own.cache_images, of_run.cache_images) == ("cpu", "gpu")
        return
    assert type(manager) is VanillaDataManager
    assert manager.train_image_dataloader.cached_collated_batch is None
    assert train_views(manager).image(1, 8, 8).shape == (1, 3, 8, 8)
    assert (
        len({int(manager.next_train(i)[1]["indices"][0, 0]) for i in range(30)}) > 1
    )  # whoever takes batches after all


@pytest.mark.parametrize("place", ["", "nerfstudio_models", "config.yml"])
def test_a_run_is_found_from_its_folder_its_checkpoints_and_its_config(run, place):
    found = find_run(run / place)
    assert (found.family, found.method_name, found.step) == ("nerfacto", "nerfacto", 1999)
    assert found.config_path == run / "config.yml"
    assert found.data == Path("data/fox")
    assert load_source_state(found)["_model.field.weight"].tolist() == [1999.0, 1999.0]


def test_checkpoints_may_lie_away_from_their_default_folder(run):
    shutil.move(run / "nerfstudio_models", run / "kept")
    assert find_run(run / "kept").step == 1999


def test_an_earlier_checkpoint_can_be_chosen(run):
    assert find_run(run, load_step=9).checkpoint_path.name == "step-000000009.ckpt"
    with pytest.raises(UserError, match="9, 1999"):
        find_run(run, load_step=10)


def test_the_models_own_settings_reach_the_scene(run):
    settings = scene_config(find_run(run))
    assert isinstance(settings, scene.NerfactoSceneConfig)
    assert settings.hidden_dim == 128
    assert settings._target is scene.NerfactoScene


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (NerfactoModelConfig(), "nerfacto"),
        (scene.NerfactoSceneConfig(), "nerfacto"),
        (SplatfactoModelConfig(), "splatfacto"),
        (InstantNGPModelConfig(), None),
    ],
)
def test_the_family_is_that_of_the_model(model, family):
    assert family_of(config(model, "whatever")) == family


@pytest.mark.parametrize(
    ("method", "family"),
    [
        *((name, "nerfacto") for name in ("nerfacto", "nerfacto-big", "nerfacto-huge", "depth-nerfacto")),
        *((name, "splatfacto") for name in ("splatfacto", "splatfacto-big")),
        ("instant-ngp", None),
    ],
)
def test_nerfstudios_own_methods_have_their_family(method, family):
    assert family_of(all_methods[method]) == family


def broken_config(run):
    (run / "config.yml").write_text("!!python/object:no_such_package.Config {}")


def other_method(run):
    (run / "config.yml").write_text(yaml.dump(config(InstantNGPModelConfig(), "instant-ngp")))


def not_a_run(run):
    (run / "config.yml").write_text("just: text")


def truncated_checkpoint(run):
    path = run / "nerfstudio_models/step-000001999.ckpt"
    path.write_bytes(path.read_bytes()[:100])


def foreign_checkpoint(run):
    torch.save({"weights": 1}, run / "nerfstudio_models/step-000001999.ckpt")


def no_checkpoint(run):
    for path in (run / "nerfstudio_models").glob("*.ckpt"):
        path.unlink()


def no_config(run):
    (run / "config.yml").unlink()


def no_folder(run):
    shutil.rmtree(run)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_folder, "does not exist"),
        (no_config, "has no config.yml"),
        (broken_config, "cannot be read as a nerfstudio config"),
        (not_a_run, "is not the config of"),
        (other_method, "instant-ngp"),
        (no_checkpoint, "holds no checkpoint"),
        (truncated_checkpoint, "is damaged"),
        (foreign_checkpoint, "is no checkpoint of a nerfstudio run"),
    ],
)
def test_what_is_wrong_with_a_run_is_one_sentence(run, damage, said):
    damage(run)
    with pytest.raises(UserError, match=said) as raised:
        load_source_state(find_run(run / "nerfstudio_models"))
    message = str(raised.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))


def test_weights_of_tiny_cuda_nn_need_tiny_cuda_nn(run, monkeypatch):
    monkeypatch.setattr(scene, "TCNN_EXISTS", False)
    state = {"_model.field.mlp_head.tcnn_encoding.params": torch.zeros(1)}
    torch.save({"step": 2000, "pipeline": state}, run / "nerfstudio_models/step-000002000.ckpt")
    with pytest.raises(UserError, match="tiny-cuda-nn"):
        load_source_state(find_run(run))


def test_the_implementation_is_the_one_that_wrote_the_weights(run):
    found = find_run(run)
    assert scene_config(found, {"_model.field.mlp_head.tcnn_encoding.params": torch.zeros(1)}).implementation == "tcnn"
    assert scene_config(found, load_source_state(found)).implementation == "torch"


def test_weights_of_a_parallel_run_lose_their_prefix(run):
    state = {"module._model.field.weight": torch.ones(1)}
    torch.save({"step": 2000, "pipeline": state}, run / "nerfstudio_models/step-000002000.ckpt")
    assert list(load_source_state(find_run(run))) == ["_model.field.weight"]


def test_splats_under_their_old_names_get_the_present_ones(run):
    state = {"module._model.means": torch.tensor([[0.0], [torch.nan]]), "_model.opacities": torch.zeros(2, 1)}
    torch.save({"step": 2000, "pipeline": state}, run / "nerfstudio_models/step-000002000.ckpt")
    loaded = load_source_state(find_run(run))
    assert {name: len(value) for name, value in loaded.items()} == {
        "_model.gauss_params.means": 1,
        "_model.gauss_params.opacities": 1,
    }


def test_a_run_is_only_read(run):
    before = fingerprint(run)
    load_source_state(find_run(run))
    assert len(before) == 4
    assert fingerprint(run) == before
    (run / "config.yml").write_text("")
    assert fingerprint(run) != before
