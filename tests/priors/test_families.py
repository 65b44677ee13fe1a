"""Stable Diffusion XL and 3 against diffusers' own pipelines, on the same weights and the same noise."""

import json
import math
import shutil

import pytest
import torch
from diffusers import FluxPipeline, ModelMixin
from safetensors.torch import save_file
from tiny_priors import PROMPTS, write_flux, write_sana, write_sd3, write_sdxl

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import DDS, PDS, Edit, Query
from pds_nerfstudio.priors.check import check_prior
from pds_nerfstudio.priors.extras import check_extras_of
from pds_nerfstudio.priors.flux import FluxPrior, pack, places, unpack
from pds_nerfstudio.priors.folder import size_multiple, trained_size
from pds_nerfstudio.priors.footprint import count
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.recipe import recipe_of
from pds_nerfstudio.priors.sana import TOKENS, SanaPrior
from pds_nerfstudio.prompts import require_read_differently

WRITE = {"sdxl": write_sdxl, "sd3": write_sd3, "sana": write_sana, "flux": write_flux}
GUIDED = ("sdxl", "sd3", "sana")
"""Those that score distillation can use."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """By family."""
    place = tmp_path_factory.mktemp("families")
    return {name: write(place / name) for name, write in WRITE.items()}


@pytest.fixture(params=WRITE)
def prior(request, folders):
    return load_prior(str(folders[request.param]), "cpu", purpose="refinement")


@pytest.fixture(params=(*GUIDED, "toybox"))
def family_or_toybox(request, folders):
    return str(folders.get(request.param, request.param))


def latents(prior, batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, prior.latent_channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_sampling_is_that_of_diffusers_own_pipeline(prior):
    asked = {"num_inference_steps": 5, "guidance_scale": 4.0, "height": 32, "width": 32, "output_type": "pt"}
    if isinstance(prior, SanaPrior):
        asked["use_resolution_binning"] = False  # to the sizes that it was trained with
    pipeline = prior.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(list(PROMPTS), generator=torch.Generator().manual_seed(7), **asked).images
    ours = prior.sample(list(PROMPTS), 32, 32, 5, 4.0, torch.Generator().manual_seed(7))
    assert (theirs[0] - theirs[1]).abs().max() > 1e-3  # the prompts are read
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_predicted_noise_is_what_the_pipelines_network_says_of_the_same_latent(prior):
    """Asked through ᾱ and ε, the answer is the network's own at its own noisy latent and time."""
    x0, eps = latents(prior, 2, 1), latents(prior, 2, 2)
    t = torch.tensor([200, 900])
    seen = []
    prior.denoiser.register_forward_hook(
        lambda _m, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True
    )
    (eps_hat,) = prior.predict_noise([Query(prior.schedule.add_noise(x0, t, eps), t, PROMPTS[0])])
    args, kwargs, out = seen[0]
    if prior.denoiser_part == "unet":
        torch.testing.assert_close(eps_hat, out.sample)
        assert args[1].tolist() == t.tolist()
        return
    flux = isinstance(prior, FluxPrior)
    shift = math.exp(1.15) if flux else 3.0
    sigma = shift * (t + 1) / 1000 / (1 + (shift - 1) * (t + 1) / 1000)
    torch.testing.assert_close(kwargs["timestep"], (1 if flux else 1000) * sigma, rtol=1e-5, atol=1e-3)
    sigma = sigma[:, None, None, None]
    shown, velocity = kwargs["hidden_states"], out.sample
    if flux:
        shown, velocity = (FluxPipeline._unpack_latents(tokens, 64, 64, 8) for tokens in (shown, velocity))
    torch.testing.assert_close(shown, (1 - sigma) * x0 + sigma * eps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(eps_hat, (1 - sigma) * (x0 + velocity) + sigma * eps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", [PDS(guidance_scale=7.5), DDS()])
@pytest.mark.parametrize("family", GUIDED)
def test_a_step_takes_one_pass_and_a_matched_pair_moves_nothing(folders, family, objective):
    prior = load_prior(str(folders[family]), "cpu")
    x0 = latents(prior, 1, 3)
    t, s = torch.tensor([501]), torch.tensor([499])
    calls = []
    prior.denoiser.register_forward_pre_hook(lambda *_: calls.append(1), with_kwargs=True)
    matched = Edit(x0, x0, PROMPTS[0], PROMPTS[0], t, s, latents(prior, 1, 4), latents(prior, 1, 5))
    assert objective.gradient(prior, matched).abs().max() < 1e-4
    assert len(calls) == 1
    changed = Edit(x0, x0, *PROMPTS, t, s, latents(prior, 1, 4), latents(prior, 1, 5))
    assert objective.gradient(prior, changed).abs().max() > 1e-3


@pytest.mark.parametrize("stored", ["full", "8bit", "4bit"])
def test_a_step_does_not_search_all_modules_for_a_networks_place(folders, family_or_toybox, monkeypatch, stored):
    """As diffusers' own `device` and `dtype` do, 2 ms each for Stable Diffusion's U-Net."""
    prior = load_prior(family_or_toybox, "cpu", weights=stored)
    assert (prior.device, prior.dtype) == (prior.denoiser.device, prior.denoiser.dtype)
    query = Query(latents(prior, 1), torch.tensor([500]), PROMPTS[0])
    prior.predict_noise([query])  # reads the prompts
    asked = []
    for name in ("device", "dtype"):
        monkeypatch.setattr(ModelMixin, name, property(lambda network: asked.append(network)))
    prior.decode(prior.encode(torch.rand(1, 3, 32, 32)))
    prior.predict_noise([query])
    assert not asked


def test_pictures_of_a_size_that_patches_do_not_divide_are_refused(folders):
    prior = load_prior(str(folders["sd3"]), "cpu")
    assert prior.size_multiple == 8
    with pytest.raises(ValueError, match="multiples of the latent stride 8"):
        prior.encode(torch.rand(1, 3, 32, 36))


def test_sana_reads_a_prompt_after_an_instruction_and_what_guidance_leaves_without(folders):
    prior = load_prior(str(folders["sana"]), "cpu")
    read = []
    prior.text_encoder.register_forward_pre_hook(
        lambda _m, args, kwargs: read.append(kwargs["attention_mask"].sum().item()), with_kwargs=True
    )
    prompt, empty = prior.text(PROMPTS[0]), prior.text("")
    assert read[0] > 100 + len(PROMPTS[0].split())
    assert read[1] == 0  # the tiny tokenizer has no first token
    assert prompt.features.shape == empty.features.shape == (TOKENS, 16)
    assert prompt.mask is not None
    assert 0 < int(prompt.mask.sum()) < TOKENS


def test_sanas_encoder_run_again_gives_the_same_gradient(folders):
    def gradient(again: bool) -> tuple[torch.Tensor | None, int]:
        """Of the picture, and how many numbers were kept for it."""
        prior, kept = load_prior(str(folders["sana"]), "cpu", recompute_encoder=again), []
        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            encoded = prior.encode(image)
        encoded.square().sum().backward()
        return image.grad, sum(kept)

    (plain, kept_plain), (again, kept_again) = gradient(False), gradient(True)
    torch.testing.assert_close(plain, again)
    assert kept_again < kept_plain / 2


def test_flux_is_told_its_guidance_and_asked_once_for_each_query(folders):
    prior = load_prior(str(folders["flux"]), "cpu", purpose="refinement")
    told = []
    prior.transformer.register_forward_pre_hook(
        lambda _m, args, kwargs: told.append(kwargs["guidance"].tolist()), with_kwargs=True
    )
    x, t = latents(prior, 2), torch.tensor([300, 300])
    weak, strong, none = prior.predict_noise([Query(x, t, PROMPTS[0], scale) for scale in (3.5, 7.0, 0.0)])
    assert told == [[3.5] * 2 + [7.0] * 2 + [0.0] * 2]
    assert not torch.equal(weak, strong)
    assert not torch.equal(weak, none)


def test_latents_are_packed_as_diffusers_packs_them(folders):
    prior = load_prior(str(folders["flux"]), "cpu", purpose="refinement")
    x = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pack(x), FluxPipeline._pack_latents(x, 2, 4, 6, 10))
    torch.testing.assert_close(unpack(pack(x), 6, 10), x)
    theirs = FluxPipeline._prepare_latent_image_ids(2, 3, 5, x.device, x.dtype)
    torch.testing.assert_close(places(6, 10), theirs)
    assert (prior.size_multiple, prior.trained_size) == (8, 512)  # of latents of 4 pixels
    assert size_multiple(folders["flux"]) == 8
    assert trained_size(folders["flux"]) == 512


def test_flux_refines_and_no_more(folders, tmp_path):
    folder = str(folders["flux"])
    check_prior(folder, "refinement")
    for refused in (
        lambda: check_prior(folder),
        lambda: load_prior(folder, "cpu"),
        lambda: check_prior(folder, "editing"),
    ):
        with pytest.raises(UserError, match=r"FLUX.1-dev.*distilled into the network.*sdedit-refine"):
            refused()
    schnell = shutil.copytree(folder, tmp_path / "schnell")
    config = schnell / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"guidance_embeds": False}))
    with pytest.raises(UserError, match=r"schnell.*few steps"):
        check_prior(str(schnell), "refinement")
    assert recipe_of(folder).settings("sdedit-refine", "splatfacto")["pipeline.guidance_scale"] == 3.5


