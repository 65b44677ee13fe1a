"""The benchmark: what it plans, resumes and survives; and one small suite for real."""

import itertools
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from pds_nerfstudio.cli.bench import Bench
from pds_nerfstudio.cli.running import Running
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation import cells as engine
from pds_nerfstudio.evaluation import summary
from pds_nerfstudio.evaluation.records import read_record, write_json
from pds_nerfstudio.evaluation.rows import read_chain, read_link
from pds_nerfstudio.evaluation.suite import read_suite
from pds_nerfstudio.evaluation.trial import SETTINGS, Toy
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.settings_tree import changed
from pds_nerfstudio.scenes.source import find_run
from pds_nerfstudio.toybox.spec import find_edit

SUITES = Path(__file__).parents[2] / "suites"
TOY = Toy("splatfacto", SETTINGS["splatfacto"])


def cells_of(out: Path, methods=("pds-edit", "nothing", "ceiling"), seeds=1) -> list[engine.Cell]:
    return engine.plan_cells(read_suite(SUITES / "ci.yaml"), methods, TOY, seeds, out)


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
            Running(shard=shard)


def test_every_cell_is_in_one_shard(tmp_path):
    cells = cells_of(tmp_path)
    shards = [Running(shard=f"{index}/4").share_of(cells) for index in range(4)]
    assert sorted(itertools.chain(*shards), key=cells.index) == cells
    assert {len(shard) for shard in shards} == {2, 3}


def test_shards_run_all_cells_and_the_line_without_one_sums_them_up(one_process, monkeypatch, tmp_path):
    toy = Pretended("splatfacto", SETTINGS["splatfacto"])
    monkeypatch.setattr("pds_nerfstudio.evaluation.bench.benchmark_of", lambda *_: toy)
    folder, methods = tmp_path / "ci" / "splatfacto", ("pds-edit", "dds-edit")
    done = []
    with one_process():
        for shard in ("0/2", "1/2", "0/1"):
            assert not (folder / "results.json").exists()
            Bench(SUITES / "ci.yaml", methods, out=tmp_path, running=Running(shard=shard)).run()
            done.append(len(list(folder.glob("cells/*/record.json"))))
    assert done == [3, 6, 6]
    assert Counter((folder / "made").read_text().split()) == {
        "source": 3,
        "pds-edit(source)": 3,
        "dds-edit(source)": 3,
    }
    rows = {(record["edit"], record["method"]) for record in json.loads((folder / "results.json").read_text())}
    assert len(rows) == 6
    assert all(method in (folder / "table.md").read_text() for method in methods)


def test_a_method_takes_settings_in_brackets(tmp_path):
    text = "piva-edit[pipeline.objective.regularisation=0.8, optimizers.adapters.optimizer.lr=1e-3]"
    method, changes = read_link(text)
    assert method == "piva-edit"
    assert summary.short(text) == "piva-edit [regularisation=0.8, lr=0.001]"
    config = changed(METHODS["piva-edit-splat"].config, changes)
    assert config.pipeline.objective.regularisation == 0.8
    assert config.optimizers["adapters"]["optimizer"].lr == 1e-3
    assert METHODS["piva-edit-splat"].config.pipeline.objective.regularisation == 0.2
    by_recipe = changed(METHODS["pnr-edit-splat"].config, read_link("pnr-edit[pipeline.recipe=shape]")[1])
    assert by_recipe.pipeline.run.recipe == ("shape",)
    assert [cell.method for cell in cells_of(tmp_path, ["nothing", text])[:2]] == ["nothing", text]
    subject = read_link("pnr-edit[pipeline.subject=(0, 0.5,-1),pipeline.views=orbit]")[1]
    assert subject == {"pipeline.subject": (0, 0.5, -1), "pipeline.views": "orbit"}
    words = read_link("pnr-edit[a=true, b=False, c=none, d=relevant, e=3]")[1]
    assert words == {"a": True, "b": False, "c": None, "d": "relevant", "e": 3}


def test_many_settings_and_paths_among_them_make_one_folder_for_each_method(tmp_path):
    groups = "means", "features_dc", "scales", "quats"
    rates = ",".join(f"optimizers.{group}.optimizer.lr=0.0123456789" for group in groups)
    methods = [f"pds-edit[{rates},pipeline.encoder={name}]" for name in ("a/b", "a_b", "a/c")]
    folders = {cell.folder for cell in cells_of(tmp_path, [*methods, "pds-edit[pipeline.encoder=a/b]"], seeds=1)}
    assert len(folders) == 4 * 3
    assert {folder.parent for folder in folders} == {tmp_path / "cells"}
    assert max(len(folder.name) for folder in folders) < 255


def test_a_chain_is_read_link_by_link_and_named_shortly():
    text = "pnr-edit[pipeline.eta=1e+0]+sdedit-refine[pipeline.guidance_scale=2.0,max_num_iterations=4]"
    links = [("pnr-edit", {"pipeline.eta": 1.0})]
    links += [("sdedit-refine", {"pipeline.guidance_scale": 2.0, "max_num_iterations": 4})]
    assert read_chain(text) == links
    assert summary.short(text) == "pnr-edit [eta=1.0] + sdedit-refine [guidance_scale=2.0, max_num_iterations=4]"


