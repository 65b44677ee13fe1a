"""From a .ply and a dataset to a run that can be edited, and the picture is the same as before the export."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pds_nerfstudio.cli.import_ply import ImportPly
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.metrics import psnr
from pds_nerfstudio.evaluation.trial import TrialSettings, load_run, render_eval_views, run_edit
from pds_nerfstudio.scenes.formats.splat_files import WRITERS, read_splats
from pds_nerfstudio.scenes.source import find_run
from pds_nerfstudio.scenes.views import eval_views
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
    assert (tmp_path / "latest").resolve() == run.resolve()
    settings = TrialSettings(reconstruction_steps=0, edit_steps=2, guidance_scale=15.0)
    edited = run_edit(
        "pds-edit-splat", run / "config.yml", find_edit("can-to-cone"), tmp_path / "edit", settings, seed=0
    )
    assert find_run(edited).step == 1


def test_a_file_in_the_coordinates_of_the_dataset_lands_where_the_cameras_look(
    exported, toy_splats, toy_scene, tmp_path
):
    from pds_nerfstudio.scenes.formats.ply_file import read_table, write_table

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


def fit(config: Path) -> float:
    """Mean PSNR of a run's held-out views to their photographs."""
    run = load_run(config)
    views, images = eval_views(run.datamanager), render_eval_views(run)
    expected = torch.cat([views.image(i, *images.shape[-2:]) for i in range(len(views))])
    return float(psnr(images, expected).mean())


@pytest.fixture(scope="module")
def colmap(toy_scene, tmp_path_factory) -> Path:
    """The toybox dataset as COLMAP and Kerbl et al.'s code keep one: images/ and sparse/0, right, down, front."""
    source, folder = toy_scene / "source", tmp_path_factory.mktemp("colmap")
    content = json.loads((source / "transforms.json").read_text())
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    shutil.copytree(source / "images", folder / "images")
    numbers = " ".join(str(content[key]) for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"))
    (model / "cameras.txt").write_text(f"1 PINHOLE {numbers}\n")
    lines = []
    for i, frame in enumerate(content["frames"]):
        view = np.linalg.inv(np.array(frame["transform_matrix"]) @ np.diag([1.0, -1, -1, 1]))
        x, y, z, w = Rotation.from_matrix(view[:3, :3]).as_quat()
        where = " ".join(map(str, (w, x, y, z, *view[:3, 3])))
        lines += [f"{i + 1} {where} 1 {Path(frame['file_path']).relative_to('images')}", ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("ending", ["spz", "splat"])
def test_splats_that_come_with_colmaps_files_are_placed_by_their_photographs(
    exported, toy_splats, toy_scene, colmap, tmp_path, capsys, ending
):
    """In the coordinates of COLMAP, which are neither nerfstudio's scene nor those of its colmap dataparser."""
    outputs = load_run(toy_splats).datamanager.train_dataparser_outputs
    turn, shift = outputs.dataparser_transform[:, :3], outputs.dataparser_transform[:, 3:]
    back = torch.cat([turn.T, -turn.T @ shift * outputs.dataparser_scale], dim=1)
    splats = read_splats(exported)[0].moved(back, 1.0)
    splats = splats.moved(torch.eye(4)[:3], 1 / outputs.dataparser_scale)
    splats = dataclasses.replace(splats, antialiased=True)
    WRITERS[ending](tmp_path / f"a.{ending}", splats)
    run, _ = ImportPly(tmp_path / f"a.{ending}", colmap, background_color="white", output_dir=tmp_path).import_run()
    assert "Coordinates: dataset, by" in capsys.readouterr().out
    assert find_run(run).model_config.rasterize_mode == ("antialiased" if ending == "spz" else "classic")
    assert fit(run / "config.yml") >= fit(toy_splats) - 2
    assert fit(toy_splats) > 20


def test_splats_of_another_scene_are_refused_with_what_was_tried(exported, toy_scene, tmp_path):
    splats = read_splats(exported)[0]
    WRITERS["splat"](tmp_path / "a.splat", splats.moved(torch.eye(4)[[1, 2, 0]], 1.0))
    with pytest.raises(UserError, match=r"do not clearly look like .*scene \d+\.\d dB.*a plain picture .*--frame"):
        ImportPly(tmp_path / "a.splat", toy_scene / "source", output_dir=tmp_path / "out").import_run()
    assert not (tmp_path / "out").exists()
    run, _ = ImportPly(tmp_path / "a.splat", toy_scene / "source", frame="scene", output_dir=tmp_path).import_run()
    assert run.is_dir()


@pytest.mark.parametrize(
    ("files", "dataparser", "said"),
    [
        ((), None, "transforms.json, or with images and COLMAP's sparse/0"),
        ((), "colmpa", "--dataparser colmpa is not one of nerfstudio's: nerfstudio-data"),
        (("sparse/0/cameras.txt",), None, "has no folder images"),
        (("sparse/0/cameras.txt", "images/a.png"), None, "cannot be read as a photograph"),
        (("transforms_train.json",), None, "cannot be read as a dataset"),
    ],
)
def test_a_folder_that_is_no_dataset_is_told_what_one_is(exported, tmp_path, files, dataparser, said):
    data = tmp_path / "data"
    data.mkdir()
    for name in files:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("nothing")
    with pytest.raises(UserError, match=said):
        ImportPly(exported, data, dataparser=dataparser, output_dir=tmp_path / "out").import_run()


@pytest.mark.parametrize("what", ["ply", "data", "dataset"])
def test_paths_that_are_wrong_are_named(exported, toy_scene, tmp_path, what):
    ply = tmp_path / "no.ply" if what == "ply" else exported
    data = {"data": tmp_path / "nowhere", "dataset": tmp_path}.get(what, toy_scene / "source")
    with pytest.raises(UserError, match="no.ply" if what == "ply" else "--data"):
        ImportPly(ply, data, output_dir=tmp_path).import_run()
