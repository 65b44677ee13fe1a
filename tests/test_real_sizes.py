"""`benchmarks/real_sizes.py`, without its jobs: what it makes of results that are missing or not finite."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import real_sizes


@pytest.mark.parametrize(
    ("psnr", "finite"), [([30.0, 31.0], True), ([30.0, None], False), (["inf"], False), (["-inf"], False)]
)
def test_a_report_is_finite_if_all_that_was_measured_is(tmp_path, psnr, finite):
    run = {"mean": {"psnr": None, "clip_score": None}, "values": {"psnr": psnr}}
    (tmp_path / "report.json").write_text(json.dumps({"runs": [run]}))
    assert real_sizes.is_finite(tmp_path) is finite


def test_whether_weights_are_finite_is_said_and_pictures_alone_say_nothing(tmp_path):
    (tmp_path / "sheet.png").touch()
    assert real_sizes.is_finite(tmp_path) is None
    save_file({"weight": torch.tensor([1.0])}, tmp_path / "a.safetensors")
    assert real_sizes.is_finite(tmp_path) is True
    save_file({"weight": torch.tensor([torch.nan])}, tmp_path / "b.safetensors")
    assert real_sizes.is_finite(tmp_path) is False


def test_after_a_job_that_fails_those_that_need_it_are_not_tried_and_the_others_are(tmp_path, monkeypatch, capsys):
    places = []

    def measure(name, place, threads):
        places.append(place)
        real_sizes.JOBS[name].line(place)
        numbers = {"seconds": 1.0, "processor seconds": 1.0, "GiB": 1.0}
        return {"job": name, **numbers, "ended well": name == "preview", "finite": None}

    monkeypatch.setattr(real_sizes, "measure", measure)
    monkeypatch.setattr(real_sizes, "write_edit", lambda *arguments, **settings: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="source-splatfacto, pds-edit-splat, evaluate"):
        real_sizes.main(jobs=("evaluate", "preview"), folder=Path("prior"), out=Path("rows.json"))
    *_, source, edit, evaluate, preview = capsys.readouterr().out.splitlines()
    assert source.endswith("| failed |")
    assert edit.endswith("| not tried: source-splatfacto left no run. |")
    assert evaluate.endswith("| not tried: pds-edit-splat left no run. |")
    assert preview.endswith("| - |")
    assert [row["job"] for row in json.loads(Path("rows.json").read_text())] == ["source-splatfacto", "preview"]
    assert {place.prior for place in places} == {tmp_path / "prior"}