def test_a_chain_goes_on_with_what_the_row_of_its_first_link_has_made(one_process, tmp_path):
    """The edit of the row pds-edit is made once, though no such row is asked for; the second run repeats nothing."""
    suite = replace(read_suite(SUITES / "ci.yaml"), edits=(find_edit("red-to-blue"),))
    made = tmp_path / "made"
    chains = ["pds-edit+sdedit-refine", "pds-edit+dds-edit+sds-edit[pipeline.seed=1]"]
    cells = engine.plan_cells(suite, chains, Pretended("splatfacto", SETTINGS["splatfacto"]), 1, tmp_path)
    for row in ([], ["pds-edit", *chains]):
        cells = engine.plan_cells(suite, row or chains, cells[0].benchmark, 1, tmp_path)
        with one_process() as here:
            assert all(isinstance(outcome, dict) for _, outcome in engine.run_all(cells, here))
        assert sorted(made.read_text().split()) == [
            "dds-edit(pds-edit(source))",
            "pds-edit(source)",
            "sdedit-refine(pds-edit(source))",
            "sds-edit(dds-edit(pds-edit(source)))",
            "source",
        ]
    records = {cell.method: read_record(cell.record_file) for cell in cells}
    assert set(records) == {"pds-edit", *chains}
    for chain in chains:
        assert records[chain]["seconds"] > records["pds-edit"]["seconds"] >= 0.2  # of all its links


def test_a_chain_whose_first_link_fails_fails_once(one_process, tmp_path):
    chains = ["idu-edit", "idu-edit+sdedit-refine", "idu-edit+pds-edit", "dds-edit"]
    suite = replace(read_suite(SUITES / "ci.yaml"), edits=(find_edit("red-to-blue"),))
    cells = engine.plan_cells(suite, chains, Pretended("splatfacto", SETTINGS["splatfacto"]), 1, tmp_path)
    with one_process() as here:
        outcomes = {cell.method: outcome for cell, outcome in engine.run_all(cells, here)}
    assert [outcomes[chain] for chain in chains[:3]] == ["no idu-edit today"] * 3
    assert isinstance(outcomes["dds-edit"], dict)
    assert (tmp_path / "made").read_text().split().count("idu-edit(source)") == 1


class Pretended(Toy):
    """A benchmark whose scenes are files that say how they came about."""

    def prepare(self, edit, folder, seed):
        return self.write(folder, "source")

    def edit(self, method, changes, source, edit, out, seed):
        scene = self.write(out, f"{method}({source.read_text()})")
        time.sleep(0.2)
        if method == "idu-edit":
            raise RuntimeError("no idu-edit today")
        return scene

    def write(self, folder: Path, text: str) -> Path:
        with (folder.parents[1] / "made").open("a") as made:
            made.write(text + "\n")
        write_whole(folder / "scene", text)
        return folder / "scene"

    def compare(self, edit, scenes, source, edited):
        return Judged()


class Judged:
    numbers: ClassVar = {"psnr": 1.0}
    edited = torch.zeros(1, 3, 4, 4)

    def sheet(self, path: Path) -> None:
        """None."""


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("piva-edit[", "cannot be read"),
        ("pds-edit+nothing", "no method 'nothing' to go on with"),
        ("sdedit-refine+pds-edit", "no method 'sdedit-refine': choose among sds-edit"),
        ("nothing+pds-edit", "no method 'nothing': choose"),
        ("pds-edit+", "no method '' to go on with"),
        ("pds-edit+pds-edit[pipeline.seed=1]", "would resume the edit before it"),
        ("pds-edit+sdedit-refine[pipeline.omega=1]", "no setting 'omega'"),
        ("piva-edit[lambda]", "cannot be read"),
        ("piva-edit[pipeline.objective.lamda=1]", "no setting 'lamda' in Piva"),
        ("piva-edit[pipeline.seed.low=1]", "has no part 'low'"),
    ],
)
def test_settings_that_do_not_exist_are_refused_before_anything_runs(tmp_path, method, words):
    with pytest.raises(UserError, match=words):
        cells_of(tmp_path, [method])


def test_records_of_other_settings_are_not_taken_for_these(tmp_path):
    cells = cells_of(tmp_path, ["nothing"])
    write_json(cells[0].record_file, cells[0].describe() | {"metrics": {}})
    engine.check_records(cells)
    other = replace(TOY, settings=replace(TOY.settings, edit_steps=7))
    with pytest.raises(UserError, match=r"made with another settings .* give another --out"):
        engine.check_records(replace(cell, benchmark=other) for cell in cells)


def test_scenes_of_other_reconstruction_steps_are_not_taken_for_these(tmp_path):
    before, now = (Pretended("splatfacto", replace(TOY.settings, reconstruction_steps=steps)) for steps in (50, 600))
    cell = cells_of(tmp_path, ["nothing"])[0]
    engine.prepare(replace(cell, benchmark=before))
    engine.check_records([replace(cell, benchmark=before)])
    with pytest.raises(UserError, match=r"another reconstruction steps \(50 instead of 600\): give another --out"):
        engine.check_records([replace(cell, benchmark=now)])


