"""LUSD's redraw and normalisation, of any objective: laws, cases by hand, and the exact mixture."""

from dataclasses import fields, replace

import pytest
import torch

from pds_nerfstudio.objectives import DDS, DVRF, OBJECTIVES, PDS, SDS, DreamCatalyst, Edit, NoiseSchedule
from pds_nerfstudio.objectives.base import guided
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.controls import CONTROLS, deviations, normalised, take_step
from pds_nerfstudio.objectives.mixture import GaussianMixturePrior

from .fakes import SCHEDULE, FakePrior, random_edit

every_objective = pytest.mark.parametrize("cls", OBJECTIVES, ids=lambda cls: cls.__name__)
SHAPE = (4, 6, 5)
MIDDLE_OF_FAKE = 0.057
"""Of the deviations of `FakePrior`'s answers, which depend on the timestep."""


class TiredPrior(FakePrior):
    """Answers a prompt as it answers none, at the even timesteps; at odd ones by one more, in half of the places."""

    def _one(self, query):
        half = torch.zeros_like(query.noisy_latents)
        half[..., ::2] = 1.0
        awake = (query.t % 2)[:, None, None, None] * bool(query.prompt == "a blue cube")
        return 0.1 * query.noisy_latents + query.guidance_scale * awake * half


class Draws:
    """Draws for `take_step`: by place in the batch, one after the other, as each view's own generator does."""

    def __init__(self, timesteps: dict[int, list[int]]):
        self.timesteps = {row: list(steps) for row, steps in timesteps.items()}
        self.asked: list[list[int]] = []

    def __call__(self, rows):
        self.asked.append(list(rows))
        t = torch.tensor([self.timesteps[row].pop(0) for row in rows])
        generators = [torch.Generator().manual_seed(1000 * row + int(step)) for row, step in zip(rows, t, strict=True)]
        noise = torch.stack([torch.randn(2, *SHAPE, generator=g, dtype=torch.float64) for g in generators])
        return t, t - 2, noise[:, 0], noise[:, 1]


def no_draws(rows):
    raise AssertionError("nothing is to be drawn again")


def single(edit: Edit, i: int) -> Edit:
    tensors = {f.name: getattr(edit, f.name) for f in fields(edit) if isinstance(getattr(edit, f.name), torch.Tensor)}
    return replace(edit, **{name: value[i : i + 1] for name, value in tensors.items()})


@every_objective
def test_by_default_a_step_is_the_objectives_own_gradient(cls):
    edit, prior = random_edit(), FakePrior()
    step = take_step(cls(), edit, lambda _: prior, no_draws)
    assert torch.equal(step.gradient, cls().gradient(FakePrior(), edit))
    assert step.edit is edit
    assert len(prior.calls) == 1


@every_objective
def test_looking_at_the_deviation_costs_no_call_and_changes_nothing(cls):
    edit, prior = random_edit(), FakePrior()
    step = take_step(cls(redraw_below=1e-9), edit, lambda _: prior, no_draws)
    torch.testing.assert_close(step.gradient, cls().gradient(FakePrior(), edit))
    assert len(prior.calls) == 1


@pytest.mark.parametrize("cls", [SDS, DDS, PDS, DreamCatalyst])
def test_looking_asks_the_network_for_no_more_rows_under_guidance(cls):
    """A guided query is two rows of the network, an unguided one is one."""
    edit, plain, looked = random_edit(), FakePrior(), FakePrior()
    cls(guidance_scale=7.5).gradient(plain, edit)
    take_step(cls(guidance_scale=7.5, redraw_below=1e-9), edit, lambda _: looked, no_draws)
    rows = [[1 if q.guidance_scale in (0, 1) else 2 for q in prior.calls[0]] for prior in (plain, looked)]
    assert sum(rows[0]) == sum(rows[1])


def test_weak_samples_alone_are_drawn_again_until_they_are_strong():
    start = torch.tensor([5, 4, 6])
    edit = random_edit(t=start, s=start - 2)
    draw, prior = Draws({1: [8, 9], 2: [7]}), TiredPrior()
    step = take_step(DDS(redraw_below=0.2), edit, lambda _: prior, draw)
    assert draw.asked == [[1, 2], [1]]
    assert step.edit.t.tolist() == [5, 9, 7]
    assert step.edit.s.tolist() == [3, 7, 5]
    assert step.redraws == 2
    assert torch.equal(step.edit.eps[0], edit.eps[0])
    assert not torch.equal(step.edit.eps[1], edit.eps[1])
    torch.testing.assert_close(step.gradient, DDS().gradient(TiredPrior(), step.edit))
    # The step's own, one for each retry (three rows, then one), and one more for the gradient.
    assert [len(call[0].t) for call in prior.calls] == [3, 2, 1, 3]


