"""Koo et al. 2024, figure 3: SDS and DDS end deep in the target, PDS stops near the boundary."""

import pytest
import torch

from pds_nerfstudio.objectives import DDS, PDS, SDS
from pds_nerfstudio.objectives.figure3 import SOURCE, TARGET, starting_points, trajectories, two_marginals


@pytest.fixture(scope="module")
def paths():
    return run_all(guidance_scale=1.0)


def run_all(guidance_scale: float, points: int = 24) -> dict[str, torch.Tensor]:
    prior = two_marginals()
    start = starting_points(prior, points, torch.Generator().manual_seed(0))
    return {
        objective.__name__: trajectories(
            objective(guidance_scale=guidance_scale), prior, start, torch.Generator().manual_seed(1), draws=8
        )
        for objective in (SDS, DDS, PDS)
    }


def mean_distance_moved(paths: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: (path[:, -1] - path[:, 0]).norm(dim=1).mean().item() for name, path in paths.items()}


def test_distance_from_the_start_is_least_for_pds_and_greatest_for_sds(paths):
    moved = mean_distance_moved(paths)
    assert 1.5 * moved["PDS"] < moved["DDS"] < moved["SDS"]


def test_pds_moves_least_under_guidance_too():
    moved = mean_distance_moved(run_all(guidance_scale=7.5, points=8))
    assert 1.5 * moved["PDS"] < min(moved["SDS"], moved["DDS"])


def test_pds_ends_between_the_marginals_nearer_the_boundary_than_where_anything_else_ends(paths):
    """By symmetry the boundary is x = 0 and the marginals' centres lie at x = ±R̄."""
    center = two_marginals().means[-16:, 0].mean()
    ends = {name: path[:, -1, 0] for name, path in paths.items()}
    assert ends["PDS"].mean().abs() < 0.5 * center
    for name in ("SDS", "DDS"):
        assert ends["PDS"].abs().mean() < 0.6 * ends[name].abs().mean()
        assert ends[name].mean() > 0.7 * center
    assert ends["PDS"].abs().mean() < 0.6 * paths["PDS"][:, 0, 0].abs().mean()


def test_every_objective_moves_towards_the_target(paths):
    prior = two_marginals()
    for path in paths.values():
        ends = [path[:, i, :, None, None] for i in (0, -1)]
        first_step = torch.zeros(len(path), dtype=torch.int64)
        before, after = (
            prior.log_density(x, first_step, TARGET) - prior.log_density(x, first_step, SOURCE) for x in ends
        )
        assert (after > before).all()


def test_only_sds_forgets_where_a_point_came_from(paths):
    spread = {name: path[:, -1].std(dim=0).norm() / path[:, 0].std(dim=0).norm() for name, path in paths.items()}
    assert spread["SDS"] < 0.1
    assert spread["DDS"] > 0.7
    assert spread["PDS"] > 0.7
