"""Weights in eight bits: nearly the same predictions from half the bytes, adapters included."""

import pytest
import torch
from tiny_priors import write_sd3, write_sdxl
from torch import nn

from pds_nerfstudio.objectives import Query
from pds_nerfstudio.priors import eight_bit
from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.eight_bit import FEWEST, bytes_of, to_eight_bits
from pds_nerfstudio.priors.footprint import count
from pds_nerfstudio.priors.load import load_prior

PROMPT = "a photo of a red ball"


def asked(prior, adapter=None) -> Query:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, prior.latent_channels, 16, 16, generator=generator)
    return Query(latents, torch.tensor([300, 700]), PROMPT, 1.0, adapter=adapter)


def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most():
    layer = nn.Linear(64, 96)
    before = layer.weight.detach().clone().requires_grad_(False)
    layer.requires_grad_(False)
    to_eight_bits(layer)
    step = before.abs().amax(1, keepdim=True) / 127
    assert bool(((layer.weight - before).abs() <= step / 2 + 1e-7).all())
    assert bytes_of(layer) == 64 * 96 + 4 * 96 + 4 * 96  # bytes, scales, bias


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-3])
def test_small_weights_in_half_precision_are_as_near(dtype, size):
    layer = nn.Linear(64, 96).requires_grad_(False)
    layer.weight.mul_(size)
    layer.to(dtype)
    before = layer.weight.detach().float()
    to_eight_bits(layer)
    assert layer.weight.dtype == dtype
    assert float((layer.weight.float() - before).norm() / before.norm()) < 0.01


def test_a_channel_of_zeros_and_small_layers_stay_what_they_are():
    layer, small = nn.Conv2d(64, 8, 3).requires_grad_(False), nn.Linear(8, FEWEST // 8 - 1).requires_grad_(False)
    layer.weight[0] = 0
    kept = small.weight
    to_eight_bits(nn.Sequential(layer, small))
    assert bool((layer.weight[0] == 0).all())
    assert bool(layer.weight.isfinite().all())
    assert small.weight is kept


def test_predictions_are_nearly_those_of_whole_weights():
    whole, small = load_prior("toybox", "cpu"), load_prior("toybox", "cpu", weights="8bit")
    (a,), (b,) = (prior.predict_noise([asked(prior)]) for prior in (whole, small))
    assert float((a - b).norm() / a.norm()) < 0.02
    assert not torch.equal(a, b)
    assert bytes_of(small.denoiser) < 0.27 * bytes_of(whole.denoiser)  # of float32
    assert small.dtype == whole.dtype


def test_adapters_learn_on_top():
    prior = load_prior("toybox", "cpu", weights="8bit")
    prior.add_adapters(("edited",), 4)
    (predicted,) = prior.predict_with_graph([asked(prior, "edited")])
    predicted.square().mean().backward()
    assert any(float(parameter.grad.abs().sum()) > 0 for parameter in prior.adapters.parameters("edited"))


@pytest.mark.parametrize("write", [write_sdxl, write_sd3])
def test_larger_families_are_stored_so_too(tmp_path, monkeypatch, write):
    monkeypatch.setattr(eight_bit, "FEWEST", 1)
    folder = write(tmp_path / "prior")
    whole, small = load_prior(str(folder), "cpu"), load_prior(str(folder), "cpu", weights="8bit")
    (a,), (b,) = (prior.predict_noise([asked(prior)]) for prior in (whole, small))
    assert 0 < float((a - b).norm() / a.norm()) < 0.05
    if write is write_sd3:
        assert bytes_of(small.text_encoder_3) < 0.6 * bytes_of(whole.text_encoder_3)


def test_what_is_saved_is_counted():
    whole, small = (count(TOYBOX, 64, 64, dtype=torch.float16, stored=stored) for stored in ("full", "8bit"))
    assert small.weights < whole.weights
    assert small.kept_by_encoder == whole.kept_by_encoder
