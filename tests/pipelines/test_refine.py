"""SDEdit refinement through `ns-train`: of splats and NeRFs, killed and resumed (as is iterative dataset update), on a
full disk, and told nonsense."""

import copy
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import started, wait_for_files

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.dataset_update import IMAGES, DatasetUpdatePipeline
from pds_nerfstudio.pipelines.refine import CHANGED, EDITED, RefineConfig, RefinePipeline, changed, with_details
from pds_nerfstudio.scenes.source import find_run, fingerprint, load_source_state

from .conftest import HEADLESS, PROMPTS
from .test_edit import TOYBOX, scene_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def edited(toy_splats, tmp_path_factory) -> Path:
    """The folder of a short edit of splats; never written to."""
    from pds_nerfstudio.evaluation.trial import TrialSettings, run_edit
    from pds_nerfstudio.toybox.spec import find_edit

    settings = TrialSettings(reconstruction_steps=0, edit_steps=3, guidance_scale=7.5)
    edit = find_edit("can-to-cone")
    out = tmp_path_factory.mktemp("edited")
    return run_edit("pds-edit-splat", toy_splats, edit, out, settings, 0, {"pipeline.resolution": 32}).parent


def images_of(config) -> dict[str, torch.Tensor]:
    """What views were replaced by, from a run's last checkpoint."""
    state = load_source_state(find_run(config.get_base_dir()))
    return {name: value for name, value in state.items() if name.startswith(IMAGES)}


def test_details_come_back_where_nothing_was_edited_and_nowhere_else():
    image, lost = torch.rand(1, 3, 8, 8), 0.02 * torch.randn(1, 3, 8, 8)
    decoded = image - lost
    refined = decoded.clone()
    refined[..., :4] += 0.3
    refined[:, 0, :, 4] += CHANGED / 2
    detailed = with_details(refined, image, decoded)
    torch.testing.assert_close(detailed[..., 5:], image[..., 5:])
    torch.testing.assert_close(detailed[..., :4], refined[..., :4])
    torch.testing.assert_close(detailed[..., 4] - refined[..., 4], lost[..., 4] / 2)


def test_the_edit_says_what_is_refined_and_its_run_is_never_written_to(ns_train, edited, capsys):
    before = fingerprint(edited)
    config = ns_train("sdedit-refine-splat", "--load-dir", edited, "--max-num-iterations", 22)
    assert (config.pipeline.src_prompt, config.pipeline.tgt_prompt) == (PROMPTS[1], PROMPTS[3])
    assert (config.pipeline.prior, config.pipeline.view.resolution) == ("toybox", 32)
    assert "New edit" in capsys.readouterr().out
    old = load_source_state(find_run(edited))["_model.gauss_params.means"]
    assert not torch.equal(scene_of(config)["_model.gauss_params.means"], old)
    images = images_of(config)
    assert len(images) == 12  # every view, before the first step
    assert all(image.dtype == torch.uint8 and image.shape == (3, 32, 32) for image in images.values())
    assert fingerprint(edited) == before


def test_what_the_edit_left_as_it_was_stays_so_unless_another_region_is_given(ns_train, toy_splats, tmp_path):
    from pds_nerfstudio.evaluation.trial import TrialSettings, run_edit
    from pds_nerfstudio.toybox.spec import find_edit

    half = {"pipeline.resolution": 32, "pipeline.box": (-2.0, -2.0, -2.0, 0.0, 2.0, 2.0)}
    half["optimizers.features_dc.optimizer.lr"] = 0.5  # two steps that show
    settings = TrialSettings(reconstruction_steps=0, edit_steps=2)
    edited = run_edit("pds-edit-splat", toy_splats, find_edit("can-to-cone"), tmp_path, settings, 0, half).parent
    means = "_model.gauss_params.means"
    before = load_source_state(find_run(edited))
    frozen = before["_scene.frozen"]
    assert 0 < frozen.sum() < len(frozen)
    everywhere = ("sdedit-refine-splat", "--load-dir", edited, "--pipeline.box", -9, -9, -9, 9, 9, 9)
    line = (*everywhere, "--max-num-iterations", 2, "--pipeline.densify-until", 0)
    after = scene_of(ns_train(*line, "--pipeline.keep-frozen", "True", "--pipeline.new-gaussians", 5))
    assert len(after[means]) == len(before[means])
    assert torch.equal(after[means][frozen], before[means][frozen])
    assert not torch.equal(after[means][~frozen], before[means][~frozen])
    after = scene_of(ns_train(*line, "--pipeline.change", "everywhere"))
    assert not torch.equal(after[means][frozen], before[means][frozen])
    after = scene_of(ns_train(*line, "--pipeline.change", "edited"))
    still = (after[means] == before[means]).all(-1)
    assert still[before[means][:, 0] > 0.3].float().mean() > 0.9  # what the edit has not touched, nor stands before
    assert not still[~frozen].all()


