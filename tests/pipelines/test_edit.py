"""Edits through `ns-train`: they move the scene, resume, chain, and never touch their source."""

import copy
import datetime
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import in_process
import pytest
import torch
import yaml
from nerfstudio.configs import experiment_config
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.models.depth_nerfacto import DepthNerfactoModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from processes import started, wait_for_files

from pds_nerfstudio.alive import held
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.evaluation.trial import render_eval_views
from pds_nerfstudio.images import details
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.objectives import PDS
from pds_nerfstudio.pipelines import trainer
from pds_nerfstudio.pipelines.checks import MovementCheck
from pds_nerfstudio.pipelines.command_line import Given
from pds_nerfstudio.pipelines.distributed import SharedOptimizers
from pds_nerfstudio.pipelines.half_precision import OF_SUMS, CountingScaler
from pds_nerfstudio.pipelines.plan import _decay_over_the_edit
from pds_nerfstudio.scenes.source import as_config, find_run, fingerprint, load_source_state
from pds_nerfstudio.scenes.splatfacto import FEW

from .conftest import HEADLESS, PROMPTS

pytestmark = pytest.mark.slow

TOYBOX = (
    *("--pipeline.prior", "toybox", "--pipeline.recipe", "none", "--pipeline.resolution", "32"),
    *("--pipeline.objective.guidance-scale", "7.5"),
)


def scene_of(config) -> dict[str, torch.Tensor]:
    """The edited scene's tensors, from its last checkpoint."""
    state = load_source_state(find_run(config.get_base_dir()))
    return {name: value for name, value in state.items() if name.startswith("_model.") and value.is_floating_point()}


@pytest.mark.parametrize("method", ["sds-edit-splat", "dds-edit-splat", "pds-edit-splat"])
def test_a_splat_edit_moves_the_means_and_leaves_its_source_alone(ns_train, toy_splats, method):
    before = fingerprint(toy_splats.parent)
    config = ns_train(
        method, "--load-dir", toy_splats.parent / "nerfstudio_models", *PROMPTS, *TOYBOX, "--max-num-iterations", 22
    )
    source, edited = load_source_state(find_run(toy_splats)), scene_of(config)
    name = "_model.gauss_params.means"
    assert (edited[name] - source[name]).abs().max() > 1e-4
    assert all(value.isfinite().all() for value in edited.values())
    assert fingerprint(toy_splats.parent) == before
    assert find_run(config.get_base_dir()).step == 21


def test_details_that_are_held_stay_nearer_to_the_sources(ns_train, toy_splats):
    source, off = render_eval_views(load_run(toy_splats)), {}
    for weight in (0.0, 100.0):
        flags = ("--pipeline.hold-details", weight, "--max-num-iterations", 30)
        config = ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, *flags)
        edited = render_eval_views(load_run(config.get_base_dir() / "config.yml"))
        off[weight] = float(details(edited - source, 4).square().mean())
    assert 0 < off[100.0] < 0.5 * off[0.0]


def test_points_that_a_scene_began_from_are_not_read_again_nor_others_drawn_for_them(ns_train, toy_splats, monkeypatch):
    began_with, neighbours = [], SplatfactoModel.k_nearest_sklearn

    def watched(self, points, count):
        began_with.append(len(points))
        return neighbours(self, points, count)

    assert find_run(toy_splats).dataparser_config.load_3D_points
    monkeypatch.setattr("nerfstudio.data.dataparsers.nerfstudio_dataparser.Nerfstudio._load_3D_points", None)
    monkeypatch.setattr(SplatfactoModel, "k_nearest_sklearn", watched)
    config = ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 1)
    for run in (toy_splats, config.get_base_dir() / "config.yml"):
        assert load_run(run).model.num_points > 100
        assert find_run(run).config.pipeline.model.num_random == 50_000  # as it is by default
    assert set(began_with) == {FEW}


