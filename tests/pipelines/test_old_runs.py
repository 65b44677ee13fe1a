"""Runs that version 0.1.0 wrote, with every setting in one flat class, still load, render, export and resume."""

import shutil
from pathlib import Path

import pytest
import torch

from pds_nerfstudio.evaluation.trial import load_run, render_eval_views
from pds_nerfstudio.pipelines.distillation import DistillationConfig
from pds_nerfstudio.pipelines.revise import ReviseConfig
from pds_nerfstudio.pipelines.settings import NerfSettings, SplatSettings
from pds_nerfstudio.scenes.source import find_run, load_source_state

pytestmark = pytest.mark.slow

RUNS = Path(__file__).parents[1] / "fixtures" / "runs_of_0_1_0"
EDITS = {"splats_edit": "pnr-edit-splat", "nerf_edit": "pds-edit"}


@pytest.fixture(scope="module")
def old_runs(tmp_path_factory) -> dict[str, Path]:
    """`config.yml` of each edit, with its base run and its data where it says they are."""
    from pds_nerfstudio.toybox.dataset import write_edit
    from pds_nerfstudio.toybox.spec import find_edit

    root = tmp_path_factory.mktemp("old")
    write_edit(find_edit("can-to-cone"), root / "scene", train_views=6, test_views=2, size=32, num_points=200)
    shutil.copytree(RUNS, root, dirs_exist_ok=True)
    for path in root.rglob("config.yml"):
        path.write_text(path.read_text().replace("- ROOT\n", f"- {root}\n"))
    return {name: next((root / name).rglob("config.yml")) for name in EDITS}


def test_flat_settings_find_their_groups(old_runs):
    splats, nerf = (find_run(old_runs[name]).config.pipeline for name in EDITS)
    assert type(splats) is ReviseConfig
    assert isinstance(splats.scene, SplatSettings)
    assert (splats.scene.densify_until, splats.scene.densify_every) == (5, 2)
    assert splats.region.box == (-1.0, -1.0, -0.55, 1.0, 1.0, 1.5)
    assert (splats.view.views_per_step, splats.refinement.refine_steps, splats.perturbation.eta) == (2, 1, 0.3)
    assert type(nerf) is DistillationConfig
    assert isinstance(nerf.scene, NerfSettings)
    assert not nerf.scene.proposal_losses
    assert nerf.loss.hold_details == 1.0
    assert nerf.objective.guidance_scale == 7.5


@pytest.mark.parametrize("name", EDITS)
def test_an_old_edit_is_viewed_and_rendered(old_runs, name):
    from nerfstudio.utils.eval_utils import eval_setup

    images = render_eval_views(load_run(old_runs[name]))
    assert images.isfinite().all()
    assert images.std() > 0.002  # a NeRF of 20 steps is nearly of one colour
    pipeline = eval_setup(old_runs[name], test_mode="inference")[1]  # what ns-viewer, ns-render and ns-export call
    weights = load_source_state(find_run(old_runs[name]))
    for parameter, value in pipeline.model.named_parameters():
        assert torch.equal(value, weights[f"_model.{parameter}"]), parameter


def test_old_splats_are_exported(old_runs, tmp_path):
    from nerfstudio.scripts.exporter import ExportGaussianSplat

    ExportGaussianSplat(load_config=old_runs["splats_edit"], output_dir=tmp_path).main()
    count = len(load_source_state(find_run(old_runs["splats_edit"]))["_model.gauss_params.means"])
    assert f"element vertex {count}".encode() in (tmp_path / "splat.ply").read_bytes()


@pytest.mark.parametrize(("name", "method"), EDITS.items())
def test_an_old_edit_is_resumed_with_its_settings_and_what_it_froze(ns_train, old_runs, name, method, capsys):
    run = find_run(old_runs[name])
    resumed = ns_train(method, "--load-dir", old_runs[name].parent, "--max-num-iterations", 9)
    assert "Resuming" in capsys.readouterr().out
    assert find_run(resumed.get_base_dir()).step == 8
    assert resumed.pipeline.prior == "toybox"
    before, after = load_source_state(run), load_source_state(find_run(resumed.get_base_dir()))
    if name == "splats_edit":
        frozen = before["held"]
        assert 0 < frozen.sum() < len(frozen)
        means = "_model.gauss_params.means"
        assert torch.equal(after[means][after["_scene.frozen"]], before[means][frozen])
        assert resumed.pipeline.scene.densify_until == 5
    else:
        assert not resumed.pipeline.scene.proposal_losses
        tables = [entry for entry in before if "mlp_base" in entry]
        assert any(not torch.equal(after[entry], before[entry]) for entry in tables)
