"""Studio's still lifes as a benchmark: what each edit begins with, and what it is held against."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation import capture, studio_trial
from pds_nerfstudio.evaluation.bench import benchmark_of
from pds_nerfstudio.evaluation.cells import plan_cells
from pds_nerfstudio.evaluation.studio_trial import Stills
from pds_nerfstudio.evaluation.suite import read_suite
from pds_nerfstudio.pictures import read_images
from pds_nerfstudio.studio.captures import RECONSTRUCTION, copy_capture
from pds_nerfstudio.studio.spec import find_edit, find_still

SUITE = Path(__file__).parents[2] / "suites" / "studio.yaml"
VIEWS = ["test_003.jpg"]


@pytest.fixture
def stills():
    return benchmark_of(read_suite(SUITE), "splatfacto", {"prior": "toybox", "reconstruction_steps": 7})


def test_the_suite_has_four_edits_of_each_kind_on_four_scenes(stills, tmp_path):
    suite = read_suite(SUITE)
    assert Counter(edit.kind for edit in suite.edits) == {"appearance": 4, "addition": 4, "shape": 4}
    assert len({stills.shared(edit, 0) for edit in suite.edits}) == 4
    cells = plan_cells(suite, [*suite.methods, "prior-0.4", "ceiling"], stills, 1, tmp_path)
    known = {"nothing", "prior-0.4", "pnr-edit", "pnr-edit+sdedit-refine"}
    assert {cell.method for cell in cells} == known  # no ceiling


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("studio:\n  - vase-gold\n", "line 2: there is no studio edit 'vase-gold', only vase-marble"),
        ("studio:\n  - vase-flower\ncaptures: []\n", "under `edits:`, `studio:` or `captures:`"),
    ],
)
def test_a_mistake_in_a_suite_is_named_with_its_line(tmp_path, text, sentence):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_suite(tmp_path / "mine.yaml")


def test_an_edit_begins_with_its_captures_photographs(stills, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(capture, "train", lambda config: trained.append(config) or tmp_path / "config.yml")
    edit = find_edit("vase-flower")
    assert stills.prepare(edit, tmp_path, 0) == tmp_path / "config.yml"
    (config,) = trained
    assert config.pipeline.datamanager.data == tmp_path / "scene" / "source"
    assert (config.method_name, config.max_num_iterations) == ("source-splatfacto", 7)
    assert config.pipeline.model.stop_split_at == RECONSTRUCTION["pipeline.model.stop_split_at"]
    assert stills.truth(edit, tmp_path).is_file()


def test_what_a_row_sets_counts_before_the_priors_recipe_even_where_it_is_the_default(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(capture, "train", lambda config: trained.append(config) or tmp_path / "config.yml")
    stills = Stills("splatfacto", capture.CaptureSettings())
    row = {"pipeline.change": "everywhere", "optimizers.means.optimizer.lr": 0.0}
    stills.edit("pnr-edit", row, tmp_path / "run" / "config.yml", find_edit("teapot-red"), tmp_path, 0)
    (config,) = trained
    assert config.pipeline.prior == "studio"
    assert config.optimizers["means"]["optimizer"].lr == 0
    assert all(name in config.given for name in ("pipeline.prior", *row))
    assert "pipeline.by" not in config.given


def test_the_true_pictures_are_a_perfect_edit_and_the_source_is_none(tmp_path, monkeypatch):
    edit = find_edit("vase-flower")
    copy_capture(find_still("vase"), tmp_path / "scene")
    folders = {"before": tmp_path / "scene" / "source", "after": tmp_path / "scene" / "vase-flower" / "target"}
    stills = Stills("splatfacto", capture.CaptureSettings(prior="toybox"))
    monkeypatch.setattr(studio_trial, "load_run", lambda path: SimpleNamespace(datamanager=path.stem))
    monkeypatch.setattr(studio_trial, "eval_views", lambda datamanager: SimpleNamespace(names=VIEWS))
    monkeypatch.setattr(
        studio_trial,
        "render_eval_views",
        lambda run: read_images([folders[run.datamanager] / "images" / name for name in VIEWS]),
    )
    found = {name: stills.compare(edit, tmp_path, Path("before"), Path(name)).numbers for name in folders}
    assert (found["before"]["success"], found["after"]["success"]) == (0, 1)
    assert found["after"]["distance_to_target"] == pytest.approx(0, abs=1e-6)
    inside = "psnr_to_target_in_change_mask_after"
    assert found["before"][inside] < 25 < 90 < found["after"][inside]
    assert found["after"]["background_psnr"] > 30  # light that the flower takes away
    assert "view_consistency" not in found["after"]
    assert "target_probability_after" in found["after"]

    drawn = stills.known(edit, tmp_path, Path("before"), 0.4, 0)  # by the packaged prior, at its size
    assert drawn.edited.shape[-2:] == drawn.truth.shape[-2:]
    assert found["before"][inside] < drawn.numbers[inside] < 40