def test_an_edit_needs_no_depth_files_where_its_base_was_trained_on_them(ns_train, toy_scene, toy_nerf, tmp_path):
    data = shutil.copytree(toy_scene / "source", tmp_path / "data")
    run = shutil.copytree(toy_nerf.parent, tmp_path / "run")
    config = copy.deepcopy(find_run(toy_nerf).config)
    config.pipeline.datamanager._target = all_methods["depth-nerfacto"].pipeline.datamanager._target
    config.pipeline.model = as_config(DepthNerfactoModelConfig, config.pipeline.model)
    config.method_name, config.pipeline.datamanager.data = "depth-nerfacto", data
    (run / "config.yml").write_text(yaml.dump(config))
    shutil.rmtree(data / "depth")
    ns_train("dds-edit", "--load-dir", run, *PROMPTS, *TOYBOX, "--max-num-iterations", 1)
    assert len(load_run(run / "config.yml").datamanager.train_dataset) == 12


@pytest.mark.parametrize("method", ["sds-edit", "dds-edit", "pds-edit"])
def test_a_nerf_edit_moves_the_field_and_leaves_its_source_alone(ns_train, toy_nerf, monkeypatch, method):
    before = fingerprint(toy_nerf.parent)
    decoded, read = [], InputDataset.get_numpy_image
    monkeypatch.setattr(InputDataset, "get_numpy_image", lambda self, i: (decoded.append(i), read(self, i))[1])
    config = ns_train(method, "--load-dir", toy_nerf.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 3)
    assert decoded == []  # the source's renderings are looked at, and no photograph
    assert find_run(config.get_base_dir()).datamanager_config.train_num_images_to_sample_from == -1  # for ns-export
    source, edited = load_source_state(find_run(toy_nerf)), scene_of(config)
    moved = {name for name in edited if not torch.equal(edited[name], source[name])}
    assert any("field.mlp_base" in name for name in moved)
    assert any("proposal_networks" in name for name in moved)
    assert all(value.isfinite().all() for value in edited.values())
    assert fingerprint(toy_nerf.parent) == before


def test_model_settings_and_data_come_from_the_base_run_and_the_command_line_wins(ns_train, toy_splats, toy_scene):
    config = ns_train(
        *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 2),
        *("--pipeline.model.cull-scale-thresh", 0.25),
    )
    saved = yaml.load((config.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)
    assert saved.pipeline.model.sh_degree == 0  # splatfacto's own default is 3
    assert saved.pipeline.model.background_color == "white"
    assert saved.pipeline.model.cull_scale_thresh == 0.25
    assert Path(saved.pipeline.datamanager.data) == toy_scene / "source"
    assert Path(saved.pipeline.run.base) == toy_splats.resolve()


def test_the_prompt_flag_of_nerfstudio_is_the_target_prompt(ns_train, toy_splats):
    config = ns_train(
        *("pds-edit-splat", "--load-dir", toy_splats.parent, *TOYBOX, "--max-num-iterations", 1),
        *("--pipeline.src-prompt", "a photo of a red can", "--prompt", "a photo of a red cone"),
    )
    assert config.pipeline.tgt_prompt == "a photo of a red cone"


def test_the_same_prompts_resume_and_others_begin_a_new_edit_of_the_result(ns_train, toy_splats, capsys):
    first = ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 4)
    resumed = ns_train("pds-edit-splat", "--load-dir", first.get_base_dir(), "--max-num-iterations", 6)
    assert "Resuming" in capsys.readouterr().out
    assert find_run(resumed.get_base_dir()).step == 5
    assert resumed.pipeline.prior == "toybox"
    assert Path(resumed.pipeline.run.base) == toy_splats.resolve()
    other = ("--pipeline.src-prompt", "a photo of a red cone", "--pipeline.tgt-prompt", "a photo of a blue cone")
    chained = ns_train(
        "pds-edit-splat", "--load-dir", resumed.get_base_dir(), *other, *TOYBOX, "--max-num-iterations", 2
    )
    assert "New edit" in capsys.readouterr().out
    assert Path(chained.pipeline.run.base) == (resumed.get_base_dir() / "config.yml").resolve()
    assert find_run(chained.get_base_dir()).step == 1


