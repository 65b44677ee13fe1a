"""Adapters on one frozen U-Net: fresh ones change nothing, trained ones learn, the U-Net itself never moves."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.priors.adapters import Adapters
from pds_nerfstudio.priors.learning import LearningPrior, Lesson
from pds_nerfstudio.priors.load import load_prior


def query(adapter: str | None = None, seed: int = 0, prompt: str = "a red ball", guidance: float = 1.0) -> Query:
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed))
    return Query(x, torch.tensor([300, 700]), prompt, guidance, adapter)


def frozen(prior) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in prior.unet.state_dict().items() if "lora" not in name}


def train(prior, name: str, steps: int = 60) -> list[float]:
    """Learn to denoise one latent under one prompt."""
    x0 = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(9))
    generator, optimizer = torch.Generator().manual_seed(1), torch.optim.Adam(prior.adapters.parameters(name), lr=3e-2)
    losses = []
    for _ in range(steps):
        t = torch.randint(300, 700, (1,), generator=generator)
        eps = torch.randn(x0.shape, generator=generator)
        noisy = Query(prior.schedule.add_noise(x0, t, eps), t, "a red ball", adapter=name)
        loss = LearningPrior(prior, [Lesson(noisy, eps)]).losses()[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_fresh_adapters_predict_what_the_prior_predicts(folder):
    prior = load_prior(str(folder), "cpu")
    (before,) = prior.predict_noise([query()])
    prior.add_adapters(("source", "edited"), rank=4)
    answers = prior.predict_noise([query("source"), query(), query("edited")])
    for answer in answers:
        torch.testing.assert_close(answer, before)


def test_training_one_adapter_lowers_its_loss_and_leaves_the_other_and_the_unet_alone(folder):
    prior = load_prior(str(folder), "cpu")
    adapters = prior.add_adapters(("source", "edited"), rank=4)
    unet, other = frozen(prior), [p.clone() for p in adapters.parameters("edited")]
    plain = prior.predict_noise([query()])[0]
    losses = train(prior, "source")
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(torch.equal(value, unet[name]) for name, value in frozen(prior).items())
    assert all(torch.equal(a, b) for a, b in zip(adapters.parameters("edited"), other, strict=True))
    source, unchanged, edited = prior.predict_noise([query("source"), query(), query("edited")])
    assert torch.equal(unchanged, plain)
    assert not torch.allclose(source, plain)
    torch.testing.assert_close(edited, plain)


def test_queries_of_one_step_take_one_forward_pass_per_adapter_and_keep_their_order(folder, monkeypatch):
    prior = load_prior(str(folder), "cpu")
    prior.add_adapters(("source", "edited"), rank=4)
    train(prior, "source", steps=3)
    queries = [query(guidance=7.5), query("source", seed=1), query(seed=2, guidance=7.5), query("edited", seed=3)]
    alone = [prior.predict_noise([one])[0] for one in queries]
    calls, forward = [], prior.unet.forward
    monkeypatch.setattr(prior.unet, "forward", lambda *args, **kw: calls.append(len(args[0])) or forward(*args, **kw))
    together = prior.predict_noise(queries)
    assert calls == [8, 2, 2]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("same", [True, False])
def test_a_lesson_rides_in_the_pass_of_its_adapters_query(folder, monkeypatch, same):
    prior = load_prior(str(folder), "cpu")
    prior.add_adapters(("edited",), rank=4)
    train(prior, "edited", steps=3)
    lesson = Lesson(query("edited", seed=0 if same else 5), torch.randn(2, 4, 6, 6))
    queries = [query("edited"), query(guidance=7.5)]
    expected = prior.predict_noise(queries)
    alone = LearningPrior(prior, [lesson]).losses()["edited"]
    calls, forward = [], prior.unet.forward
    monkeypatch.setattr(prior.unet, "forward", lambda *args, **kw: calls.append(len(args[0])) or forward(*args, **kw))
    learning = LearningPrior(prior, [lesson])
    with torch.no_grad():
        answers = learning.predict_noise(queries)
    loss = learning.losses()["edited"]
    assert calls == [4, 2 if same else 4]
    for answer, other in zip(answers, expected, strict=True):
        assert not answer.requires_grad
        torch.testing.assert_close(answer, other, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loss, alone, atol=1e-6, rtol=1e-4)
    loss.backward()
    assert any(p.grad.abs().max() > 0 for p in prior.adapters.parameters("edited"))


def test_losses_of_both_adapters_go_backward_together(folder):
    prior = load_prior(str(folder), "cpu")
    adapters = prior.add_adapters(("source", "edited"), rank=4)
    learning = LearningPrior(prior, [Lesson(query(name), torch.randn(2, 4, 6, 6)) for name in ("source", "edited")])
    sum(learning.losses().values()).backward()
    for name in ("source", "edited"):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in adapters.parameters(name)), name
    assert all(p.grad is None for name, p in prior.unet.named_parameters() if "lora" not in name)


def test_adapters_of_a_unet_in_float16_learn_from_gradients_that_float16_cannot_hold(folder):
    gradients = []
    for dtype, weight in ((torch.float32, 1.0), (torch.float16, 1.0), (torch.float16, 2.0**-20)):
        prior = load_prior(str(folder), "cpu", dtype)
        adapters = prior.add_adapters(("source", "edited"), rank=4)
        for i, parameter in enumerate(adapters.parameters()):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(i))
        eps = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
        learning = LearningPrior(prior, [Lesson(query(name, seed=i), eps) for i, name in enumerate(adapters.names)])
        (weight * sum(learning.losses().values())).backward()
        gradients.append(torch.cat([p.grad.double().flatten() / weight for p in adapters.parameters()]))
    exact, half, small = gradients
    assert (half - exact).norm() < 0.02 * exact.norm()
    torch.testing.assert_close(small, half, atol=0, rtol=1e-6)


def test_adapters_are_saved_and_restored_and_others_refused(folder):
    prior, again = (load_prior(str(folder), "cpu") for _ in range(2))
    prior.add_adapters(("source", "edited"), rank=4)
    train(prior, "source", steps=3)
    again.add_adapters(("source", "edited"), rank=4, seed=5).load_state_dict(prior.adapters.state_dict())
    torch.testing.assert_close(again.predict_noise([query("source")])[0], prior.predict_noise([query("source")])[0])
    other = load_prior(str(folder), "cpu").add_adapters(("source", "edited"), rank=2)
    with pytest.raises(UserError, match="adapter-rank"):
        other.load_state_dict(prior.adapters.state_dict())


def test_what_cannot_be_adapted_is_refused_in_one_sentence(folder):
    prior = load_prior(str(folder), "cpu")
    with pytest.raises(UserError, match="rank is 0"):
        prior.add_adapters(("source",), rank=0)
    plain = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        mid_block_type=None,
    )
    with pytest.raises(UserError, match="cannot be adapted"):
        Adapters(plain, ("source",), rank=4)
    prior.add_adapters(("source",), rank=4)
    with pytest.raises(ValueError, match="no adapter 'edited'"):
        prior.predict_noise([query("edited")])
    with pytest.raises(ValueError, match="frozen"):
        Lesson(query(), torch.randn(2, 4, 6, 6))
    with pytest.raises(ValueError, match="without guidance"):
        Lesson(query("source", guidance=7.5), torch.randn(2, 4, 6, 6))
    with pytest.raises(ValueError, match="the one that learns"):
        prior.predict_with_graph([query()])
