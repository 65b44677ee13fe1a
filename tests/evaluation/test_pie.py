"""PIE-Bench's layout is read as it is written, its numbers are what they say, and a small folder runs for real."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTModel

from pds_nerfstudio.cli.pie import PieBench
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation import pie
from pds_nerfstudio.evaluation.measure import Judges
from pds_nerfstudio.pictures import read_images

NOBODY = Judges(None, "", lambda a, b: float((a - b).abs().mean()), "")


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).mul(255).round() / 255


@pytest.fixture
def folder(script, tmp_path) -> Path:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[10:30, 20:63] = True
    mask[30, :] = True
    mask[31, :5] = True
    edits = [("one", "6", "a photo of a [red] ball", "a photo of a [blue] ball", picture(), mask)]
    script("make_toybox_pie").write_pie(tmp_path, edits)
    return tmp_path


def test_what_is_written_is_read(folder):
    (edit,) = pie.read_pie(folder)
    assert (edit.source_prompt, edit.target_prompt) == ("a photo of a red ball", "a photo of a blue ball")
    assert torch.equal(read_images([edit.image]), picture())
    mask = edit.mask(64, 64)
    assert all(border.all() for border in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    inner = mask[1:-1, 1:-1]
    assert int(inner.sum()) == 20 * 43 + 62 + 4
    assert inner[9:29, 19:62].all()


def test_the_background_is_what_lies_outside_the_mask(folder):
    (edit,) = pie.read_pie(folder)
    before, mask = picture(), edit.mask(64, 64)
    inside = torch.where(mask, 1 - before, before)
    values = pie.numbers(edit, before, inside, NOBODY, None)
    assert values["psnr"] == math.inf
    assert (values["mse"], values["distance"]) == (0, 0)
    assert "clip_whole" not in values
    everywhere = pie.numbers(edit, before, (before + 0.1), NOBODY, None)
    # As the benchmark's own evaluation: black pixels count as equal.
    mse = 0.01 * (1 - float(mask.float().mean()))
    assert everywhere["mse"] == pytest.approx(mse, rel=1e-3)
    assert everywhere["psnr"] == pytest.approx(-10 * math.log10(mse), abs=1e-3)
    assert everywhere["ssim"] < values["ssim"] <= 1


def test_an_edit_that_may_change_everything_has_no_background(folder):
    (edit,) = pie.read_pie(folder)
    whole = replace(edit, runs=(0, 64 * 64))
    assert pie.numbers(whole, picture(), picture(1), NOBODY, None) == {}
    text = pie.table({"dds-edit": [{}, {"psnr": 20.0}]})
    assert "| dds-edit | 2 | not measured | 20.0000 |" in text


def test_structure_is_the_same_of_the_same_picture_and_of_no_other(tmp_path):
    settings = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(settings, add_pooling_layer=False).save_pretrained(tmp_path / "dino")
    structure = pie.load_structure(str(tmp_path / "dino"))
    assert structure is not None
    assert structure.similarity(picture()).shape == (17, 17)
    assert structure.distance(picture(), picture()) == 0
    assert structure.distance(picture(), picture(1)) > 0
    assert pie.load_structure(str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": [3]}, "without its length"),
        ({"image_path": "6/two.png"}, "is missing"),
        ({"editing_prompt": None}, "cannot be read"),
    ],
)
def test_mistakes_in_the_folder_are_named(folder, change, words):
    entries = json.loads((folder / pie.MAPPING).read_text())
    entries["one"] |= change
    (folder / pie.MAPPING).write_text(json.dumps(entries))
    with pytest.raises(UserError, match=words):
        pie.read_pie(folder)


def test_other_mistakes_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"no readable mapping_file\.json"):
        pie.read_pie(tmp_path / "nowhere")
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / pie.MAPPING).write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"no readable mapping_file\.json"):
        pie.read_pie(deep)
    with pytest.raises(UserError, match="no method 'pnr-edit' for pictures"):
        PieBench(data=folder, methods=("pnr-edit",), prior="toybox").run()
    with pytest.raises(UserError, match="--steps"):
        PieBench(data=folder, steps=0, prior="toybox").run()


@pytest.mark.parametrize("content", ["{", "[]", '{"psnr": "high"}', '{"beauty": 1}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "one.json").write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        pie.read_record(tmp_path / "one.json")


def test_a_folder_is_edited_once_and_summed_up(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(pie, "load_structure", lambda: None)
    methods = ("dds-edit", "piva-edit[pipeline.adapter_rank=2]")
    bench = PieBench(data=folder, methods=methods, prior="toybox", steps=2, out=tmp_path / "out")
    bench.run()
    assert "pds preview" in capfd.readouterr().out
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| dds-edit | 1 | not measured | " in table
    assert methods[1] in table
    record = tmp_path / "out" / methods[1] / "one.json"
    assert {"psnr", "ssim", "mse", "distance", "clip_whole", "clip_edited"} == set(json.loads(record.read_text()))
    written = record.stat().st_mtime_ns
    bench.run()
    assert record.stat().st_mtime_ns == written
    (tmp_path / "out" / "settings.json").rename(tmp_path / "settings.json")
    with pytest.raises(UserError, match="do not say how they were made: give another --out"):
        bench.run()
    (tmp_path / "settings.json").rename(tmp_path / "out" / "settings.json")
    with pytest.raises(UserError, match="another steps \\(2 instead of 3\\): give another --out"):
        replace(bench, steps=3).run()
