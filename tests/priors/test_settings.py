"""Settings of the prior that save time or memory: a tiny encoder, channels last, compilation."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.images import to_channels_first
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.tiny import check_encoder
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import render
from pds_nerfstudio.toybox.spec import SceneSpec


def write_tiny(folder, blocks: int = 3):
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * blocks,
        decoder_block_out_channels=(8,) * blocks,
        num_encoder_blocks=(1,) * blocks,
        num_decoder_blocks=(1,) * blocks,
    ).save_pretrained(folder)
    return str(folder)


def image_gradient(prior, image: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of a picture, and a gradient on it."""
    if image is None:
        image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    image.requires_grad_()
    latents = prior.encode(image)
    weight = torch.linspace(-1, 1, latents.numel()).view_as(latents)
    (gradient,) = torch.autograd.grad((weight * latents).sum(), image)
    return latents.detach(), gradient


def test_a_tiny_encoder_encodes_in_place_of_the_vae_and_decoding_stays(folder, tmp_path):
    plain, tiny = load_prior(str(folder), "cpu"), load_prior(str(folder), "cpu", encoder=write_tiny(tmp_path / "tiny"))
    (latents, _gradient), (own, own_gradient) = image_gradient(plain), image_gradient(tiny)
    assert own.shape == latents.shape
    assert own_gradient.any()
    assert not torch.allclose(own, latents)
    torch.testing.assert_close(tiny.decode(latents), plain.decode(latents))
    assert not any(parameter.requires_grad for parameter in tiny.tiny.parameters())


def test_toyboxs_encoder_is_nearly_that_of_its_vae_in_latents_and_gradients():
    scene = SceneSpec("man", "green", hat=True)
    image = to_channels_first(render(scene, capture_cameras(1, 3), 64, 64).image)
    plain, tiny = load_prior("toybox", "cpu"), load_prior("toybox", "cpu", encoder="toybox")
    (latents, gradient), (own, own_gradient) = image_gradient(plain, image), image_gradient(tiny, image)
    assert (own - latents).square().mean().sqrt() < 0.15 * latents.std()
    assert torch.cosine_similarity(own_gradient.flatten(), gradient.flatten(), dim=0) > 0.95


def test_an_encoder_for_another_stride_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="4 channels of 8 pixels and the prior's VAE 4 of 4"):
        load_prior(str(folder), "cpu", encoder=write_tiny(tmp_path / "tiny", blocks=4))


def test_an_encoder_that_does_not_fit_is_refused_by_its_configuration_alone(folder, tmp_path):
    with pytest.raises(UserError, match="4 channels of 8 pixels and the prior's VAE 4 of 4"):
        check_encoder(write_tiny(tmp_path / "tiny", blocks=4), folder)
    with pytest.raises(UserError, match="is no AutoencoderTiny but AutoencoderKL"):
        check_encoder(str(folder / "vae"), folder)


def test_an_encoder_whose_configuration_says_little_has_diffusers_defaults(folder, tmp_path):
    tiny = Path(write_tiny(tmp_path / "tiny"))
    (tiny / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    with pytest.raises(UserError, match="4 channels of 8 pixels and the prior's VAE 4 of 4"):
        check_encoder(str(tiny), folder)


@pytest.mark.parametrize("name", ["no_such_folder", "/no/such/folder", "./a/b"])
def test_an_encoder_that_is_nowhere_is_refused_before_anything_is_loaded(name):
    with pytest.raises(UserError, match="neither an existing folder nor a hub id"):
        check_encoder(name)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        check_encoder(str(tmp_path))


def test_channels_last_changes_no_prediction_and_no_gradient(folder):
    plain, last = load_prior(str(folder), "cpu"), load_prior(str(folder), "cpu", channels_last=True)
    assert last.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    for expected, actual in zip(image_gradient(plain), image_gradient(last), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    query = Query(torch.randn(1, 4, 6, 6), torch.tensor([500]), "a red ball", 7.5)
    torch.testing.assert_close(*(prior.predict_noise([query])[0] for prior in (plain, last)), atol=1e-5, rtol=1e-4)


def test_unet_and_encoder_compile_without_a_graph_break(prior):
    def traced(network):
        return torch.compile(network, backend="eager", fullgraph=True)  # raises where the graph would break

    expected, gradient = image_gradient(prior)
    query = Query(torch.randn(1, 4, 6, 6), torch.tensor([500]), "a red ball", 7.5)
    (predicted,) = prior.predict_noise([query])
    prior.unet.forward, prior.vae.encoder.forward = traced(prior.unet.forward), traced(prior.vae.encoder.forward)
    torch.testing.assert_close(prior.predict_noise([query])[0], predicted)
    for value, wanted in zip(image_gradient(prior), (expected, gradient), strict=True):
        torch.testing.assert_close(value, wanted)