def test_no_more_than_so_many_redraws_are_made():
    even = torch.full((3,), 4)
    draw = Draws({row: [4] * 20 for row in range(3)})
    step = take_step(
        DDS(redraw_below=0.2, most_redraws=3), random_edit(t=even, s=even - 2), lambda _: TiredPrior(), draw
    )
    assert len(draw.asked) == step.redraws == 3
    assert torch.equal(step.gradient, DDS().gradient(TiredPrior(), step.edit))


def test_the_threshold_falls_by_a_hundredth_with_every_retry():
    """The prompt's share at odd timesteps deviates by one half: √(n/(n−1))/2 of n values."""
    values = SHAPE[0] * SHAPE[1] * SHAPE[2]
    odd = torch.full((1,), 5)
    edit = random_edit(batch=1, t=odd, s=odd - 2)
    ones = TiredPrior().predict_noise([edit.query(edit.x0_tgt, edit.tgt_prompt)])[0] - 0.1 * edit.x0_tgt
    deviation = float(deviations(ones).flatten())
    assert deviation == pytest.approx(ones.std().item())
    assert values == ones.numel()
    for retries in (1, 2, 3):
        least = deviation / 0.99 ** (retries - 0.5)
        step = take_step(DDS(redraw_below=least), edit, lambda _: TiredPrior(), Draws({0: [5] * 9}))
        assert step.redraws == retries


@every_objective
def test_a_batch_with_redraws_equals_its_singles(cls):
    edit = random_edit(batch=4)
    own = {row: [37 * (row + 1) + 61 * i for i in range(12)] for row in range(4)}
    objective = cls(redraw_below=MIDDLE_OF_FAKE, normalise=0.15, normalise_end=0.15)
    together = take_step(objective, edit, lambda _: FakePrior(), Draws(own))
    alone = []
    for row in range(4):
        draws = Draws(own)
        of_row = lambda rows, draws=draws, row=row: draws([row])  # noqa: E731
        alone.append(take_step(objective, single(edit, row), lambda _: FakePrior(), of_row))
    assert together.redraws == max(step.redraws for step in alone)
    assert len({step.redraws for step in alone}) > 1
    torch.testing.assert_close(together.gradient, torch.cat([step.gradient for step in alone]), rtol=1e-9, atol=1e-9)


def test_views_that_are_predicted_together_are_judged_and_drawn_together():
    cameras = Viewpoints(torch.eye(4).expand(4, 4, 4), together=2)
    start = torch.tensor([5, 5, 4, 4])
    edit = random_edit(batch=4, t=start, s=start - 2, cameras=cameras)
    draw = Draws({2: [7], 3: [7]})
    step = take_step(DDS(redraw_below=0.2), edit, lambda _: TiredPrior(), draw)
    assert draw.asked == [[2, 3]]
    assert step.edit.t.tolist() == [5, 5, 7, 7]
    pair = deviations(torch.cat([torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE)]), together=2)
    assert pair.shape == (2, 1, 1, 1)
    assert pair[0].item() == pair[1].item() == pytest.approx(0.5, rel=0.01)


@every_objective
def test_normalised_gradients_have_one_size_whatever_they_were(cls):
    edit = random_edit()
    found = take_step(cls(normalise=0.15), edit, lambda _: FakePrior(), no_draws).gradient
    plain = cls().gradient(FakePrior(), edit)
    torch.testing.assert_close(found.flatten(1).std(dim=1), torch.full((3,), 0.15, dtype=torch.float64))
    scale = (found / plain).flatten(1)
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale), rtol=1e-6, atol=0)
    assert (scale > 0).all()


def test_normalisation_by_hand():
    gradient = torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(1, 1, 2, 2)
    expected = 0.15 * gradient / (20 / 3) ** 0.5
    torch.testing.assert_close(normalised(gradient, 0.15), expected)
    torch.testing.assert_close(normalised(100 * gradient.half(), 0.15), expected.half())


@pytest.mark.parametrize("objective", [DDS(normalise=0.15), PDS(normalise=0.15), DreamCatalyst(normalise=0.15)])
def test_a_matched_pair_still_gives_zero(objective):
    edit = random_edit()
    matched = replace(edit, x0_tgt=edit.x0_src, tgt_prompt=edit.src_prompt)
    step = take_step(objective, matched, lambda _: FakePrior(), no_draws)
    assert torch.equal(step.gradient, torch.zeros_like(edit.x0_src))


