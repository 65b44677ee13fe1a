"""Words found by a prior's cross-attention, and what looking must not change."""

import pytest
import torch
from tiny_priors import write_sd3, write_sdxl

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.priors.attention import attention_map, recorded, rows_and_columns, token_places
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.prompts import Sought, sought
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import render
from pds_nerfstudio.toybox.spec import SceneSpec

BALL = Sought("a photo of a red ball", "ball")


@pytest.fixture(scope="module")
def prior():
    return load_prior("toybox", "cpu")


@pytest.fixture(scope="module")
def views():
    return render(SceneSpec("ball", "red"), capture_cameras(4, 0), 64, 64)


def query(prior) -> Query:
    generator = torch.Generator().manual_seed(0)
    size = prior.denoiser.config.sample_size
    latents = torch.randn(2, prior.latent_channels, size, size, generator=generator)
    return Query(latents, torch.full((2,), 500), BALL.prompt, 1.0)


def test_words_are_looked_for_in_the_source_prompt_where_it_has_them():
    assert sought("The  ball", "a photo of a red Ball") == Sought("a photo of a red Ball", "Ball")
    assert sought("red ball", "a photo of a red ball on a floor").without == "a photo of a on a floor"
    assert sought("a cat", "a photo of a caterpillar") == Sought("cat", "cat")
    assert sought("a cat", "a photo of a caterpillar").without == ""


def test_the_ball_is_looked_at_more_than_what_is_around_it(prior, views):
    found = attention_map(prior, prior.encode(views.image.permute(0, 3, 1, 2)), BALL)
    assert found.shape == (4, 16, 16)
    assert found.min() >= 0
    assert found.max() <= 1
    inside = torch.nn.functional.avg_pool2d(views.mask[:, None], 4)[:, 0] > 0.9
    for one, here in zip(found, inside, strict=True):
        assert one[here].mean() > 1.5 * one[~here].mean()


def test_what_is_read_of_all_tokens_adds_up_to_one(prior):
    with recorded(prior, list(range(prior.tokenizer.model_max_length)), (16, 16)) as layers:
        prior.predict_noise([query(prior)])
    assert set(layers) == {4, 8}
    for maps in layers.values():
        for one in maps:
            mean = torch.full_like(one, 1 / prior.tokenizer.model_max_length)
            torch.testing.assert_close(one, mean)


def test_looking_changes_no_prediction_and_is_over_also_after_an_error(prior):
    before, plain = dict(prior.denoiser.attn_processors), prior.predict_noise([query(prior)])[0]

    def fail_while_looking() -> None:
        with recorded(prior, [5], (16, 16)):
            assert torch.equal(prior.predict_noise([query(prior)])[0], plain)
            assert prior.denoiser.attn_processors != before
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_while_looking()
    assert prior.denoiser.attn_processors == before


def test_words_are_the_tokens_of_the_prompt_that_say_them(prior):
    asked = sought("flat can", "a photo of a green flat can")
    names = [
        prior.tokenizer.convert_ids_to_tokens(prior.token_ids(asked.prompt)[0, i].item())
        for i in token_places(prior, asked)
    ]
    assert names == ["flat</w>", "can</w>"]
    with pytest.raises(UserError, match="too long"), pytest.warns(UserWarning, match="its end is ignored"):
        token_places(prior, sought("ball", "a photo of a red " * 10 + "ball"))


def test_sdxl_is_looked_at_as_well(tmp_path):
    prior = load_prior(str(write_sdxl(tmp_path / "sdxl")), "cpu")
    found = attention_map(prior, query(prior).noisy_latents, BALL)
    assert found.shape == query(prior).noisy_latents[:, 0].shape
    assert found.std() > 0


def test_a_transformer_is_refused_in_a_sentence(tmp_path):
    prior = load_prior(str(write_sd3(tmp_path / "sd3")), "cpu")
    with pytest.raises(UserError, match="region-by difference"):
        attention_map(prior, torch.zeros(1, prior.latent_channels, 8, 8), BALL)


def test_layers_halve_the_latents_size():
    assert rows_and_columns(64 * 96, 64, 96) == (64, 96)
    assert rows_and_columns(17 * 25, 67, 100) == (17, 25)
    with pytest.raises(ValueError, match="no picture"):
        rows_and_columns(7, 16, 16)