def test_a_run_never_takes_the_folder_of_one_that_began_in_the_same_second(monkeypatch, tmp_path):
    class Clock:
        times = iter([1, 1, 1, 2])

        @classmethod
        def now(cls):
            return datetime.datetime(2030, 1, 1, second=next(cls.times))

    monkeypatch.setattr(experiment_config, "datetime", Clock)
    folders = []
    for _ in range(2):
        config = copy.deepcopy(all_methods["source-splatfacto"])
        config.output_dir, config.experiment_name = tmp_path, "scene"
        config.set_timestamp()
        config.get_base_dir().mkdir(parents=True)
        folders.append(config.timestamp)
    assert folders == ["2030-01-01_000001", "2030-01-01_000002"]
    config.set_timestamp()
    assert config.timestamp == folders[1], "one that was given stays"


def test_a_run_that_was_named_before_is_not_replaced(tmp_path, capfd):
    config = copy.deepcopy(all_methods["source-splatfacto"])
    config.output_dir, config.experiment_name, config.timestamp = tmp_path, "scene", "mine"
    config.set_timestamp()
    config.get_checkpoint_dir().mkdir(parents=True)
    config.set_timestamp()  # a run without a checkpoint has nothing to lose
    with held(config.get_base_dir()), pytest.raises(SystemExit):
        config.set_timestamp()
    assert "another training is writing" in capfd.readouterr().err
    (config.get_checkpoint_dir() / "step-000000009.ckpt").touch()
    with pytest.raises(SystemExit):
        config.set_timestamp()
    assert "whose checkpoints would be replaced" in capfd.readouterr().err
    config.load_dir = config.get_checkpoint_dir()
    config.set_timestamp()  # it goes on there


def test_a_config_that_names_its_own_run_makes_another(tmp_path):
    """As nerfstudio's --load-config reads it."""
    config = copy.deepcopy(all_methods["source-splatfacto"])
    config.output_dir, config.experiment_name, config.timestamp = tmp_path, "scene", "2030-01-01_000001"
    config.get_checkpoint_dir().mkdir(parents=True)
    (config.get_checkpoint_dir() / "step-000000009.ckpt").touch()
    config.set_timestamp()
    assert config.timestamp != "2030-01-01_000001"
    assert not config.get_base_dir().exists()


