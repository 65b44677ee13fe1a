"""What a step costs, by `benchmarks/step_cost.py` on networks of 32 channels; and that `step_time.py` runs."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> Any:
    """A module of `benchmarks/`."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def counted():
    """Rows of the prior's table by method."""
    methods = "sds", "dds", "pds", "vsd", "piva", "piva, separate"
    return {row["method"]: row for row in script("step_cost").count_prior("sd15", 128, small=True, objectives=methods)}


@pytest.mark.parametrize("method", ["sds", "dds", "pds"])
def test_a_step_costs_what_its_formula_needs_in_one_network_call(counted, method):
    assert counted[method]["over_floor"] <= 1.02
    assert counted[method]["calls"] == [2 if method == "sds" else 4]


def test_adapters_cost_their_own_calls_and_a_shared_latent_no_unconditional_ones(counted):
    assert counted["vsd"]["calls"] == [2, 1]
    assert counted["piva"]["calls"] == [2, 2, 1]
    assert counted["piva, separate"]["calls"] == [4, 2, 1]


def test_the_naive_schedule_costs_an_encoder_pass_more_and_keeps_what_the_step_does_not(counted):
    for row in counted.values():
        assert row["naive"] > 1.02 * row["floor"]
        assert row["naive_kept"] > 1.5 * row["kept"]


def test_the_stopwatch_times_every_schedule_and_fills_the_readme(tmp_path, monkeypatch):
    step_time = script("step_time")
    step_time.main(
        tmp_path / "times",
        size=128,
        gaussians=(200,),
        families=("splatfacto",),
        compiled=(False,),
        repeats=1,
        small=True,
    )
    rows = json.loads((tmp_path / "times.json").read_text())["rows"]
    assert [row["schedule"] for row in rows] == ["bare", "ours", "naive"]
    assert set(rows[1]["milliseconds"]) == set(step_time.PARTS)
    readme = tmp_path / "README.md"
    readme.write_text("before <!-- step_time --> old <!-- /step_time --> after")
    monkeypatch.setattr(step_time, "README", readme)
    step_time.main(readme=str(tmp_path / "times.json"))
    assert "| 200 splats | naive | fp32 |" in readme.read_text()
    step_time.main(readme="none")
    assert "not measured" in readme.read_text()
    assert readme.read_text().startswith("before ")
    assert "old" not in readme.read_text()
