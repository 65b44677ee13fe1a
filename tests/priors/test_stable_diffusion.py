"""The prior against diffusers' own classes at toy size."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import NoiseSchedule, Prior, Query
from pds_nerfstudio.priors.dialect import Dialect
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

PROMPTS = ("a red ball", "a blue cube")


def latents(batch: int, height: int = 6, width: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed))


def images(batch: int, height: int = 24, width: int = 40) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def queries() -> list[Query]:
    """Different batch sizes, timesteps, prompts and guidance."""
    return [
        Query(latents(2, seed=1), torch.tensor([21, 979]), PROMPTS[0], 100.0),
        Query(latents(1, seed=2), torch.tensor([500]), PROMPTS[1], 1.0),
        Query(latents(3, seed=3), torch.tensor([0, 1, 999]), PROMPTS[1], 7.5),
    ]


@pytest.fixture
def rows(prior) -> list[int]:
    """Batch size of every U-Net call, in order."""
    calls: list[int] = []
    prior.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    return calls


@torch.no_grad()
def by_hand(prior: StableDiffusionPrior, query: Query) -> torch.Tensor:
    """ε̂ of an epsilon prior by two separate calls of the U-Net and the text encoder."""

    def one(prompt: str) -> torch.Tensor:
        ids = prior.tokenizer([prompt], padding="max_length", max_length=12, return_tensors="pt").input_ids
        text = prior.text_encoder(ids)[0].repeat(len(query.t), 1, 1)
        return prior.unet(query.noisy_latents, query.t, encoder_hidden_states=text).sample

    return (1 - query.guidance_scale) * one("") + query.guidance_scale * one(query.prompt)


def test_the_prior_is_what_an_objective_asks_for(prior):
    assert isinstance(prior, Prior)


def test_prediction_equals_calling_the_unet_by_hand(prior):
    for query, prediction in zip(queries(), prior.predict_noise(queries()), strict=True):
        torch.testing.assert_close(prediction, by_hand(prior, query), rtol=1e-4, atol=1e-4)


def test_the_prompt_reaches_the_prediction(prior):
    red, blue = prior.predict_noise([Query(latents(1), torch.tensor([500]), prompt) for prompt in PROMPTS])
    assert (red - blue).abs().max() > 1e-6


def test_batch_equals_singles(prior):
    together = prior.predict_noise(queries())
    for query, prediction in zip(queries(), together, strict=True):
        for i in range(len(query.t)):
            single = Query(query.noisy_latents[i : i + 1], query.t[i : i + 1], query.prompt, query.guidance_scale)
            torch.testing.assert_close(prior.predict_noise([single])[0], prediction[i : i + 1], rtol=1e-4, atol=1e-4)


def test_all_queries_go_through_one_unet_call_and_guidance_one_adds_no_unconditional_rows(prior, rows):
    prior.predict_noise(queries())
    assert rows == [2 * 2 + 1 + 2 * 3]


def test_guidance_zero_is_the_unconditional_prediction(prior):
    t = torch.tensor([300, 600])
    unguided, empty = prior.predict_noise([Query(latents(2), t, PROMPTS[0], 0.0), Query(latents(2), t, "", 1.0)])
    torch.testing.assert_close(unguided, empty, rtol=1e-5, atol=1e-6)


def test_each_prompt_is_encoded_once(prior):
    calls = []
    prior.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    for _ in range(3):
        prior.predict_noise(queries())
    assert len(calls) == len({"", *PROMPTS})


def test_other_dialects_give_the_noise_of_a_known_latent_and_commute_with_guidance(prior, monkeypatch):
    """The U-Net is replaced by one that knows (x⁰, ε) of each half, both consistent with x_t."""
    t = torch.tensor([10, 500, 990])
    alpha_bar = prior.scheduler.alphas_cumprod[t][:, None, None, None]
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x_t, eps_empty, eps_text = latents(3, seed=4), latents(3, seed=5), latents(3, seed=6)
    for dialect in ("epsilon", "v_prediction", "sample", "flow"):
        replies = []
        for eps in (eps_empty, eps_text):
            x0 = (x_t - noise * eps) / signal
            answers = {"epsilon": eps, "v_prediction": signal * eps - noise * x0, "sample": x0, "flow": eps - x0}
            replies.append(answers[dialect])
        output = SimpleNamespace(sample=torch.cat(replies))
        monkeypatch.setattr(prior.unet, "forward", lambda *args, output=output: output)
        prior.dialect = Dialect(prior.schedule, dialect)
        (prediction,) = prior.predict_noise([Query(x_t, t, PROMPTS[0], 3.0)])
        torch.testing.assert_close(prediction, eps_empty + 3 * (eps_text - eps_empty), rtol=1e-3, atol=1e-3)


def test_a_velocity_folder_is_read_as_one(folder, velocity_folder):
    """Both folders hold the same weights; only the meaning of the output differs: ε = √ᾱ v + √(1−ᾱ) x_t."""
    query = Query(latents(2), torch.tensor([100, 900]), PROMPTS[0], 5.0)
    (raw,) = load_prior(str(folder), "cpu").predict_noise([query])
    (eps,) = load_prior(str(velocity_folder), "cpu").predict_noise([query])
    alpha_bar = DDIMScheduler.from_pretrained(velocity_folder, subfolder="scheduler").alphas_cumprod[query.t]
    alpha_bar = alpha_bar[:, None, None, None]
    torch.testing.assert_close(eps, alpha_bar.sqrt() * raw + (1 - alpha_bar).sqrt() * query.noisy_latents)


def test_predictions_come_back_in_the_querys_dtype_without_a_graph(prior):
    x_t = latents(1).double().requires_grad_()
    (prediction,) = prior.predict_noise([Query(x_t, torch.tensor([7]), PROMPTS[0], 2.0)])
    assert prediction.dtype == torch.float64
    assert not prediction.requires_grad


def test_the_schedule_is_the_folders_in_more_digits_than_diffusers_keeps(prior):
    expected = NoiseSchedule.scaled_linear()
    t = torch.arange(1000)
    torch.testing.assert_close(prior.schedule.beta(t), expected.beta(t), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        prior.schedule.alphas_cumprod, prior.scheduler.alphas_cumprod.double(), rtol=1e-4, atol=0
    )


def test_everything_is_frozen(prior):
    for network in (prior.vae, prior.unet, prior.text_encoder):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_encode_is_the_scaled_posterior_mean(prior):
    x = images(2)
    with torch.no_grad():
        expected = prior.vae.encode(2 * x - 1).latent_dist.mean * 0.7
    torch.testing.assert_close(prior.encode(x), expected)
    assert prior.encode(x).shape == (2, 4, 6, 10)


def test_a_shift_factor_is_taken_off_and_put_back(prior):
    plain, decoded = prior.encode(images(1)), prior.decode(latents(1))
    prior.vae.register_to_config(shift_factor=0.5)
    torch.testing.assert_close(prior.encode(images(1)), plain - 0.5 * 0.7)
    torch.testing.assert_close(prior.decode(latents(1) - 0.5 * 0.7), decoded)


def test_sampling_the_posterior_follows_the_generator_around_the_mean(prior):
    x = images(1)
    first, again = (prior.encode(x, torch.Generator().manual_seed(3)) for _ in range(2))
    other = prior.encode(x, torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    draws = torch.stack([prior.encode(x, torch.Generator().manual_seed(i)) for i in range(64)])
    with torch.no_grad():
        std = prior.vae.encode(2 * x - 1).latent_dist.std * 0.7
    assert ((draws.mean(0) - prior.encode(x)).abs() < 6 * std / 8).all()


def encoder_gradient(prior: StableDiffusionPrior) -> tuple[torch.Tensor, int]:
    """Gradient of a fixed function of the latents with respect to the image, and the bytes its graph kept."""
    image = images(1).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x0 = prior.encode(image)
    (gradient,) = torch.autograd.grad((x0 * torch.arange(x0.numel()).reshape(x0.shape).cos()).sum(), image)
    return gradient, sum(kept.values())


def test_gradients_reach_every_pixel_and_match_finite_differences(prior):
    prior.vae.double()
    image = images(1, 8, 8).double().requires_grad_()
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = latents(1, 2, 2)
    (gradient,) = torch.autograd.grad((prior.encode(image) * weights).sum(), image)
    assert (gradient != 0).all()
    with torch.no_grad():
        ahead, behind = (prior.encode(image + step * direction) for step in (1e-3, -1e-3))
    slope = ((ahead - behind) * weights).sum() / 2e-3
    torch.testing.assert_close((gradient * direction).sum().float(), slope, rtol=5e-3, atol=1e-4)


def test_recomputation_keeps_less_and_gives_the_same_gradients(folder):
    plain, kept = encoder_gradient(load_prior(str(folder), "cpu"))
    recomputed, kept_recomputing = encoder_gradient(load_prior(str(folder), "cpu", recompute_encoder=True))
    torch.testing.assert_close(recomputed, plain)
    assert kept_recomputing < kept / 3


def test_encoding_without_a_graph_records_none(prior):
    assert not prior.encode(images(1)).requires_grad


@pytest.mark.parametrize(("height", "width"), [(4, 4), (12, 20), (28, 36), (52, 8)])
def test_any_multiple_of_the_latent_stride_works(prior, height, width):
    x0 = prior.encode(images(1, height, width))
    assert x0.shape == (1, 4, height // 4, width // 4)
    (eps,) = prior.predict_noise([Query(x0, torch.tensor([500]), PROMPTS[0], 2.0)])
    assert eps.shape == x0.shape
    assert prior.decode(eps).shape == (1, 3, height, width)


def test_other_sizes_are_refused(prior):
    with pytest.raises(ValueError, match="multiples of the latent stride 4"):
        prior.encode(images(1, 24, 42))
    with pytest.raises(ValueError, match="multiples of the latent stride 4"):
        prior.sample(PROMPTS, 24, 42)


def test_decoded_pictures_are_in_range(prior):
    decoded = prior.decode(100 * latents(2))
    assert decoded.min() == 0
    assert decoded.max() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32_and_the_vae_stays_in_float32(folder, dtype):
    prior = load_prior(str(folder), "cpu", dtype=dtype)
    assert prior.unet.dtype == prior.text_encoder.dtype == dtype
    assert prior.vae.dtype == torch.float32
    reference = load_prior(str(folder), "cpu")
    query = Query(latents(2), torch.tensor([30, 900]), PROMPTS[0])
    (prediction,), (expected,) = prior.predict_noise([query]), reference.predict_noise([query])
    assert prediction.dtype == torch.float32
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(prediction, expected, rtol=rounding, atol=rounding)
    assert torch.equal(prior.encode(images(1)), reference.encode(images(1)))


def test_the_vae_may_run_in_bfloat16_and_not_in_float16(folder):
    prior = load_prior(str(folder), "cpu", vae_dtype=torch.bfloat16)
    x0 = prior.encode(images(1))
    assert x0.dtype == torch.float32
    torch.testing.assert_close(x0, load_prior(str(folder), "cpu").encode(images(1)), rtol=0.1, atol=0.1)
    with pytest.raises(UserError, match="use float32 or bfloat16"):
        load_prior(str(folder), "cpu", vae_dtype=torch.float16)


def test_the_trainers_autocast_does_not_reach_the_networks(prior):
    query = Query(latents(1), torch.tensor([500]), PROMPTS[0], 3.0)
    x0, decoded, (eps,) = prior.encode(images(1)), prior.decode(latents(1)), prior.predict_noise([query])
    prior._texts.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(prior.encode(images(1)), x0)
        assert torch.equal(prior.decode(latents(1)), decoded)
        assert torch.equal(prior.predict_noise([query])[0], eps)


def test_a_long_prompt_is_cut_with_a_warning(prior):
    with pytest.warns(UserWarning, match="tokens and the prior reads 12"):
        prior.embed("a red ball " * 10)


def test_queries_that_cannot_share_a_batch_are_refused(prior):
    t = torch.tensor([500])
    with pytest.raises(ValueError, match="one size"):
        prior.predict_noise([Query(latents(1), t, "a"), Query(latents(1, 8, 8), t, "a")])
    with pytest.raises(ValueError, match="adapter"):
        prior.predict_noise([Query(latents(1), t, "a", adapter="source")])


@pytest.mark.parametrize("name", ["folder", "velocity_folder"])
def test_samples_equal_those_of_diffusers_own_pipeline(name, request):
    folder = request.getfixturevalue(name)
    prior = load_prior(str(folder), "cpu")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(5))
    expected = pipeline(
        list(PROMPTS), 24, 40, num_inference_steps=4, guidance_scale=5.0, latents=noise, output_type="pt"
    ).images
    samples = prior.sample(PROMPTS, 24, 40, 4, 5.0, torch.Generator().manual_seed(5))
    torch.testing.assert_close(samples, expected, rtol=1e-3, atol=1e-3)


def test_sampling_follows_the_generator(prior):
    first, again, other = (prior.sample(PROMPTS, 16, 16, 3, 2.0, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_of_another_architecture_are_an_error_and_not_random_numbers(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "prior")
    config = tmp_path / "prior" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layers_per_block": 2}))
    with pytest.raises(UserError, match="must come from the same model"):
        load_prior(str(tmp_path / "prior"), "cpu")


def test_a_folder_with_half_precision_file_names_loads(folder, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    assert (tmp_path / "half" / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()
    prior = load_prior(str(tmp_path / "half"), "cpu")
    expected = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").half().float()
    assert torch.equal(prior.unet.conv_in.weight, expected.conv_in.weight)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_in_float16_agrees_with_the_cpu(folder):
    on_cuda, on_cpu = load_prior(str(folder), "cuda"), load_prior(str(folder), "cpu")
    assert on_cuda.unet.dtype == torch.float16
    assert on_cuda.vae.dtype == torch.float32
    query = Query(latents(2), torch.tensor([30, 900]), PROMPTS[0], 7.5)
    moved = Query(query.noisy_latents.cuda(), query.t.cuda(), query.prompt, 7.5)
    with torch.autocast("cuda", dtype=torch.float16):
        (prediction,) = on_cuda.predict_noise([moved])
        x0 = on_cuda.encode(images(1).cuda())
    torch.testing.assert_close(prediction.cpu(), on_cpu.predict_noise([query])[0], rtol=0.05, atol=0.05)
    torch.testing.assert_close(x0.cpu(), on_cpu.encode(images(1)), rtol=1e-2, atol=1e-2)
