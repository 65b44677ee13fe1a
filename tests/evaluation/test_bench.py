"""The benchmark: what it plans, resumes, survives and sums up; and one small suite for real."""

import copy
import json
import math
import os
from pathlib import Path

import pytest

from pds_nerfstudio.cli.bench import Bench
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation import bench, summary
from pds_nerfstudio.evaluation.suite import read_suite
from pds_nerfstudio.evaluation.trial import SETTINGS, change_setting
from pds_nerfstudio.methods import METHODS

SUITES = Path(__file__).parents[2] / "suites"


def cells_of(out: Path, methods=("pds-edit", "nothing", "ceiling"), seeds=1) -> list[bench.Cell]:
    settings = SETTINGS["splatfacto"]
    return bench.plan_cells(read_suite(SUITES / "ci.yaml"), methods, "splatfacto", seeds, out, settings)


def pretend(cell: bench.Cell):
    """In place of an edit: `ceiling` fails, and one process dies."""
    if cell.method == "ceiling":
        raise RuntimeError("no such luck\nat all")
    if cell.method == "pds-edit" and cell.edit.kind == "shape":
        os._exit(1)
    bench.write_json(cell.record_file, {"method": cell.method})
    return {"method": cell.method}


def record(method: str, mask: float, edit="a", kind="shape", seed=0, probability=0.5, background=30.0):
    metrics = {
        "psnr_to_target_in_change_mask_after": mask,
        "background_psnr": background,
        "target_probability_after": probability,
        "success": 1.0,
        "distance_to_target_in_change_mask": 0.1,
        "view_consistency": 25.0,
        "saturation_drift": 0.01,
    }
    return {"method": method, "edit": edit, "kind": kind, "seed": seed, "metrics": metrics}


def test_cells_are_every_edit_seed_and_method_with_anchors_first(tmp_path):
    cells = cells_of(tmp_path, seeds=2)
    assert len(cells) == 3 * 2 * 3
    assert [cell.method for cell in cells[:3]] == ["nothing", "ceiling", "pds-edit"]
    assert len({cell.record_file for cell in cells}) == len(cells)
    assert len({cell.scene_folder for cell in cells}) == 3 * 2


def test_unknown_methods_seeds_and_shards_are_refused(tmp_path):
    with pytest.raises(UserError, match="no method 'pds-edit-splat'"):
        cells_of(tmp_path, ["pds-edit-splat"])
    with pytest.raises(UserError, match="--seeds 0"):
        cells_of(tmp_path, seeds=0)
    for shard in ("1", "2/2", "a/b"):
        with pytest.raises(UserError, match="I/N"):
            Bench(suite=SUITES / "ci.yaml", out=tmp_path, shard=shard).run()


def test_a_method_takes_settings_in_brackets(tmp_path):
    text = "piva-edit[pipeline.objective.regularisation=0.8, optimizers.adapters.optimizer.lr=1e-3]"
    method, changes = bench.read_variant(text)
    assert method == "piva-edit"
    assert summary.short(text) == "piva-edit [regularisation=0.8, lr=0.001]"
    config = copy.deepcopy(METHODS["piva-edit-splat"].config)
    for name, value in changes.items():
        change_setting(config, name, value)
    assert config.pipeline.objective.regularisation == 0.8
    assert config.optimizers["adapters"]["optimizer"].lr == 1e-3
    assert METHODS["piva-edit-splat"].config.pipeline.objective.regularisation == 0.2
    assert [cell.method for cell in cells_of(tmp_path, ["nothing", text])[:2]] == ["nothing", text]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("piva-edit[", "cannot be read"),
        ("piva-edit[lambda]", "cannot be read"),
        ("piva-edit[pipeline.objective.lamda=1]", "no setting 'lamda' in Piva"),
        ("piva-edit[pipeline.seed.low=1]", "has no part 'low'"),
    ],
)
def test_settings_that_do_not_exist_are_refused_before_anything_runs(tmp_path, method, words):
    with pytest.raises(UserError, match=words):
        cells_of(tmp_path, [method])


def test_a_cell_that_fails_or_dies_stops_no_other(tmp_path):
    outcomes = dict(
        ((cell.edit.kind, cell.method), outcome) for cell, outcome in bench._each(pretend, cells_of(tmp_path), 2)
    )
    assert len(outcomes) == 9
    assert all(outcomes[kind, "nothing"] == {"method": "nothing"} for kind in summary.KINDS)
    assert all(outcomes[kind, "ceiling"] == "no such luck" for kind in summary.KINDS)
    assert outcomes["appearance", "pds-edit"] == {"method": "pds-edit"}
    assert "process died" in outcomes["shape", "pds-edit"]
    done = [cell for cell in cells_of(tmp_path) if cell.record_file.exists()]
    assert len(done) == 5
    logs = [(cell.folder / "log.txt").read_text() for cell in cells_of(tmp_path) if cell.method == "ceiling"]
    assert all("at all" in log for log in logs)