@every_objective
def test_the_size_falls_from_its_start_to_its_end_along_a_sigmoid(cls):
    objective = cls(normalise=0.15, normalise_end=0.01)
    sizes = [objective.at(progress).normalise for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] == pytest.approx(0.08)
    assert sizes[0] == pytest.approx(0.15, abs=1e-3)
    assert sizes[4] == pytest.approx(0.01, abs=1e-3)
    assert cls(normalise=0.1, normalise_end=0.1).at(0.7).normalise == pytest.approx(0.1)
    assert cls().at(0.7).normalise == 0
    if cls is DVRF:  # whose timestep falls too
        assert objective.at(0.5).min_step_percent == pytest.approx(0.5)


def test_controls_are_fields_of_every_objective():
    for cls in OBJECTIVES:
        assert set(CONTROLS) <= {field.name for field in fields(cls)}


class TestOnTheExactMixture:
    """Two Gaussians, one per prompt: ε(x_t, y_tgt) − ε(x_t, ∅) is known, and dies where noise has drowned both."""

    prior = GaussianMixturePrior(
        NoiseSchedule.scaled_linear(),
        torch.tensor([[-1.0, 0.3], [1.0, -0.4]]).double(),
        torch.full((2,), 0.3).double(),
        ("a red ball", "a blue cube"),
    )

    def deviation(self, step: int) -> float:
        """Of the prompt's share at x⁰ = m_src without noise."""
        t = torch.tensor([step])
        x0 = self.prior.means[0].reshape(1, 2, 1, 1)
        edit = random_edit(batch=1, shape=(2, 1, 1), t=t, s=t - 2, x0_tgt=x0, eps=torch.zeros(1, 2, 1, 1).double())
        x_t = SCHEDULE.add_noise(x0, t, edit.eps)
        under, without = self.prior.predict_noise([edit.query(x_t, edit.tgt_prompt, omega) for omega in (1.0, 0.0)])
        return float(deviations(under - without).flatten())

    def test_noise_drowns_the_prompt(self):
        assert self.deviation(990) < 0.1 < self.deviation(300)

    def test_redraws_leave_the_timesteps_at_which_the_prompt_counts(self):
        least = 0.5 * (self.deviation(300) + self.deviation(990))
        x0 = self.prior.means[:1].reshape(1, 2, 1, 1).expand(200, -1, -1, -1)
        generator, objective = torch.Generator().manual_seed(0), DDS(redraw_below=least, most_redraws=50)

        def draw(rows):
            t, s = objective.sample_timesteps(SCHEDULE, len(rows), generator)
            return t, s, torch.zeros(len(rows), 2, 1, 1).double(), torch.zeros(len(rows), 2, 1, 1).double()

        first = random_edit(batch=200, shape=(2, 1, 1), x0_tgt=x0, x0_src=x0)
        t, s, eps, eps_s = draw(range(200))
        step = take_step(objective, replace(first, t=t, s=s, eps=eps, eps_s=eps_s), lambda _: self.prior, draw)
        last = max(t for t in range(2, 1000, 7) if self.deviation(t) >= 0.9 * least)
        assert t.max() > last + 50
        assert step.edit.t.max() <= last + 7
        assert step.redraws > 1

    def test_under_normalisation_an_edit_still_ends_at_the_target(self):
        """DDS carries a point by the distance of the modes; steps of one size get there, and the falling size rests."""
        source = self.prior.means[:1].reshape(1, 2, 1, 1)
        x0, generator = source.clone(), torch.Generator().manual_seed(1)
        objective = DDS(guidance_scale=1.0, normalise=0.15, normalise_end=0.01)
        for step in range(300):
            now = objective.at(step / 300)
            t, s = now.sample_timesteps(SCHEDULE, 1, generator)
            eps = torch.randn(1, 2, 1, 1, generator=generator, dtype=torch.float64)
            edit = Edit(x0, source, "a red ball", "a blue cube", t, s, eps, eps)
            x0 = x0 - take_step(now, edit, lambda _: self.prior, no_draws).gradient
        torch.testing.assert_close(x0.flatten(), self.prior.means[1], rtol=0, atol=0.05)


def test_guidance_made_here_is_the_priors():
    """The witness guides by the same formula as a prior does."""
    edit = random_edit()
    x_t = SCHEDULE.add_noise(edit.x0_tgt, edit.t, edit.eps)
    asked = [edit.query(x_t, edit.tgt_prompt, omega) for omega in (0.0, 1.0, 7.5)]
    without, under, strong = FakePrior().predict_noise(asked)
    torch.testing.assert_close(guided(without, under, 7.5), strong)