def test_the_empty_prompt_of_sdxl_is_zeros_where_the_folder_says_so(folders, tmp_path):
    prior = load_prior(str(folders["sdxl"]), "cpu")
    assert not prior.embed("").any()
    copy = shutil.copytree(folders["sdxl"], tmp_path / "copy")
    edit_index(copy, force_zeros_for_empty_prompt=False)
    assert load_prior(str(copy), "cpu").embed("").any()


def test_t5_may_be_left_out_and_is_missed_where_it_is_announced(folders, tmp_path):
    copy = shutil.copytree(folders["sd3"], tmp_path / "copy")
    shutil.rmtree(copy / "text_encoder_3")
    with pytest.raises(UserError, match=r"text_encoder_3.*\[null, null\]"):
        check_prior(str(copy))
    edit_index(copy, text_encoder_3=[None, None], tokenizer_3=[None, None])
    without = load_prior(str(copy), "cpu")
    tokens = without.tokenizer.model_max_length
    assert not without.embed(PROMPTS[0])[tokens:].any()
    whole = load_prior(str(folders["sd3"]), "cpu")
    torch.testing.assert_close(without.embed(PROMPTS[0])[:tokens], whole.embed(PROMPTS[0])[:tokens])
    assert whole.embed(PROMPTS[0])[tokens:].any()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("FluxKontextPipeline", "distilled"),
        ("SanaSprintPipeline", "distilled"),
        ("KolorsPipeline", "not supported"),
        ("WanPipeline", "not supported"),
    ],
)
def test_families_that_are_none_are_named(folders, tmp_path, kind, words):
    copy = shutil.copytree(folders["sd3"], tmp_path / "copy")
    edit_index(copy, _class_name=kind)
    with pytest.raises(UserError, match=f"is a {kind}.*{words}.*Stable Diffusion 3"):
        check_prior(str(copy))