def test_means_come_with_intervals_that_hold_them():
    values = [1.0, 2.0, 4.0, 5.0]
    mean, low, high = summary.mean_with_interval(values)
    assert mean == 3
    assert 1 < low < mean < high < 5
    assert summary.mean_with_interval(values) == (mean, low, high)
    alone, low, _ = summary.mean_with_interval([2.0])
    assert alone == 2
    assert math.isnan(low)
    assert summary.mean_with_interval([math.inf, math.inf])[0] == math.inf


def test_the_table_has_a_line_per_kind_and_method():
    records = [record("pds-edit", 14, "a"), record("pds-edit", 16, "b"), record("nothing", 9, "c", "addition")]
    text = summary.table(records)
    assert "### addition" in text
    assert "### appearance" not in text
    assert "| pds-edit | 2 | 15.00 (14.00 … 16.00) | 30.0 (30.0 … 30.0) | 0.50 (0.50 … 0.50) | 100%" in text
    html = summary.page("ci", records, ["worse <than> nothing"])
    assert "<td>15.00 (14.00 … 16.00)</td>" in html
    assert "worse &lt;than&gt; nothing" in html


def test_who_is_worse_than_nothing_or_better_than_the_ceiling_is_named():
    records = [record("nothing", 10), record("ceiling", 20, probability=1.0)]
    assert not summary.outside_the_anchors([*records, record("pds-edit", 15)])
    (below,) = summary.outside_the_anchors([*records, record("pds-edit", 9)])
    assert "pds-edit on a, seed 0" in below
    assert "below that of `nothing`" in below
    (above,) = summary.outside_the_anchors([*records, record("pds-edit", 21)])
    assert "above that of `ceiling`" in above
    assert not summary.outside_the_anchors([record("pds-edit", 15)])


@pytest.mark.slow
def test_pictures_are_edited_without_a_scene(tmp_path):
    Bench(SUITES / "ci.yaml", ("nothing", "ceiling", "regenerate", "dds-edit"), "2d", out=tmp_path, edit_steps=2).run()
    folder = tmp_path / "ci" / "2d"
    records = {(r["edit"], r["method"]): r["metrics"] for r in json.loads((folder / "results.json").read_text())}
    assert {method for _, method in records} == {"nothing", "ceiling", "dds-edit"}  # no scene to regenerate
    for edit in {edit for edit, _ in records}:
        nothing, ceiling, dds = (records[edit, method] for method in ("nothing", "ceiling", "dds-edit"))
        name = "psnr_to_target_in_change_mask_after"
        assert nothing["background_psnr"] == "inf"
        assert dds[name] != nothing[name]
        assert ceiling[name] > 25
        assert ceiling["success"] == 1
    assert (folder / "wall.png").exists()


@pytest.mark.parametrize("method", ["pnr-edit", "idu-edit"])
def test_what_is_more_than_an_objective_edits_no_pictures(tmp_path, method):
    with pytest.raises(UserError, match=f"no method '{method}'"):
        Bench(SUITES / "ci.yaml", (method,), "2d", out=tmp_path).run()


@pytest.mark.slow
def test_a_small_suite_runs_for_real_resumes_and_repeats(tmp_path, capfd):
    def results(out: Path) -> list:
        line = Bench(SUITES / "ci.yaml", ("nothing", "pds-edit"), out=out, reconstruction_steps=10, edit_steps=4)
        line.run()
        records = json.loads((out / "ci" / "splatfacto" / "results.json").read_text())
        return [{k: v for k, v in r.items() if k not in ("seconds", "peak_memory_mb")} for r in records]

    first = results(tmp_path / "a")
    folder = tmp_path / "a" / "ci" / "splatfacto"
    assert [(r["kind"], r["method"]) for r in first] == [
        (k, m) for k in ("appearance", "addition", "shape") for m in ("nothing", "pds-edit")
    ]
    assert all(r["metrics"]["background_psnr"] == "inf" for r in first if r["method"] == "nothing")
    assert all(r["metrics"]["background_psnr"] < 90 for r in first if r["method"] == "pds-edit")
    assert (folder / "pareto.png").stat().st_size > 10_000
    assert "### appearance" in (folder / "table.md").read_text()

    again = next(folder.glob("cells/can-to-cone.pds-edit.0/record.json"))
    others = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/record.json") if path != again}
    again.unlink()
    assert results(tmp_path / "a") == first  # the same numbers from a run of its own
    assert again.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in others.items())