def test_a_killed_edit_continues_from_its_last_checkpoint_and_ends_where_the_straight_one_does(
    ns_train, toy_splats, tmp_path
):
    before = fingerprint(toy_splats.parent)
    edit = (*PROMPTS, *TOYBOX, "--max-num-iterations", "60", "--steps-per-save", "10")
    straight = scene_of(ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *edit))

    command = [
        str(Path(sys.executable).parent / "ns-train"),
        "pds-edit-splat",
        "--output-dir",
        str(tmp_path / "killed"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with started(
        [*command, *HEADLESS, "--load-dir", str(toy_splats.parent), *edit],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        found = wait_for_files(process, tmp_path / "killed", "nerfstudio_models/step-*.ckpt")
    killed_at = find_run(found[0].parent).step
    assert killed_at < 59

    resumed = ns_train("pds-edit-splat", "--load-dir", found[0].parent)
    assert find_run(resumed.get_base_dir()).step == 59
    ended = scene_of(resumed)
    for name, value in straight.items():
        if "gauss_params" in name and value.numel():
            assert (ended[name] - value).abs().max() < 0.05 * value.std() + 1e-3, name
    assert fingerprint(toy_splats.parent) == before


def test_an_edit_that_would_do_nothing_is_an_error(ns_train, toy_splats, monkeypatch, capfd):
    monkeypatch.setattr(PDS, "gradient", lambda self, prior, edit: torch.zeros_like(edit.x0_tgt))
    with pytest.raises(SystemExit):
        ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 30)
    assert "No gradient reached the scene" in capfd.readouterr().err


@pytest.fixture
def damaged(toy_splats, tmp_path):
    """`damaged(harm)`: a copy of the splats' run whose means `harm` has changed in place."""

    def copied(harm) -> Path:
        run = shutil.copytree(toy_splats.parent, tmp_path / "damaged")
        checkpoint = find_run(run).checkpoint_path
        held = torch.load(checkpoint, weights_only=True)
        harm(held["pipeline"]["_model.gauss_params.means"])
        torch.save(held, checkpoint)
        return run

    return copied


def test_cameras_that_see_nothing_of_the_scene_are_what_is_named(ns_train, damaged, capfd):
    run = damaged(lambda means: means.add_(1e4))
    with pytest.raises(SystemExit):
        ns_train("pds-edit-splat", "--load-dir", run, *PROMPTS, *TOYBOX, "--max-num-iterations", 3)
    assert "show nothing of the scene" in capfd.readouterr().err


def test_gaussians_that_are_not_finite_are_left_out_and_counted(ns_train, toy_splats, damaged, capfd):
    run = damaged(lambda means: means[3:9:5].fill_(float("nan")))
    config = ns_train("pds-edit-splat", "--load-dir", run, *PROMPTS, *TOYBOX, "--max-num-iterations", 1)
    assert "without 2 Gaussians that are not finite" in " ".join(capfd.readouterr().out.split())
    name = "_model.gauss_params.means"
    before = load_source_state(find_run(toy_splats.parent))[name]
    after = scene_of(config)[name]
    assert len(after) == len(before) - 2
    assert bool(after.isfinite().all())


def test_a_scene_that_is_no_longer_finite_leaves_its_last_checkpoint(
    ns_train, toy_splats, monkeypatch, tmp_path, capfd
):
    step_of = trainer.EditTrainer.train_iteration

    def breaking(self, step: int):
        result = step_of(self, step)
        if step == 7:
            with torch.no_grad():
                self.pipeline.model.gauss_params["means"][2, 1] = float("nan")
        return result

    monkeypatch.setattr(trainer.EditTrainer, "train_iteration", breaking)
    with pytest.raises(SystemExit):
        ns_train(
            *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX),
            *("--max-num-iterations", 12, "--steps-per-save", 5),
        )
    assert "no longer finite (means.0)" in capfd.readouterr().err
    (run,) = (path.parent for path in (tmp_path / "outputs").rglob("config.yml"))
    last = find_run(run)
    assert last.step == 5
    assert bool(load_source_state(last)["_model.gauss_params.means"].isfinite().all())


def test_a_scene_that_is_no_longer_finite_is_named():
    scene = {"means": [torch.rand(4, 3)], "opacities": [torch.rand(4, 1)]}
    check = MovementCheck(scene)
    check.require_finite()
    scene["means"][0][2, 1] = float("nan")
    with pytest.raises(UserError, match=r"no longer finite \(means\.0\)"):
        check.require_finite()


def test_nerfstudios_seed_is_refused_with_the_one_that_counts(ns_train, toy_splats, capfd):
    with pytest.raises(SystemExit):
        ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--machine.seed", 7)
    assert "give --pipeline.seed 7" in capfd.readouterr().err


def test_learning_rates_too_small_to_move_anything_are_noticed_after_twenty_steps(ns_train, toy_splats, capfd):
    groups = ("means", "scales", "quats", "opacities", "features-dc", "features-rest")
    rates = [
        part
        for group in groups
        for part in (f"--optimizers.{group}.optimizer.lr", 1e-30, f"--optimizers.{group}.scheduler.lr-final", 1e-30)
    ]
    with pytest.raises(SystemExit):
        ns_train(
            "pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 30, *rates
        )
    assert "has not moved in 20 steps" in capfd.readouterr().err


def test_a_prior_that_answers_nan_stops_the_run_and_keeps_its_checkpoint(ns_train, toy_splats, monkeypatch, capfd):
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

    calls = []
    honest = StableDiffusionPrior.predict_noise

    def broken_after_ten(self, queries):
        calls.append(len(queries))
        answers = honest(self, queries)
        return answers if len(calls) <= 10 else [answer * float("nan") for answer in answers]

    monkeypatch.setattr(StableDiffusionPrior, "predict_noise", broken_after_ten)
    with pytest.raises(SystemExit):
        ns_train(
            *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX),
            *("--max-num-iterations", 60, "--steps-per-save", 5),
        )
    message = capfd.readouterr().err
    assert "5 steps in a row had no finite gradient" in message
    assert "PDS at timestep" in message
    assert len(calls) == 15


