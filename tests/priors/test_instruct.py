"""InstructPix2Pix: its two guidances against diffusers' own pipeline, and what toybox's file may hold."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import Prior, Query
from pds_nerfstudio.priors import instruct
from pds_nerfstudio.priors.instruct import load_instruct, widened, with_toybox_weights
from pds_nerfstudio.priors.load import load_prior

PROMPT = "a photo of a blue ball"


@pytest.fixture(scope="module")
def editing():
    """The toybox prior, taught at random to look at its picture."""
    prior = widened(load_prior("toybox", "cpu", purpose="editing"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = prior.unet.conv_in.weight
        weight[:, 4:] = 0.05 * torch.randn(weight[:, 4:].shape, generator=generator)
    return prior


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_its_guidances_are_those_of_diffusers_pipeline(editing, picture):
    from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline

    scheduler = DDIMScheduler.from_config(editing.scheduler.config)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=editing.vae,
        text_encoder=editing.text_encoder,
        tokenizer=editing.tokenizer,
        unet=editing.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    wanted = pipeline(
        PROMPT,
        image=picture,
        num_inference_steps=3,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        latents=noise.clone(),
        output_type="latent",
    ).images

    shown = editing.shown(editing.encode(picture), image_guidance=1.5)
    assert isinstance(shown, Prior)
    scheduler.set_timesteps(3)
    latents = noise
    for t in scheduler.timesteps:
        (eps_hat,) = shown.predict_noise([Query(latents, t[None], PROMPT, 7.5)])
        latents = scheduler.step(eps_hat, t, latents).prev_sample
    torch.testing.assert_close(latents, wanted, rtol=1e-3, atol=1e-4)


def test_before_it_has_learned_to_look_it_is_the_prior(picture):
    prior = load_prior("toybox", "cpu", purpose="editing")
    x_t, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([400])
    (wanted,) = prior.predict_noise([Query(x_t, t, PROMPT, 5.0)])
    shown = widened(prior).shown(torch.ones_like(x_t), image_guidance=1.5)
    (found,) = shown.predict_noise([Query(x_t, t, PROMPT, 5.0)])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_queries_of_one_batch_are_answered_as_alone(editing, picture):
    shown = editing.shown(editing.encode(picture), image_guidance=1.2)
    x = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    queries = [Query(x[i], torch.tensor([100 + i]), PROMPT, 3.0 + i) for i in range(2)]
    together = shown.predict_noise(queries)
    for query, answer in zip(queries, together, strict=True):
        torch.testing.assert_close(shown.predict_noise([query])[0], answer, rtol=1e-4, atol=1e-4)


def test_toyboxs_file_is_small_holds_the_whole_network_and_loads_by_name():
    assert instruct.TOYBOX_INSTRUCT.stat().st_size < 10e6
    own = load_file(instruct.TOYBOX_INSTRUCT)
    for name, value in load_instruct("toybox", "cpu").unet.state_dict().items():
        assert torch.equal(value, own[name].float()), name


def test_a_file_of_other_layers_is_refused(tmp_path):
    path = tmp_path / "unet.safetensors"
    save_file({"conv_in.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="does not belong"):
        with_toybox_weights(load_prior("toybox", "cpu", purpose="editing"), path)


def test_a_prior_that_takes_no_picture_is_refused():
    from pds_nerfstudio.priors.check import TOYBOX

    with pytest.raises(UserError, match="takes 4 channels and so no picture"):
        load_instruct(str(TOYBOX), "cpu")


def test_a_missing_toybox_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(instruct, "TOYBOX_INSTRUCT", tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"train_toybox_instruct\.py"):
        load_instruct("toybox", "cpu")