class Frozen:
    """As much of a scene as freezing needs."""

    def __init__(self, frozen):
        self.state = {"frozen": frozen}

    def extra_state(self):
        return dict(self.state)

    def load_extra_state(self, state):
        self.state = dict(state)

    def freeze_outside(self, region):
        self.state = {} if region is None else {"frozen": region}


def test_what_the_edit_froze_stays_so_also_behind_a_box_that_comes_and_goes(monkeypatch):
    edit, outside = torch.tensor([True, True, False, False]), torch.tensor([False, True, True, False])
    pipeline: Any = RefinePipeline.__new__(RefinePipeline)
    vars(pipeline).update(config=RefineConfig(), scene=Frozen(edit), decisions={}, _images={}, _modules={})
    monkeypatch.setattr(RefinePipeline, "device", torch.device("cpu"))
    monkeypatch.setattr(DatasetUpdatePipeline, "beside", lambda _: {})
    monkeypatch.setattr(DatasetUpdatePipeline, "load_beside", lambda *_: None)
    pipeline._keep({"frozen": edit})
    for region, frozen in ((outside, edit | outside), (None, edit)):
        monkeypatch.setattr(RefinePipeline, "region", lambda _, region=region: region)
        pipeline.freeze()
        assert torch.equal(pipeline.scene.state["frozen"], frozen)
    resumed: Any = RefinePipeline.__new__(RefinePipeline)
    resumed.load_beside(pipeline.beside())
    assert torch.equal(resumed._kept["frozen"], edit)
    pipeline.scene.state = {"frozen": torch.zeros(5, dtype=torch.bool)}
    with pytest.raises(UserError, match="densification has moved"):
        pipeline.freeze()
    assert len(pipeline.scene.state["frozen"]) == 5


def test_what_was_edited_reaches_a_little_beyond_the_pixels_that_changed():
    before = torch.rand(1, 3, 64, 64)
    after = before.clone()
    after[0, 1, 30, 40] += 2 * EDITED
    after[0, :, 5, 5] += EDITED / 2
    found = changed(before, after)[0, 0]
    assert found.sum() == 5 * 5
    assert found[28:33, 38:43].all()


@pytest.mark.parametrize("refined", ["edit", "current"])
def test_what_is_refined_is_the_scene_as_the_edit_left_it_or_as_it_is_now(edited, tmp_path, refined):
    config = copy.deepcopy(METHODS["sdedit-refine-splat"].config)
    config.load_dir, config.output_dir, config.vis = edited, tmp_path, "tensorboard"
    config.pipeline.refined, config.pipeline.view.resolution = refined, 32
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    before = trainer.pipeline.to_edit(3)
    with torch.no_grad():
        trainer.pipeline.model.gauss_params["features_dc"].add_(1.0)
    change = (trainer.pipeline.to_edit(3) - before).abs().mean()
    assert change == 0 if refined == "edit" else change > 0.01


def test_a_nerf_is_refined_on_rays_of_the_replaced_images(ns_train, toy_nerf):
    config = ns_train(
        *("sdedit-refine", "--load-dir", toy_nerf.parent, "--prompt", PROMPTS[3], *TOYBOX[:6]),
        *("--max-num-iterations", 3, "--pipeline.update-every", 1),
    )
    source, refined = load_source_state(find_run(toy_nerf)), scene_of(config)
    assert any("field.mlp_base" in name and not torch.equal(refined[name], source[name]) for name in refined)
    assert all(value.isfinite().all() for value in refined.values())
    assert len(images_of(config)) == 12