@pytest.mark.parametrize("family", WRITE)
def test_loras_are_told_apart_by_family_and_words_refused(folders, tmp_path, family):
    down = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
    of_sdxl = {"lora_te2_x.lora_down.weight": torch.zeros(2, 16), down: torch.zeros(2, 24)}
    save_file(of_sdxl, tmp_path / "xl.safetensors")
    if family == "sdxl":
        check_extras_of(folders[family], [str(tmp_path / "xl.safetensors")], [])
    else:
        with pytest.raises(UserError, match="made for Stable Diffusion XL"):
            check_extras_of(folders[family], [str(tmp_path / "xl.safetensors")], [])
    save_file({down: torch.zeros(2, 768)}, tmp_path / "one.safetensors")
    with pytest.raises(UserError, match="text features of 768"):
        check_extras_of(folders[family], [str(tmp_path / "one.safetensors")], [])
    save_file({"emb_params": torch.zeros(1, 768)}, tmp_path / "word.safetensors")
    with pytest.raises(UserError, match="takes no textual inversions"):
        check_extras_of(folders[family], [], [tmp_path / "word.safetensors"])


def test_a_lora_of_stable_diffusion_3_may_change_its_second_text_encoder(folders, tmp_path):
    second = "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    of_sd3 = {
        second: torch.zeros(2, 16),
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, 16),
    }
    save_file(of_sd3, tmp_path / "sd3.safetensors")
    check_extras_of(folders["sd3"], [str(tmp_path / "sd3.safetensors")], [])