@pytest.mark.slow
def test_a_chain_refines_the_edit_of_the_row_before_it(one_process, tmp_path, capfd):
    refined = "pds-edit+sdedit-refine[pipeline.num_steps=1,pipeline.resolution=32]"
    line = Bench(SUITES / "ci.yaml", ("pds-edit", refined), edits=("red-to-blue",), out=tmp_path)
    with one_process():
        replace(line, reconstruction_steps=10, edit_steps=2).run()
    folder = tmp_path / "ci" / "splatfacto"
    first, second = json.loads((folder / "results.json").read_text())
    assert (first["method"], second["method"]) == ("pds-edit", refined)
    assert first["metrics"] != second["metrics"]
    edited, further = (
        find_run(Path(json.loads((folder / "cells" / cell / "edited.json").read_text())["made"]["scene"]))
        for cell in ("red-to-blue.pds-edit.0", f"red-to-blue.{refined}.0")
    )
    assert further.method_name == "sdedit-refine-splat"
    assert further.config.pipeline.run.base == edited.config_path
    assert further.config.pipeline.tgt_prompt == edited.config.pipeline.tgt_prompt == "a photo of a blue ball"
    assert "pds-edit + sdedit-refine [num_steps=1, resolution=32]" in (folder / "table.md").read_text()


@pytest.mark.slow
def test_captures_share_a_reconstruction_and_are_judged_without_a_truth(one_process, toy_scene, tmp_path, capfd):
    prompts = "source: a photo of a red can, target: a photo of a red"
    suite = tmp_path / "own.yaml"
    suite.write_text(
        "captures:\n"
        + f"- {{name: a, kind: shape, data: {toy_scene / 'source'}, {prompts} cone}}\n"
        + f"- {{name: b, kind: shape, data: {toy_scene / 'source'}, {prompts} ball}}\n"
    )
    line = Bench(suite, ("nothing", "ceiling", "sds-edit"), out=tmp_path, prior="toybox")
    with one_process():
        replace(line, reconstruction_steps=10, edit_steps=2).run()
    folder = tmp_path / "own" / "splatfacto"
    assert [path.name for path in (folder / "scenes").iterdir()] == ["source.0"]
    records = {(r["edit"], r["method"]): r["metrics"] for r in json.loads((folder / "results.json").read_text())}
    assert set(records) == {(edit, method) for edit in "ab" for method in ("nothing", "sds-edit")}  # no ceiling
    assert records["a", "nothing"]["psnr"] == "inf"
    assert records["a", "sds-edit"]["psnr"] < 90
    assert {"clip_score", "directional_similarity", "ssim", "distance"} <= set(records["a", "sds-edit"])
    assert "CLIP score" in (folder / "table.md").read_text()
    for name in ("pareto.png", "wall.png", "cells/a.sds-edit.0/sheet.png"):
        assert (folder / name).stat().st_size > 5_000
    with pytest.raises(UserError, match="no --family 2d"):
        replace(line, family="2d").run()


@pytest.mark.slow
def test_pictures_are_edited_without_a_scene(one_process, tmp_path):
    methods = "nothing", "ceiling", "regenerate", "dds-edit"
    with one_process():
        Bench(SUITES / "ci.yaml", methods, "2d", out=tmp_path, edit_steps=2).run()
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
def test_a_small_suite_runs_for_real_resumes_and_repeats(one_process, tmp_path, capfd):
    def bench(out: Path, *methods: str, only_table: bool = False) -> None:
        Bench(SUITES / "ci.yaml", methods, out=out, reconstruction_steps=10, edit_steps=4, only_table=only_table).run()

    def results(out: Path) -> list:
        bench(out, "nothing", "pds-edit")
        records = json.loads((out / "ci" / "splatfacto" / "results.json").read_text())
        return [{k: v for k, v in r.items() if k not in ("seconds", "peak_memory_mb")} for r in records]

    with one_process():
        first = results(tmp_path / "a")
    folder = tmp_path / "a" / "ci" / "splatfacto"
    assert [(r["kind"], r["method"]) for r in first] == [
        (k, m) for k in ("appearance", "addition", "shape") for m in ("nothing", "pds-edit")
    ]
    assert all(r["metrics"]["background_psnr"] == "inf" for r in first if r["method"] == "nothing")
    assert all(r["metrics"]["background_psnr"] < 90 for r in first if r["method"] == "pds-edit")
    assert (folder / "pareto.png").stat().st_size > 10_000
    assert "### appearance" in (folder / "table.md").read_text()

    table = (folder / "table.md").read_text()
    bench(tmp_path / "a", "nothing", "pds-edit", "pnr-edit", only_table=True)
    assert (folder / "table.md").read_text() == table  # pnr-edit was not run

    again = next(folder.glob("cells/can-to-cone.pds-edit.0/record.json"))
    others = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/record.json") if path != again}
    again.unlink()
    assert results(tmp_path / "a") == first  # the same numbers from a run of its own
    assert again.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in others.items())
