"""Editing a drawing: the objectives' own gradients through encoder and rasteriser, and edits that go on exactly."""

import pytest
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import DDS, OBJECTIVES, PDS, Edit, Piva
from pds_nerfstudio.pipelines import svg_edit
from pds_nerfstudio.pipelines.svg_edit import edit_drawing, picture_size
from pds_nerfstudio.pipelines.svg_settings import SvgSettings
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.vector import read_drawing, render

PROMPTS = ("a photo of a red ball", "a photo of a blue ball")
FILE = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 100 80'><rect y='50' width='100' height='30' fill='gray'/>"
    "<circle cx='50' cy='40' r='25' fill='red' stroke='#400' stroke-width='2'/>"
    "<path filter='url(#f)' d='M5 5H20V20Z' fill='gold'/></svg>"
)


@pytest.fixture(scope="module")
def prior():
    return load_prior("toybox", "cpu")


@pytest.fixture
def drawing(tmp_path):
    (tmp_path / "ball.svg").write_text(FILE)
    return read_drawing(tmp_path / "ball.svg")


def same(a, b) -> bool:
    return all(torch.equal(a.tensors()[name], b.tensors()[name]) for name in a.tensors())


def test_the_first_step_follows_the_sign_of_the_objectives_gradient(prior, drawing):
    """Adam's first step is its rate times the sign: of x⁰'s gradient, carried back through encoder and rasteriser."""
    objective, settings = PDS(guidance_scale=7.5), SvgSettings(steps=1, seed=5)
    size = picture_size(drawing, prior, None)
    values = drawing.source.map(lambda value: value.clone().requires_grad_(True))
    x0 = prior.encode(render(drawing, values, *size))
    generator = torch.Generator().manual_seed(5)
    t, s = objective.sample_timesteps(prior.schedule, 1, generator)
    eps, eps_s = (torch.randn(x0.shape, generator=generator) for _ in range(2))
    gradient = objective.gradient(prior, Edit(x0.detach(), x0.detach(), *PROMPTS, t, s, eps, eps_s))
    x0.backward(gradient)
    edited = edit_drawing(prior, objective, drawing, *PROMPTS, settings).values
    slope = values.points.grad * drawing.editable["points"]
    felt = slope.abs() > 1e-3 * slope.abs().max()
    moved = (edited.points - drawing.source.points)[felt]
    torch.testing.assert_close(moved, -0.8 * slope[felt].sign(), atol=1e-3, rtol=0)


def test_pictures_have_the_canvas_shape_at_the_priors_size(prior, drawing):
    assert picture_size(drawing, prior, None) == (64, 80)
    assert picture_size(drawing, prior, 32) == (32, 40)


def test_what_is_not_editable_stays_to_the_bit(prior, drawing):
    values = edit_drawing(prior, PDS(), drawing, *PROMPTS, SvgSettings(steps=3)).values
    for name, mask in drawing.editable.items():
        before, after = drawing.source.tensors()[name], values.tensors()[name]
        assert torch.equal(after[mask == 0], before[mask == 0])
        assert not torch.equal(after[mask == 1], before[mask == 1])
    assert values.colours.min() >= 0
    assert values.colours.max() <= 1


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_edits_and_repeats_itself(prior, drawing, kind):
    first, second = (
        edit_drawing(prior, kind(), drawing, *PROMPTS, SvgSettings(steps=2, adapter_rank=2)).values for _ in range(2)
    )
    assert same(first, second)
    assert not same(first, drawing.source)


@pytest.mark.parametrize("objective", [PDS(), Piva()])
def test_an_interrupted_edit_goes_on_to_the_same_end(prior, drawing, tmp_path, monkeypatch, objective):
    """Optimisers, noise and adapters included."""
    monkeypatch.setattr(svg_edit, "SAVE_EVERY", 2)
    settings = SvgSettings(steps=5, adapter_rank=2)
    whole = edit_drawing(prior, objective, drawing, *PROMPTS, settings)

    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        edit_drawing(prior, objective, drawing, *PROMPTS, settings, state=state, after_step=stop)
    done = []
    resumed = edit_drawing(prior, objective, drawing, *PROMPTS, settings, state=state, after_step=done.append)
    assert done == [3, 4, 5]
    assert same(resumed.values, whole.values)
    assert len(resumed.snapshots) == len(whole.snapshots) == 6
    assert all(map(same, resumed.snapshots, whole.snapshots))


@pytest.mark.parametrize("change", [" filter='url(#f)'", "fill='gray'", "</svg>"])
def test_a_state_is_not_taken_for_that_of_another_drawing(prior, drawing, tmp_path, change):
    """Though its numbers are the same: what is fixed, which rule fills it, what lies on top."""
    state, others = tmp_path / "state.pt", {"fill='gray'": "fill='gray' fill-rule='evenodd'", "</svg>": "<g/></svg>"}
    edit_drawing(prior, DDS(), drawing, *PROMPTS, SvgSettings(steps=1), state=state)
    (tmp_path / "other.svg").write_text(FILE.replace(change, others.get(change, "")))
    other = read_drawing(tmp_path / "other.svg")
    assert same(other.source, drawing.source)
    with pytest.raises(UserError, match="another drawing"):
        edit_drawing(prior, DDS(), other, *PROMPTS, SvgSettings(steps=1), state=state)


def test_a_state_of_another_edit_or_of_nothing_is_one_sentence(prior, drawing, tmp_path):
    state = tmp_path / "state.pt"
    edit_drawing(prior, DDS(), drawing, *PROMPTS, SvgSettings(steps=1), state=state)
    with pytest.raises(UserError, match="other settings"):
        edit_drawing(prior, PDS(), drawing, *PROMPTS, SvgSettings(steps=1), state=state)
    state.write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        edit_drawing(prior, PDS(), drawing, *PROMPTS, SvgSettings(steps=1), state=state)
    torch.save([1, 2], state)
    with pytest.raises(UserError, match="is damaged"):
        edit_drawing(prior, PDS(), drawing, *PROMPTS, SvgSettings(steps=1), state=state)
    edit_drawing(prior, DDS(), drawing, *PROMPTS, SvgSettings(steps=1), state=tmp_path / "whole.pt")
    torch.save({"key": torch.load(tmp_path / "whole.pt")["key"]}, state)
    with pytest.raises(UserError, match="is damaged"):
        edit_drawing(prior, DDS(), drawing, *PROMPTS, SvgSettings(steps=1), state=state)


def test_an_edit_that_diverges_is_one_sentence(prior, drawing, monkeypatch):
    monkeypatch.setattr(DDS, "gradient", lambda self, prior, edit: torch.full_like(edit.x0_tgt, torch.inf))
    with pytest.raises(UserError, match="lower learning rate"):
        edit_drawing(prior, DDS(), drawing, *PROMPTS, SvgSettings(steps=2))
