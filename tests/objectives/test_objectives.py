"""Laws that hold for every objective, and the one place where a gradient becomes a loss."""

import ast
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
import torch
import tyro

import pds_nerfstudio.objectives
from pds_nerfstudio.objectives import (
    DDS,
    DVRF,
    OBJECTIVES,
    PDS,
    SDS,
    SSD,
    DreamCatalyst,
    Edit,
    Objective,
    Piva,
    Prior,
    surrogate_loss,
)
from pds_nerfstudio.objectives.base import guided
from pds_nerfstudio.objectives.cameras import Viewpoints

from .fakes import SCHEDULE, FakePrior, random_edit

every_objective = pytest.mark.parametrize("objective", [cls() for cls in OBJECTIVES], ids=lambda o: type(o).__name__)


def single(edit: Edit, i: int) -> Edit:
    tensors = {f.name: getattr(edit, f.name) for f in fields(edit) if isinstance(getattr(edit, f.name), torch.Tensor)}
    return replace(edit, **{name: value[i : i + 1] for name, value in tensors.items()})


@every_objective
def test_batch_equals_singles(objective):
    edit = random_edit(batch=4)
    together = objective.gradient(FakePrior(), edit)
    apart = torch.cat([objective.gradient(FakePrior(), single(edit, i)) for i in range(4)])
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


@every_objective
def test_asks_its_prior_exactly_once(objective):
    prior = FakePrior()
    objective.gradient(prior, random_edit())
    assert len(prior.calls) == 1
    shared = isinstance(objective, Piva) and objective.noisy_source == "shared"  # guides after the difference
    expected = {1.0} if shared else {0.0, 1.0} if isinstance(objective, SSD) else {objective.guidance_scale}
    expected |= {objective.src_guidance_scale} if isinstance(objective, DVRF) else set()
    asked = {query.guidance_scale for query in prior.calls[0] if query.adapter is None}
    assert asked == expected
    assert {query.guidance_scale for query in prior.calls[0] if query.adapter} <= {1.0}  # adapters are asked without
    assert tuple(query.adapter for query in prior.calls[0] if query.adapter) == objective.adapters


