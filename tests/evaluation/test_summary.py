"""What a benchmark's records are summed up to: means with their intervals, tables, and who lies outside the anchors."""

import math
from pathlib import Path
from types import SimpleNamespace

import torch

from pds_nerfstudio.evaluation import summary
from pds_nerfstudio.pictures import read_images, save_image


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


def test_seeds_of_one_edit_are_no_further_evidence():
    edits = [record("pds-edit", 14, "a"), record("pds-edit", 16, "b")]
    again = [r | {"seed": 1} for r in edits]
    (one,), (two,) = (
        [line for line in summary.table(r).splitlines() if "pds-edit" in line] for r in (edits, edits + again)
    )
    assert one.replace("| 2 |", "| 4 |") == two
    of_one_edit = summary.table([edits[0], again[0] | {"metrics": edits[1]["metrics"]}])
    assert "15.00 |" in of_one_edit  # without an interval


def test_the_readmes_table_has_a_line_per_method_and_a_column_per_kind(script):
    records = [record("pds-edit", 14, "a"), record("pds-edit", 16, "b"), record("nothing", 9, "c", "addition")]
    records[2]["metrics"]["background_psnr"] = math.inf
    text = script("fill_benchmark").short_table([r | {"seconds": 30.0} for r in records])
    assert text.splitlines() == [
        "| | addition | shape | seconds |",
        "|---|---|---|---|",
        "| `pds-edit` |  | 15.0 / 30.0 / 100% | 30 |",
        "| `nothing` | 9.0 / all / 100% |  | 30 |",
    ]


def test_who_is_worse_than_nothing_or_better_than_the_ceiling_is_named():
    records = [record("nothing", 10), record("ceiling", 20, probability=1.0)]
    assert not summary.outside_the_anchors([*records, record("pds-edit", 15)])
    (worse,) = summary.outside_the_anchors([*records, record("pds-edit", 9)])
    assert "pds-edit: psnr_to_target_in_change_mask_after is worse than that of `nothing` in 1 of 1 cells" in worse
    assert "furthest on a, seed 0: 9.000 and 10.000" in worse
    (better,) = summary.outside_the_anchors([*records, record("pds-edit", 21)])
    assert "better than that of `ceiling`" in better
    far = record("pds-edit", 15)
    far["metrics"]["distance_to_target_in_change_mask"] = 0.2
    (worse,) = summary.outside_the_anchors([*records, far])
    assert "distance_to_target_in_change_mask is worse than that of `nothing`" in worse
    (one_of_two,) = summary.outside_the_anchors(
        [*records, *(r | {"seed": 1} for r in records), record("pds-edit", 9), record("pds-edit", 15, seed=1)]
    )
    assert "in 1 of 2 cells" in one_of_two
    assert not summary.outside_the_anchors([record("pds-edit", 15)])


def test_nothing_alone_is_drawn_too(tmp_path):
    summary.plot([record("nothing", 12.0, background=math.inf)], tmp_path / "pareto.png")
    assert read_images([tmp_path / "pareto.png"])[0].std() > 0


def test_a_wall_is_of_the_first_seed_that_was_finished(tmp_path):
    """Where no cell of seed 0 ended, there is a picture all the same."""
    cells = []
    for seed in (2, 1):
        folder = tmp_path / str(seed)
        save_image(torch.full((3, 8, 8), seed / 4), folder / summary.VIEW)
        benchmark = SimpleNamespace(truth=lambda edit, scene: None)
        edit = SimpleNamespace(name="can-hat")
        cells.append(
            SimpleNamespace(edit=edit, method="pds-edit", seed=seed, folder=folder, benchmark=benchmark, scene_folder=0)
        )
    summary.wall(cells, tmp_path / "wall.png")
    shown = read_images([tmp_path / "wall.png"])[0]
    shares = [float(((shown - seed / 4).abs() < 0.01).all(0).float().mean()) for seed in (1, 2)]
    assert shares[0] > 10 * shares[1]


def test_the_recipes_that_were_recorded_can_be_drawn_again(script, tmp_path, capsys):
    records = Path(__file__).parents[2] / "benchmarks" / "results" / "recipes_splats.json"
    script("plot_recipes").main(records, tmp_path / "recipes.png")
    assert "| red-to-blue | pnr-edit | 3,000 | 16.67 | 34.7 | 0.88 |" in capsys.readouterr().out
    assert (tmp_path / "recipes.png").is_file()
