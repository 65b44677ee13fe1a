"""Edited runs looked at: the sheet an edit leaves, `pds render`, `pds evaluate`, and what they say to other input."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import in_process
import numpy as np
import pytest
import torch
from PIL import Image

from pds_nerfstudio.cli.evaluate import Evaluate
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation import before_after, measure
from pds_nerfstudio.evaluation.before_after import load_pair, plan_pair
from pds_nerfstudio.evaluation.metrics import psnr
from pds_nerfstudio.evaluation.report import Entry, as_html, as_json, as_table
from pds_nerfstudio.scenes.formats.splat_files import read_splats
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.shots import shoot, view_camera
from pds_nerfstudio.scenes.source import fingerprint

pytestmark = pytest.mark.slow

EDIT = (
    *("--pipeline.src-prompt", "a photo of a red can", "--pipeline.tgt-prompt", "a photo of a red cone"),
    *("--pipeline.prior", "toybox", "--pipeline.resolution", 32, "--max-num-iterations", 2),
    *("--vis", "tensorboard", "--viewer.quit-on-train-completion", "True", "--logging.local-writer.enable", "False"),
)


@pytest.fixture(scope="module")
def edits(toy_splats, toy_nerf, run_here, tmp_path_factory):
    """family -> (folder, output) of a finished edit of two steps."""
    done = {}
    for family, method, source in (
        ("splatfacto", "pds-edit-splat", toy_splats),
        ("nerfacto", "pds-edit", toy_nerf),
    ):
        out = tmp_path_factory.mktemp(family)
        names = ("--output-dir", out, "--experiment-name", "e", "--timestamp", "t")
        printed = run_here("ns-train", method, "--load-dir", source.parent, *names, *EDIT)
        done[family] = out / "e" / method / "t", printed
    return done


@pytest.mark.parametrize("family", ["splatfacto", "nerfacto"])
def test_an_edit_leaves_a_sheet_and_says_what_comes_next(edits, family):
    folder, output = edits[family]
    with Image.open(folder / "before_after.png") as sheet:
        assert sheet.height > 5 * 100
    for words in ("pds render", "pds evaluate", "ns-viewer", "ns-export"):
        assert words in output
    assert ("gaussian-splat" in output) == (family == "splatfacto")
    assert ("ns-export tsdf" in output) == (family == "nerfacto")


def test_a_sheet_that_fails_costs_no_edit_and_is_not_silent(toy_splats, monkeypatch, tmp_path, capsys):
    from pds_nerfstudio.pipelines import conclusion

    def fail(*_):
        raise RuntimeError("out of memory, perhaps")

    monkeypatch.setattr(conclusion, "before_after_sheet", fail)
    config = in_process.ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, "--output-dir", tmp_path, *EDIT)
    output = " ".join(capsys.readouterr().out.split())
    assert "could not be made (RuntimeError: out of memory, perhaps)" in output
    assert "pds render" in output
    assert list(config.get_base_dir().rglob("step-*.ckpt"))


@pytest.mark.parametrize("family", ["splatfacto", "nerfacto"])
def test_both_sides_are_the_runs_own_scenes(edits, toy_splats, toy_nerf, family):
    """Before is what the source run renders by itself, after is not."""
    pair = load_pair(plan_pair(edits[family][0]))
    source = toy_splats if family == "splatfacto" else toy_nerf
    alone = load_pair(plan_pair(source.parent, source=source))
    camera = view_camera(pair.held_out, 0, 32)
    before, after, expected = (shoot(model, camera).image for model in (pair.before, pair.after, alone.after))
    torch.testing.assert_close(before, expected)
    assert not torch.equal(after, before)


def test_render_writes_matched_films_pictures_and_files(edits, toy_splats, run_here, tmp_path):
    folder, _ = edits["splatfacto"]
    untouched = fingerprint(toy_splats.parent)
    paths = ("--paths", "training", "interpolated", "orbit")
    run_here("pds", "render", folder, *paths, "--frames", 5, "--out", tmp_path, "--export", "--formats", "spz", "glb")
    for kind in ("training", "interpolated", "orbit"):
        films = {
            name: iio.imread(tmp_path / kind / f"{name}.mp4", plugin="FFMPEG")
            for name in ("before", "after", "side_by_side")
        }
        assert films["before"].shape == films["after"].shape == (5, 512, 512, 3)
        assert films["side_by_side"].shape[0] == 5
        assert (tmp_path / f"{kind}.png").stat().st_size > 1000
    for part in ("before", "after", "change", "depth_before", "depth_after"):
        assert sorted(path.name for path in (tmp_path / "held_out" / part).iterdir()) == [
            "test_000.png",
            "test_001.png",
        ]
    assert (tmp_path / "export" / "splat.ply").stat().st_size > 1000
    assert (tmp_path / "export" / "mesh.ply").stat().st_size > 1000
    assert (tmp_path / "export" / "splat.glb").read_bytes().startswith(b"glTF")
    exported, smaller = (read_splats(tmp_path / "export" / f"splat.{ending}")[0] for ending in ("ply", "spz"))
    torch.testing.assert_close(smaller.means, exported.means, atol=1e-4, rtol=0)
    assert fingerprint(toy_splats.parent) == untouched


def test_render_of_a_nerf_prints_the_lines_that_export_it(edits, run_here, tmp_path):
    folder, _ = edits["nerfacto"]
    printed = run_here("pds", "render", folder, "--paths", "--out", tmp_path)
    assert f"ns-export tsdf --load-config {folder / 'config.yml'}" in printed
    assert (tmp_path / "held_out.png").exists()


def test_evaluate_shows_several_runs_side_by_side(edits, run_here, tmp_path):
    folders = [folder for folder, _ in edits.values()]
    printed = run_here("pds", "evaluate", *folders, "--frames", 3, "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert [run["label"] for run in report["runs"]] == ["pds-edit-splat", "pds-edit"]
    for run in report["runs"]:
        assert 0 < run["mean"]["psnr"] < 100
        assert 0 < run["mean"]["ssim"] <= 1
        assert -1 <= run["mean"]["directional_similarity"] <= 1
        assert len(run["values"]["psnr"]) == 2
        assert len(run["values"]["directional_consistency"]) == 2
    assert report["metrics"]["psnr"]["formula"] in printed.replace("\n", " ") or "10·log" in printed
    page = (tmp_path / "report.html").read_text()
    assert f"compared with <code>{html.escape(report['runs'][0]['before'])}</code>" in page
    assert page.count("data:image/jpeg;base64,") == 2 * 2 * (2 + 3 + 1)  # runs, views; slider, maps, what one clicks on
    assert page.index("class=slider") < page.index("<table>") < page.index("<details>")
    assert "<h2>“a photo of a red can” → “a photo of a red cone”</h2>" in page
    assert "<b>" not in page.partition("<table>")[2].partition("</table>")[0]  # edits of two scenes are no rivals
    assert not re.findall(r"(?:src|href)=['\"](?!data:)", page)
    assert all(metric["formula"].split(";")[0] in page.replace("&#x27;", "'") for metric in report["metrics"].values())


def test_a_damaged_checkpoint_is_found_before_any_run_is_measured(edits, monkeypatch, tmp_path):
    good, damaged = edits["splatfacto"][0], tmp_path / "damaged"
    shutil.copytree(good, damaged)
    for name in ("nerfstudio_models/*.ckpt", "source.pt"):
        (file,) = damaged.glob(name)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        monkeypatch.setattr(measure, "load_judges", lambda *_: pytest.fail("measuring has begun"))
        with pytest.raises(UserError, match="is damaged") as refused:
            Evaluate((good, damaged), out=tmp_path / "out", resolution=32, frames=2).run()
        assert str(file) in str(refused.value)
        assert "--load-step" not in str(refused.value)
        file.write_bytes(whole)


@pytest.mark.parametrize("error", [UserError("It is gone."), torch.cuda.OutOfMemoryError("CUDA out of memory.\nMore")])
def test_a_run_that_cannot_be_measured_costs_no_other_its_numbers(edits, monkeypatch, tmp_path, error):
    good, bad = (folder for folder, _ in edits.values())

    def load(plan):
        if plan.folder == bad:
            raise error
        return load_pair(plan)

    monkeypatch.setattr(before_after, "load_pair", load)
    with pytest.raises(UserError, match=r"^1 of 2 runs could not be measured: .*(gone|memory)\)\.$") as told:
        Evaluate((bad, good), out=tmp_path, resolution=32, frames=2).run()
    assert str(bad) in str(told.value)
    (run,) = json.loads((tmp_path / "report.json").read_text())["runs"]
    assert run["run"] == str(good)
    assert (tmp_path / "report.html").is_file()
    with pytest.raises(UserError, match=r"^1 of 1 runs could not be measured"):
        Evaluate((bad,), out=tmp_path / "none", resolution=32, frames=2).run()
    assert not list((tmp_path / "none").glob("report.*"))


def test_a_few_views_stay_in_memory_and_training_views_are_called_that(edits, monkeypatch):
    monkeypatch.setattr(measure, "MOST_VIEWS", 3)
    monkeypatch.setattr(measure, "MOST_TRAINING_VIEWS", 5)
    held_out = load_pair(plan_pair(edits["splatfacto"][0]))
    pair = replace(held_out, held_out=held_out.training)  # as where none is held out, and with --eval-mode all
    assert measure.views_of(held_out) == ([0, 1], "held-out views")
    nobody = measure.Judges(None, "none", None, "none")
    measured = measure.measure(pair, nobody, ("a red can", "a red cone"), 2, 32)
    chosen = evenly(12, 5)
    assert (measured.views, measured.over) == (5, "training views (none is held out)")
    assert measured.shown == [chosen[i] for i in evenly(5, 3)]
    after = [shoot(pair.after, view_camera(pair.training, i, 32)).image for i in chosen]
    before = [shoot(pair.before, view_camera(pair.training, i, 32)).image for i in chosen]
    expected = [float(psnr(a[None], b[None])) for a, b in zip(after, before, strict=True)]
    assert measured.values["psnr"] == pytest.approx(expected)
    for shot, i in zip(measured.after, evenly(5, 3), strict=True):
        torch.testing.assert_close(shot.image, after[i])

    entry = Entry("a", Path("a"), Path("b"), ("a red can", "a red cone"), measured)
    record = as_json([entry], nobody)
    assert record["runs"][0]["over"] == record["metrics"]["psnr"]["over"] == measured.over
    assert record["metrics"]["a_distance"]["over"] == "neighbouring frames of the interpolated path"
    assert "a: over training views" in str(as_table([entry], nobody).caption)
    page = as_html([entry], nobody)
    assert "3 of 5 training views (none is held out)" in page
    assert "held-out views" not in page
    both = as_html([entry, replace(entry, measured=replace(measured, over="held-out views"))], nobody)
    assert "over training views (none is held out) or held-out views" in both


def test_another_programs_report_is_not_replaced(edits, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UserError, match=r"holds a report\.html that this command did not make"):
        Evaluate((edits["splatfacto"][0],), out=tmp_path, resolution=32, frames=2).run()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"report.html": "mine"}


def test_a_run_beside_itself_is_identical(edits, run_here, tmp_path):
    """PSNR infinite in JSON that any reader takes, distance 0, and the directions of no change are 0."""
    folder, _ = edits["splatfacto"]
    printed = run_here("pds", "evaluate", folder, "--source", folder, "--frames", 3, "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    (run,) = report["runs"]
    assert run["mean"]["psnr"] == "inf"
    assert float(run["mean"]["psnr"]) == float("inf")
    assert run["mean"]["ssim"] == pytest.approx(1.0)
    assert run["mean"]["distance"] == 0
    assert run["mean"]["directional_similarity"] == 0
    assert run["mean"]["directional_consistency"] == 0
    assert run["mean"]["clip_score"] == run["mean"]["clip_score_before"]
    assert "inf" in printed


def test_runs_that_cannot_be_compared_are_named(edits, toy_splats, tmp_path):
    with pytest.raises(UserError, match=r"The run .* does not exist"):
        plan_pair(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"which is no edit.*--source"):
        plan_pair(toy_splats.parent)
    with pytest.raises(UserError, match=r"--source .* does not exist"):
        plan_pair(toy_splats.parent, source=tmp_path / "nowhere")
    with pytest.raises(UserError, match="no checkpoint of step 77"):
        plan_pair(edits["splatfacto"][0], step=77)
    orphan = tmp_path / "orphan"
    shutil.copytree(edits["splatfacto"][0], orphan)
    (orphan / "source.pt").unlink()
    text = (orphan / "config.yml").read_text()
    (orphan / "config.yml").write_text(text.replace(f"- {toy_splats.parent.name}", "- gone"))
    with pytest.raises(UserError, match=r"not at .*gone.*--source"):
        plan_pair(orphan)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("render", "nowhere"), "does not exist"),
        (("render", "nowhere", "--frames", 1), "at least 2"),
        (("render", "nowhere", "--paths", "--no-held-out"), "Nothing is asked for"),
        (("render", "nowhere", "--export", "--step", 5), "leave --step out"),
        (("render", "nowhere", "--formats", "spz"), "--formats spz is of --export"),
        (("evaluate",), "No run is given"),
        (("evaluate", "nowhere"), "does not exist"),
    ],
)
def test_mistakes_end_in_one_sentence(run_command, arguments, sentence):
    done = run_command("pds", *arguments, fails=True)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_copied_run_is_itself(edits, toy_splats, tmp_path):
    """nerfstudio looks for checkpoints at the place in config.yml, which is the original's."""
    from pds_nerfstudio.evaluation.before_after import load_run, set_up
    from pds_nerfstudio.evaluation.renders import export
    from pds_nerfstudio.scenes.run_config import load_config, usable_config

    original = edits["splatfacto"][0]
    copied = tmp_path / "copied"
    shutil.copytree(original, copied)
    (checkpoint,) = copied.glob("nerfstudio_models/*.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    state["pipeline"]["_model.gauss_params.means"] += 1
    torch.save(state, checkpoint)
    means = load_run(copied / "config.yml").model.means
    torch.testing.assert_close(means, load_run(original / "config.yml").model.means + 1)
    export(copied / "config.yml", "splatfacto", tmp_path / "by_us")

    config = usable_config(copied / "config.yml", load_config(copied / "config.yml"), tmp_path)
    assert load_config(config).get_checkpoint_dir() == copied / "nerfstudio_models"
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="is damaged"):
        set_up(copied / "config.yml")


def test_a_scene_without_a_surface_is_named_as_that():
    from skimage.measure import marching_cubes

    from pds_nerfstudio.evaluation.renders import meshing

    with pytest.raises(UserError, match=r"^some/run has no surface"), meshing(Path("some/run/config.yml")):
        marching_cubes(np.ones((4, 4, 4)), level=0)
    with pytest.raises(ValueError, match="other"), meshing(Path("some/run/config.yml")):
        raise ValueError("other")
