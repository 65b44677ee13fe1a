"""From a .ply and a dataset to a run that can be edited, and the picture is the same as before the export."""

import pytest
import torch

from pds_nerfstudio.cli.import_ply import ImportPly
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.metrics import psnr
from pds_nerfstudio.evaluation.trial import TrialSettings, load_run, render_eval_views, run_edit
from pds_nerfstudio.scenes.source import find_run
from pds_nerfstudio.toybox.spec import find_edit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(toy_splats, tmp_path_factory):
    """The toybox splats, written by `ns-export gaussian-splat`'s own code."""
    from nerfstudio.scripts.exporter import ExportGaussianSplat

    folder = tmp_path_factory.mktemp("export")
    ExportGaussianSplat(load_config=toy_splats, output_dir=folder).main()
    return folder / "splat.ply"


def test_a_round_trip_gives_the_same_pictures(exported, toy_splats, toy_scene, tmp_path):
    run, count = ImportPly(exported, toy_scene / "source", background_color="white", output_dir=tmp_path).import_run()
    before, after = load_run(toy_splats), load_run(run / "config.yml")
    assert count == len(after.model.means)
    assert psnr(render_eval_views(after), render_eval_views(before)).min() >= 50
    found = find_run(run / "nerfstudio_models")
    assert (found.family, found.step, found.method_name) == ("splatfacto", 0, "source-splatfacto")
    settings = TrialSettings(reconstruction_steps=0, edit_steps=2, guidance_scale=15.0)
    edited = run_edit(
        "pds-edit-splat", run / "config.yml", find_edit("can-to-cone"), tmp_path / "edit", settings, seed=0
    )
    assert find_run(edited).step == 1


def test_a_file_in_the_coordinates_of_the_dataset_lands_where_the_cameras_look(
    exported, toy_splats, toy_scene, tmp_path
):
    from pds_nerfstudio.scenes.ply_file import read_table, write_table

    before = load_run(toy_splats)
    outputs = before.datamanager.train_dataparser_outputs
    turn, shift = outputs.dataparser_transform[:, :3], outputs.dataparser_transform[:, 3]
    vertices = read_table(exported).rows.copy()
    means = torch.tensor([vertices[axis] for axis in "xyz"]).T
    for axis, column in zip("xyz", ((means / outputs.dataparser_scale - shift) @ turn).T, strict=True):
        vertices[axis] = column
    write_table(tmp_path / "other.ply", vertices)
    run, _ = ImportPly(tmp_path / "other.ply", toy_scene / "source", output_dir=tmp_path).import_run()
    read = load_run(run / "config.yml").model.means
    torch.testing.assert_close(read.detach(), means, atol=1e-4, rtol=1e-4)
    vertices["x"] += 100
    write_table(tmp_path / "far.ply", vertices)
    with pytest.raises(UserError, match="--frame"):
        ImportPly(tmp_path / "far.ply", toy_scene / "source", output_dir=tmp_path).import_run()


@pytest.mark.parametrize("what", ["ply", "data", "dataset"])
def test_paths_that_are_wrong_are_named(exported, toy_scene, tmp_path, what):
    ply = tmp_path / "no.ply" if what == "ply" else exported
    data = {"data": tmp_path / "nowhere", "dataset": tmp_path}.get(what, toy_scene / "source")
    with pytest.raises(UserError, match="no.ply" if what == "ply" else "--data"):
        ImportPly(ply, data, output_dir=tmp_path).import_run()