@pytest.mark.parametrize("family", ["sd3", "sana", "flux"])
def test_pefts_own_files_change_a_transformer(folders, tmp_path, family):
    prior = load_prior(str(folders[family]), "cpu", purpose="refinement")
    name = next(n for n, _ in prior.transformer.named_modules() if n.endswith("to_q"))
    before = prior.transformer.get_submodule(name).weight
    down, up = torch.randn(2, before.shape[1]), torch.randn(before.shape[0], 2)
    state = {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2}))
    changed = load_prior(str(folders[family]), "cpu", purpose="refinement", loras=[str(tmp_path)])
    torch.testing.assert_close(changed.transformer.get_submodule(name).weight, before + up @ down, atol=1e-5, rtol=1e-4)


def test_prompts_that_differ_beyond_what_is_read_are_told_apart_by_the_encoder_that_reads_most(folders):
    """Gemma's tokenizer names no greatest length; Stable Diffusion 3's T5 reads more than its CLIPs."""
    long = " ".join(["a photo of a cat"] * 20)
    sana = load_prior(str(folders["sana"]), "cpu")
    assert sana.tokenizer.model_max_length > 10**20
    require_read_differently(*PROMPTS[:2], sana.readers())
    sd3 = load_prior(str(folders["sd3"]), "cpu")
    require_read_differently(long, f"{long} dog", sd3.readers())
    with pytest.raises(UserError, match="reads the first 24 tokens"):
        require_read_differently(long, f"{long} dog", sd3.readers()[:2])


def test_what_the_vae_decodes_does_not_depend_on_how_many_pictures_it_has_at_once(folders, monkeypatch):
    prior = load_prior(str(folders["sd3"]), "cpu")
    assert [prior.pictures_at_once(side, side) for side in (64, 256, 512, 1024)] == [64, 4, 1, 1]
    together = prior.decode(latents(prior, 3))
    monkeypatch.setattr(type(prior), "pictures_at_once", lambda *_: 1)
    torch.testing.assert_close(prior.decode(latents(prior, 3)), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("scheduler/scheduler_config.json", {"_class_name": "EDMDPMSolverMultistepScheduler"}),
        ("scheduler/scheduler_config.json", {"sigma_data": 0.5}),
        ("vae/config.json", {"latents_mean": [0, 0, 0, 0]}),
        ("scheduler/scheduler_config.json", {"prediction_type": "edm"}),
    ],
)
def test_another_noise_than_diffusions_is_refused_of_sdxl(folders, tmp_path, file, changes):
    copy = shutil.copytree(folders["sdxl"], tmp_path / "copy")
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | changes))
    with pytest.raises(UserError, match=r"EDM's noise|prediction_type is one of"):
        check_prior(str(copy))


@pytest.mark.parametrize("family", WRITE)
def test_parts_of_different_models_are_refused(folders, tmp_path, family):
    copy = shutil.copytree(folders[family], tmp_path / "copy")
    other = write_sd3 if family in ("sdxl", "flux") else write_sdxl
    strange = other(tmp_path / "other")
    shutil.rmtree(copy / "vae")
    shutil.copytree(strange / "vae", copy / "vae")
    with pytest.raises(UserError, match="channels"):
        check_prior(str(copy), "refinement")
    with pytest.raises(UserError, match="distilled" if family == "flux" else "InstructPix2Pix"):
        check_prior(str(folders[family]), purpose="editing")


def test_a_step_of_the_folder_is_counted(folders):
    for folder in folders.values():
        one = count(folder, 32, 32, dtype=torch.float32)
        assert count(folder, 32, 32, rows=8, dtype=torch.float32).denoiser > 1.5 * one.denoiser
        assert count(folder, 32, 32, adapters=2, dtype=torch.float32).kept_by_adapters > 0


def edit_index(folder, **changes: object) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))