@every_objective
def test_gradient_is_deterministic_finite_and_outside_any_graph(objective):
    edit = random_edit()
    edit = replace(edit, x0_tgt=edit.x0_tgt.requires_grad_())
    first, second = (objective.gradient(FakePrior(), edit) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert first.isfinite().all()
    assert first.shape == edit.x0_tgt.shape


@every_objective
def test_gradient_reacts_to_the_target_prompt(objective):
    edit = random_edit()
    other = replace(edit, tgt_prompt="a green cone")
    assert not torch.allclose(objective.gradient(FakePrior(), edit), objective.gradient(FakePrior(), other))


@pytest.mark.parametrize(
    "objective",
    [
        *(DDS(), DreamCatalyst(), PDS(coefficients="posterior")),
        *(PDS(weighting=w) for w in ("unit", "psi_chi", "dreamcatalyst")),
    ],
)
def test_matched_pair_gives_zero_gradient(objective):
    edit = random_edit()
    matched = replace(edit, x0_tgt=edit.x0_src, tgt_prompt=edit.src_prompt)
    assert torch.equal(objective.gradient(FakePrior(), matched), torch.zeros_like(edit.x0_src))


def test_dreamcatalyst_is_pds_with_its_weights_and_each_term_has_one_of_its_own():
    edit = random_edit()
    same = PDS(guidance_scale=7.5, weighting="dreamcatalyst").gradient(FakePrior(), edit)
    torch.testing.assert_close(DreamCatalyst().gradient(FakePrior(), edit), same)
    terms = [DreamCatalyst(**weight).gradient(FakePrior(), edit) for weight in ({"hold": 0.0}, {"change": 0.0})]
    torch.testing.assert_close(sum(terms), same)
    share = (edit.t / 1000)[:, None, None, None]
    x_t, x_t_src = (SCHEDULE.add_noise(x0, edit.t, edit.eps) for x0 in (edit.x0_tgt, edit.x0_src))
    torch.testing.assert_close(terms[1], 0.075 * share.exp() * (x_t - x_t_src))


def test_sds_of_a_perfect_prediction_is_zero():
    class Oracle(FakePrior):
        def predict_noise(self, queries):
            return [edit.eps]

    edit = random_edit()
    assert torch.equal(SDS().gradient(Oracle(), edit), torch.zeros_like(edit.eps))


def test_dds_is_the_difference_of_two_sds_gradients():
    edit = random_edit()
    of_source = replace(edit, x0_tgt=edit.x0_src, tgt_prompt=edit.src_prompt)
    sds = SDS(guidance_scale=7.5, weighting="unit")
    difference = sds.gradient(FakePrior(), edit) - sds.gradient(FakePrior(), of_source)
    torch.testing.assert_close(DDS().gradient(FakePrior(), edit), difference)


def test_the_reconstruction_form_of_sds_is_latent_minus_reconstruction():
    edit, prior = random_edit(), FakePrior()
    x_t = SCHEDULE.add_noise(edit.x0_tgt, edit.t, edit.eps)
    (eps_hat,) = prior.predict_noise([edit.query(x_t, edit.tgt_prompt, 50.0)])
    expected = edit.x0_tgt - SCHEDULE.predict_x0(x_t, edit.t, eps_hat)
    found = SDS(guidance_scale=50.0, weighting="reconstruction").gradient(prior, edit)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("together", [1, 3])
def test_rescaled_guidance_has_the_contrast_of_the_unguided_reconstruction(together):
    """At r = 1 the standard deviations are one; at r = 0.5 the reconstruction lies half-way (Shi et al. 2023)."""
    cameras = Viewpoints(torch.eye(4).expand(3, 4, 4), together)
    edit = random_edit(t=torch.full((3,), 400), s=torch.full((3,), 398), cameras=cameras)

    def reconstruction(**settings):
        objective = SDS(weighting="reconstruction", **settings)
        return edit.x0_tgt - objective.gradient(FakePrior(), edit)

    def contrast(x0):
        return x0.reshape(3 // together, -1).std(dim=1)

    plain, strong = reconstruction(guidance_scale=1.0), reconstruction(guidance_scale=50.0)
    half, whole = (reconstruction(guidance_scale=50.0, guidance_rescale=r) for r in (0.5, 1.0))
    torch.testing.assert_close(contrast(whole), contrast(plain))
    assert (contrast(strong) > 1.2 * contrast(plain)).all()
    torch.testing.assert_close(half, (strong + whole) / 2)
    torch.testing.assert_close(reconstruction(guidance_scale=1.0, guidance_rescale=0.7), plain)


@pytest.mark.parametrize("cls", [SDS, DDS])
def test_the_weightings_are_functions_of_alpha_bar(cls):
    edit = random_edit()
    weighted, of_x0, plain = (
        cls(weighting=w).gradient(FakePrior(), edit) for w in ("variance", "reconstruction", "unit")
    )
    alpha_bar = SCHEDULE.alphas_cumprod[edit.t]
    torch.testing.assert_close(weighted, torch.einsum("b,bchw->bchw", 1 - alpha_bar, plain))
    torch.testing.assert_close(of_x0, torch.einsum("b,bchw->bchw", (1 / alpha_bar - 1).sqrt(), plain))


@every_objective
def test_timesteps_are_ordered_in_range_and_reproducible(objective):
    draw = lambda: objective.sample_timesteps(SCHEDULE, 20_000, torch.Generator().manual_seed(3))  # noqa: E731
    t, s = draw()
    assert t.dtype == s.dtype == torch.int64
    assert (s < t).all()
    assert s.min() >= 0
    whole = isinstance(objective, Piva)  # t ~ U[0, T] in Le et al. 2024
    assert t.min() in ((1,) if whole else (20, 21))
    assert t.max() == (999 if whole else 979)
    assert all(torch.equal(a, b) for a, b in zip((t, s), draw(), strict=True))


@every_objective
def test_configuration_is_frozen_hashable_and_a_command_line(objective):
    cls = type(objective)
    assert isinstance(objective, Objective)
    assert tyro.cli(cls, args=["--guidance-scale", "7.5"]) == cls(guidance_scale=7.5)
    assert hash(cls()) == hash(objective)
    with pytest.raises(FrozenInstanceError):
        objective.guidance_scale = 1.0


@every_objective
def test_every_field_is_explained_in_the_help(objective, capsys):
    with pytest.raises(SystemExit):
        tyro.cli(type(objective), args=["--help"])
    assert "exclusive" in capsys.readouterr().out
    tree = ast.parse(Path(sys.modules[type(objective).__module__].__file__).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for here, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(here, ast.AnnAssign):
                    assert isinstance(after, ast.Expr), f"{node.name}.{ast.unparse(here.target)} has no docstring"


@pytest.mark.parametrize("limits", [(-0.1, 0.5), (0.6, 0.5), (0.5, 98.0)])
@pytest.mark.parametrize("cls", OBJECTIVES)
def test_impossible_step_ranges_are_refused(cls, limits):
    with pytest.raises(ValueError, match=r"(min|max)_step_percent"):
        cls(min_step_percent=limits[0], max_step_percent=limits[1])


def test_guidance_of_one_is_conditional_and_of_zero_unconditional():
    unconditional, conditional = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(guided(unconditional, conditional, 1.0), conditional)
    assert torch.equal(guided(unconditional, conditional, 0.0), unconditional)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
def test_surrogate_loss_is_half_the_squared_norm_and_its_gradient_g_over_b(dtype, batch):
    generator = torch.Generator().manual_seed(4)
    # Latents a thousand times larger than the gradient, which a target x⁰ − g would round away.
    x0 = (1000 * torch.randn(batch, 4, 8, 8, generator=generator)).to(dtype).requires_grad_()
    g = torch.randn(batch, 4, 8, 8, generator=generator).to(dtype)
    loss = surrogate_loss(x0, g)
    loss.backward()
    expected = 0.5 * sum(float((sample.double() ** 2).sum()) for sample in g) / batch
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(x0.grad, g / batch)


def test_surrogate_loss_of_a_repeated_batch_is_the_same():
    x0, g = torch.randn(2, 1, 4, 8, 8)
    assert surrogate_loss(x0.repeat(5, 1, 1, 1), g.repeat(5, 1, 1, 1)).item() == pytest.approx(
        surrogate_loss(x0, g).item(), rel=1e-5
    )


def test_surrogate_loss_reports_a_gradient_that_is_not_finite():
    g = torch.ones(1, 4, 2, 2)
    g[0, 0, 0, 0] = torch.nan
    assert not surrogate_loss(torch.ones(1, 4, 2, 2), g).isfinite()


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x0_src": torch.zeros(2, 4, 6, 5)}, "x0_src has shape"),
        ({"eps": torch.zeros(3, 4, 6, 6)}, "eps has shape"),
        ({"eps_s": torch.zeros(3, 4, 6)}, "eps_s has shape"),
        ({"t": torch.tensor([9, 9])}, "t is torch.int64 of shape"),
        ({"t": torch.tensor([9.0, 9.0, 9.0])}, "t is torch.float32"),
        ({"s": torch.tensor(3)}, "s is torch.int64 of shape"),
        ({"t": torch.tensor([5, 5, 5]), "s": torch.tensor([4, 5, 4])}, "every pair needs 0 ≤ s < t"),
        ({"t": torch.tensor([1, 5, 5]), "s": torch.tensor([-1, 3, 3])}, "every pair needs 0 ≤ s < t"),
        ({"x0_tgt": torch.zeros(3, 4, 6)}, "latents must be"),
    ],
)
def test_edits_that_cannot_work_are_refused_at_construction(changes, message):
    with pytest.raises(ValueError, match=message):
        random_edit(dtype=torch.float32, **changes)


def test_the_fake_is_a_prior():
    assert isinstance(FakePrior(), Prior)
    assert not isinstance(object(), Prior)


def test_objectives_import_torch_and_nothing_heavier():
    allowed = {"torch", "jaxtyping", "numpy", "annotated_types", "pds_nerfstudio", *sys.stdlib_module_names}
    for path in Path(pds_nerfstudio.objectives.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
                if name.startswith("pds_nerfstudio"):
                    assert name.startswith(("pds_nerfstudio.objectives", "pds_nerfstudio.ranges")), (
                        f"{path.name} imports {name}"
                    )
