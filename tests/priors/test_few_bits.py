"""Weights in eight and four bits: nearly the same predictions from fewer bytes, adapters included."""

import pytest
import torch
from tiny_priors import write_sd3, write_sdxl
from torch import nn

from pds_nerfstudio.objectives import Query
from pds_nerfstudio.priors import few_bits
from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.few_bits import BLOCK, FEWEST, LEVELS, bytes_of, to_few_bits
from pds_nerfstudio.priors.footprint import count
from pds_nerfstudio.priors.load import load_prior

PROMPT = "a photo of a red ball"


def asked(prior, adapter=None) -> Query:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, prior.latent_channels, 16, 16, generator=generator)
    return Query(latents, torch.tensor([300, 700]), PROMPT, 1.0, adapter=adapter)


BITS = pytest.mark.parametrize(("bits", "error"), [("8bit", 0.01), ("4bit", 0.1)])


def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most():
    layer = nn.Linear(64, 96)
    before = layer.weight.detach().clone().requires_grad_(False)
    layer.requires_grad_(False)
    to_few_bits(layer, "8bit")
    step = before.abs().amax(1, keepdim=True) / 127
    assert bool(((layer.weight - before).abs() <= step / 2 + 1e-7).all())
    assert bytes_of(layer) == 64 * 96 + 4 * 96 + 4 * 96  # bytes, scales, bias


def test_in_four_bits_a_weight_becomes_the_nearest_level_of_its_block():
    layer = nn.Conv2d(16, 32, 3).requires_grad_(False)
    before = layer.weight.detach().clone()
    to_few_bits(layer, "4bit")
    blocks = before.reshape(-1, BLOCK)
    levels = torch.tensor(LEVELS) * blocks.abs().amax(1, keepdim=True)
    nearest = (blocks[..., None] - levels[:, None]).abs().amin(-1)
    assert torch.allclose((layer.weight - before).reshape(-1, BLOCK).abs(), nearest, atol=1e-6)
    assert bytes_of(layer) == before.numel() // 2 + 4 * before.numel() // BLOCK + 4 * 32  # pairs, scales, bias


def test_the_levels_are_those_that_a_normal_distribution_fills_alike():
    """The paper's rule: means of neighbouring quantiles, of one half with a level more, so that zero is one of them."""
    normal, end = torch.distributions.Normal(0.0, 1.0), 0.9677083
    above, below = (normal.icdf(torch.linspace(end, 0.5, count))[:-1] for count in (9, 8))
    levels = torch.cat([-below, torch.zeros(1), above.flip(0)])
    assert torch.allclose(torch.tensor(LEVELS), levels / levels.abs().max(), atol=1e-6)


@BITS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-3])
def test_small_weights_in_half_precision_are_as_near(dtype, size, bits, error):
    layer = nn.Linear(64, 96).requires_grad_(False)
    layer.weight.mul_(size)
    layer.to(dtype)
    before = layer.weight.detach().float()
    to_few_bits(layer, bits)
    assert layer.weight.dtype == dtype
    assert float((layer.weight.float() - before).norm() / before.norm()) < error


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_channel_of_zeros_and_small_layers_stay_what_they_are(bits):
    layer, small = nn.Conv2d(64, 8, 3).requires_grad_(False), nn.Linear(8, FEWEST // 8 - 1).requires_grad_(False)
    layer.weight[0] = 0
    kept = small.weight
    to_few_bits(nn.Sequential(layer, small), bits)
    assert bool((layer.weight[0] == 0).all())
    assert bool(layer.weight.isfinite().all())
    assert small.weight is kept


@pytest.mark.parametrize(("bits", "error", "share"), [("8bit", 0.02, 0.27), ("4bit", 0.1, 0.17)])
def test_predictions_are_nearly_those_of_whole_weights(bits, error, share):
    whole, small = load_prior("toybox", "cpu"), load_prior("toybox", "cpu", weights=bits)
    (a,), (b,) = (prior.predict_noise([asked(prior)]) for prior in (whole, small))
    assert float((a - b).norm() / a.norm()) < error
    assert not torch.equal(a, b)
    assert bytes_of(small.denoiser) < share * bytes_of(whole.denoiser)  # of float32
    assert small.dtype == whole.dtype


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_adapters_learn_on_top(bits):
    prior = load_prior("toybox", "cpu", weights=bits)
    prior.add_adapters(("edited",), 4)
    (predicted,) = prior.predict_with_graph([asked(prior, "edited")])
    predicted.square().mean().backward()
    assert any(float(parameter.grad.abs().sum()) > 0 for parameter in prior.adapters.parameters("edited"))


@pytest.mark.parametrize("write", [write_sdxl, write_sd3])
def test_larger_families_are_stored_so_too(tmp_path, monkeypatch, write):
    monkeypatch.setattr(few_bits, "FEWEST", 1)
    folder = write(tmp_path / "prior")
    whole, small = load_prior(str(folder), "cpu"), load_prior(str(folder), "cpu", weights="8bit")
    (a,), (b,) = (prior.predict_noise([asked(prior)]) for prior in (whole, small))
    assert 0 < float((a - b).norm() / a.norm()) < 0.05
    if write is write_sd3:
        assert bytes_of(small.text_encoder_3) < 0.6 * bytes_of(whole.text_encoder_3)


def test_what_is_saved_is_counted():
    kinds = ("full", "8bit", "4bit")
    whole, small, smaller = (count(TOYBOX, 64, 64, dtype=torch.float16, stored=stored) for stored in kinds)
    assert smaller.weights < small.weights < whole.weights
    assert smaller.kept_by_encoder == small.kept_by_encoder == whole.kept_by_encoder
