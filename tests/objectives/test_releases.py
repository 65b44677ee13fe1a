"""docs/conventions.md against the releases: its factors times our gradients are what their code computes."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pds_nerfstudio.objectives import DDS, PDS, SDS, VSD, Edit, surrogate_loss
from pds_nerfstudio.objectives.base import Query, guided
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.perturb import annealed_range, choose_eta, falling_weight

from .fakes import SCHEDULE
from .golden_releases import (
    ANNEALED,
    ETA,
    GRADIENTS,
    IDENTITY_L1,
    OF_ADAPTER,
    PHASES,
    REFINEMENT,
    SHOWN,
    latents,
    network,
)

PAGE = (Path(__file__).parents[2] / "docs/conventions.md").read_text(encoding="utf8")
TABLE = re.findall(r"^\| `([^|]+)` \| [^|]+ \| `([^|]+)` \| `([^|]+)` \|", PAGE, re.MULTILINE)
FACTORS = {row: (value, gradient) for row, value, gradient in TABLE}
"""Of the page's table, by the loss in its first column: its value and its gradient, in ours."""
GENERIC = {
    "0.5 * ((x0 - target) ** 2).sum() / B": lambda x0, target: 0.5 * F.mse_loss(x0, target, reduction="sum") / len(x0),
    "0.5 * ((x0 - target) ** 2).sum()": lambda x0, target: 0.5 * F.mse_loss(x0, target, reduction="sum"),
    "0.5 * mse_loss(x0, target)": lambda x0, target: 0.5 * F.mse_loss(x0, target),
    "0.5 * mse_loss(x0, target) / B": lambda x0, target: 0.5 * F.mse_loss(x0, target) / len(x0),
    "mse_loss(x0, target)": F.mse_loss,
    "(g * x0).sum() / (h * w)": lambda x0, target: ((x0.detach() - target) * x0).sum() / x0[0, 0].numel(),
}
RELEASES = {
    "PDS": (PDS(), 1, "0.5 * mse_loss(x0, target) / B"),
    "PDS, sds": (SDS(), 1, "0.5 * mse_loss(x0, target) / B"),
    "DDS notebook": (DDS(), 1, "(g * x0).sum() / (h * w)"),
    "threestudio, MVDream": (
        SDS(guidance_scale=50.0, weighting="reconstruction", guidance_rescale=0.5),
        4,
        "0.5 * ((x0 - target) ** 2).sum() / B",
    ),
    "threestudio, SDS": (SDS(guidance_scale=50.0), 4, "0.5 * ((x0 - target) ** 2).sum() / B"),
    "threestudio, VSD": (VSD(), 2, "0.5 * ((x0 - target) ** 2).sum() / B"),
}
"""By release: our objective, the batch, and its row of the page."""


class Network:
    """`network` as a prior."""

    schedule = SCHEDULE

    def predict_noise(self, queries: list[Query]) -> list[torch.Tensor]:
        predictions = []
        for query in queries:
            shift = OF_ADAPTER if query.adapter else 0.0
            conditional, unconditional = (
                network(query.noisy_latents, query.t, PHASES[prompt] + shift) for prompt in (query.prompt, "")
            )
            predictions.append(guided(unconditional, conditional, query.guidance_scale))
        return predictions


def factor(row: str, which: int, shape: torch.Size) -> float:
    names = dict(zip("BChw", shape, strict=True))
    return eval(FACTORS[row][which].replace("·", "*"), {"__builtins__": {}}, names)


def ours(objective, batch: int, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient that reaches x⁰, and the loss."""
    x0_tgt, x0_src, eps, eps_s = latents(batch)
    x0_tgt.requires_grad_()
    at = torch.full((batch,), t)
    cameras = Viewpoints(torch.eye(4).expand(batch, 4, 4), batch)
    edit = Edit(x0_tgt, x0_src, "src", "tgt", at, at - 2, eps, eps_s, cameras=cameras)
    loss = surrogate_loss(x0_tgt, objective.gradient(Network(), edit))
    (gradient,) = torch.autograd.grad(loss, x0_tgt)
    return gradient, loss.detach()


def test_every_row_of_the_page_is_tested():
    assert set(FACTORS) == set(GENERIC)
    assert {row for _, _, row in RELEASES.values()} < set(FACTORS)
    assert set(RELEASES) == set(GRADIENTS)


@pytest.mark.parametrize("row", GENERIC)
def test_a_row_says_what_its_loss_and_its_gradient_are_in_ours(row):
    x0, g = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0.requires_grad_()
    (mine,) = torch.autograd.grad(loss := surrogate_loss(x0, g), x0)
    (theirs,) = torch.autograd.grad(other := GENERIC[row](x0, (x0 - g).detach()), x0)
    torch.testing.assert_close(theirs, factor(row, 1, x0.shape) * mine)
    if FACTORS[row][0] != "none":
        assert float(other.detach()) == pytest.approx(factor(row, 0, x0.shape) * float(loss.detach()), rel=1e-9)


@pytest.mark.parametrize("t", [51, 201, 401, 601, 801])
@pytest.mark.parametrize("release", RELEASES)
def test_the_pages_factor_times_our_gradient_is_the_releases(release, t):
    objective, batch, row = RELEASES[release]
    gradient, loss = ours(objective, batch, t)
    found = factor(row, 1, gradient.shape) * gradient.flatten()
    *values, norm, value = GRADIENTS[release][t]
    assert found[list(SHOWN)].tolist() == pytest.approx(values, rel=1e-5, abs=1e-5 * norm / 8)
    assert float(found.norm()) == pytest.approx(norm, rel=1e-5)
    if FACTORS[row][0] != "none":
        assert factor(row, 0, gradient.shape) * float(loss) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("increase", "eta"), ETA.items())
def test_eta_is_the_releases(increase, eta):
    assert choose_eta(increase) == pytest.approx(eta, rel=1e-12)


def test_annealing_and_the_fall_of_the_identity_weight_are_the_releases():
    for step, expected in ANNEALED.items():
        assert annealed_range((step - 50) / 1500) == pytest.approx(expected)
    for step, expected in IDENTITY_L1.items():
        assert 30_000 * falling_weight(step / 1000) == pytest.approx(expected)


def test_the_refinement_of_the_release_begins_at_the_strengths_that_the_page_names():
    named = re.search(r"begins at t = (\d+), (\d+) or (\d+)", PAGE)
    assert named is not None
    assert [int(t) for t in named.groups()] == [asked[0] for asked in REFINEMENT.values()]
    assert [count for count, asked in REFINEMENT.items() if count == len(asked)] == [2, 3, 4]