def test_after_an_edit_of_next_to_nothing_all_may_change(ns_train, edited, capsys):
    line = ("sdedit-refine-splat", "--load-dir", edited, "--max-num-iterations", 1, "--pipeline.densify-until", 0)
    config = ns_train(*line, "--pipeline.change", "edited")
    assert "too little to be confined to" in " ".join(capsys.readouterr().out.split())
    assert "_scene.frozen" not in scene_of(config)


def test_it_densifies(ns_train, edited):
    config = ns_train(
        *("sdedit-refine-splat", "--load-dir", edited, "--max-num-iterations", 25),
        *("--pipeline.densify-from", 1, "--pipeline.densify-until", 25, "--pipeline.densify-every", 5),
        *("--pipeline.model.split-screen-size", 10.0),
    )
    old = load_source_state(find_run(edited))["_model.gauss_params.means"]
    assert len(scene_of(config)["_model.gauss_params.means"]) > 1.05 * len(old)


@pytest.mark.parametrize("method", ["sdedit-refine-splat", "idu-edit-splat"])
def test_a_killed_run_keeps_its_images_and_ends_where_the_straight_one_does(
    ns_train, edited, toy_splats, tmp_path, method
):
    scene = (edited,) if method.startswith("sdedit") else (toy_splats.parent, *PROMPTS, *TOYBOX[:6])
    flags = ("--max-num-iterations", 30, "--steps-per-save", 5, "--pipeline.num-steps", 4)
    run = [method, "--load-dir", *map(str, (*scene, *flags, "--pipeline.update-every", 4))]
    straight = ns_train(*run)

    command = [str(Path(sys.executable).parent / "ns-train"), *run, *HEADLESS]
    with started(
        [*command, "--output-dir", str(tmp_path / "killed")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        found = wait_for_files(process, tmp_path / "killed", "nerfstudio_models/step-*.ckpt")
    assert find_run(found[0].parent).step < 29

    resumed = ns_train(method, "--load-dir", found[0].parent)
    assert resumed.pipeline.update_every == 4
    old, new = images_of(straight), images_of(resumed)
    assert set(old) == set(new)
    for name, image in old.items():
        assert (image.float() - new[name].float()).abs().mean() < 1, name
    for name, value in scene_of(straight).items():
        if "gauss_params" in name and value.numel():
            assert (value - scene_of(resumed)[name]).abs().max() < 0.05 * value.std() + 1e-3, name


def test_a_full_disk_leaves_the_last_checkpoint_and_one_sentence(ns_train, edited, tmp_path, monkeypatch, capfd):
    save, saved = torch.save, []

    def fills_up(state, path, *args, **kwargs):
        if str(path).endswith(".ckpt"):
            saved.append(path)
        if len(saved) > 1:
            Path(path).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fills_up)
    with pytest.raises(SystemExit):
        ns_train("sdedit-refine-splat", "--load-dir", edited, "--max-num-iterations", 12, "--steps-per-save", 4)
    assert "could not be written" in capfd.readouterr().err
    (checkpoint,) = (tmp_path / "outputs").rglob("*.ckpt")
    assert [name for name in load_source_state(find_run(checkpoint.parent)) if name.startswith(IMAGES)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--pipeline.objective.guidance-scale", 5.0), "--pipeline.objective.guidance-scale"),
        (("--pipeline.views-per-step", 2), "--pipeline.views-per-step"),
        (("--pipeline.max-strength", 1.5), "max_strength 1.5"),
        (("--pipeline.update-every", 0), "--pipeline.update-every is 0"),
    ],
)
def test_settings_that_have_no_part_in_it_are_refused(ns_train, edited, flags, message, capfd):
    with pytest.raises(SystemExit) as ended:
        ns_train("sdedit-refine-splat", "--load-dir", edited, *flags)
    assert ended.value.code != 0
    assert message in " ".join(capfd.readouterr().err.replace("│", " ").split())


def test_a_reconstruction_does_not_say_what_it_should_show(ns_train, toy_splats, capfd):
    with pytest.raises(SystemExit):
        ns_train("sdedit-refine-splat", "--load-dir", toy_splats.parent, *TOYBOX[:2])
    assert "is no edited run" in capfd.readouterr().err
