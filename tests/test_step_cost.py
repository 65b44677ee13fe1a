"""What a step costs, by the counter of `benchmarks/step_cost.py`, on networks of 32 channels."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def counted():
    """The rows of the prior's table by method."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        step_cost = importlib.import_module("step_cost")
        return {row["method"]: row for row in step_cost.count_prior("sd15", 128, small=True)}
    finally:
        sys.path.remove(str(BENCHMARKS))


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