def test_a_tensorboard_run_ends_by_itself_and_logs_pictures_of_before_and_after(
    run_here, toy_splats, tmp_path, monkeypatch
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(in_process, "PICTURES", ())  # as many as ever
    run_here(
        *("ns-train", "pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX),
        *("--max-num-iterations", 12, "--output-dir", tmp_path),
        *("--vis", "tensorboard"),  # and no other word about ending
    )
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events.parent), size_guidance={"images": 0})
    log.Reload()
    names = [name for name in log.Tags()["images"] if name.startswith("Edit")]
    assert len(names) == 3
    before, after = log.Images(names[0])
    assert (before.step, after.step) == (0, 11)
    assert before.width == 2 * before.height == 64
    assert before.encoded_image_string != after.encoded_image_string


def test_a_learning_rate_of_zero_holds_its_group_still(ns_train, toy_splats):
    still = ("--optimizers.means.optimizer.lr", 0, "--max-num-iterations", 4)
    config = ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, *still)
    source, edited = load_source_state(find_run(toy_splats)), scene_of(config)
    moved = {name: not torch.equal(value, source[name]) for name, value in edited.items()}
    assert not moved["_model.gauss_params.means"]
    assert moved["_model.gauss_params.features_dc"]


def test_learning_rates_decay_over_the_edit_whatever_they_end_at():
    default = METHODS["pds-edit-splat"].config
    config = copy.deepcopy(default)
    config.max_num_iterations = 7
    config.optimizers["means"]["scheduler"].lr_final = 1e-5
    config.optimizers["quats"]["scheduler"].max_steps = 50
    config.optimizers["scales"]["scheduler"] = None
    _decay_over_the_edit(config, default, None, Given.of(config, default))
    ends = {name: group["scheduler"] and group["scheduler"].max_steps for name, group in config.optimizers.items()}
    assert (ends["means"], ends["opacities"], ends["quats"], ends["scales"]) == (7, 7, 50, None)


def test_one_step_of_nan_while_densification_runs_is_skipped_like_any_other(ns_train, toy_splats, monkeypatch, capfd):
    gradient, calls = PDS.gradient, []

    def broken_once(self, prior, edit):
        calls.append(edit)
        return gradient(self, prior, edit) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(PDS, "gradient", broken_once)
    config = ns_train(
        *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 4),
        *("--pipeline.densify-from", 1, "--pipeline.densify-until", 50, "--pipeline.views-per-step", 2),
    )
    assert len(calls) == 4
    assert "Step 1 skipped (1 so far)" in capfd.readouterr().out
    assert scene_of(config)["_model.gauss_params.means"].isfinite().all()


def test_a_gradient_too_large_for_float16_is_counted_said_and_halves_the_scale(ns_train, toy_nerf, monkeypatch, capfd):
    step, calls = SharedOptimizers.optimizer_scaler_step_some, []

    def too_large_once(self, grad_scaler, param_groups):
        calls.append(param_groups)
        if len(calls) == 2:
            next(p for p in self.parameters["fields"] if p.grad is not None).grad.view(-1)[0] = float("inf")
        step(self, grad_scaler, param_groups)

    monkeypatch.setattr(SharedOptimizers, "optimizer_scaler_step_some", too_large_once)
    alive = partial(CountingScaler, "cpu")
    monkeypatch.setattr(trainer, "CountingScaler", lambda init_scale, enabled: alive(init_scale=init_scale))
    config = ns_train("pds-edit", "--load-dir", toy_nerf.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 3)
    assert "Step 1 skipped (1 so far): its gradients are too large for float16" in capfd.readouterr().out
    assert find_run(config.get_base_dir()).checkpoint["scalers"]["scale"] == OF_SUMS / 2
