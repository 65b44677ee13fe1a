"""A Stable Diffusion in one file predicts what the same networks do as a diffusers folder."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.priors.check import check_prior, local_folder
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.one_file import read_header
from pds_nerfstudio.toybox.tokenizer import build_tokenizer

LAYERS = 2
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
OUTSIDE = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
OUTSIDE |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def first_unet_name(name: str) -> str:
    """A diffusers U-Net's key as CompVis's code has it."""
    for ours, theirs in OUTSIDE.items():
        if name.startswith(ours + "."):
            return name.replace(ours, theirs, 1)
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        way, i, kind, j, rest = match.group(1), int(match[2]), match[3], int(match[4]), match[5]
        block = (LAYERS + 1) * i + j + (way == "down")
        place = f"{'input' if way == 'down' else 'output'}_blocks.{block}.{int(kind == 'attentions')}"
    elif match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(LAYERS + 1) * (int(match[1]) + 1)}.0.op.{match[2]}"
    elif match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):  # behind a resnet alone, or attention
        return f"output_blocks.{(LAYERS + 1) * int(match[1]) + LAYERS}.1.conv.{match[2]}"
    else:
        match = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
        assert match, name
        kind, rest = match[1], match[3]
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(match[2])}"
    if kind == "resnets":
        part, _, ending = rest.rpartition(".")
        rest = f"{RESNET[part]}.{ending}"
    return f"{place}.{rest}"


def first_vae_name(name: str, levels: int) -> str:
    """The same of a VAE."""
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    name = name.replace(".resnets.", ".block.").replace(".upsamplers.0", ".upsample")
    for ours, theirs in ATTENTION.items():
        name = re.sub(rf"mid_block\.attentions\.0\.{re.escape(ours)}\b", f"mid.attn_1.{theirs}", name)
    return name


def open_clip_state(text: CLIPTextModel) -> dict[str, torch.Tensor]:
    """A text encoder as OpenCLIP has it: q, k and v in one matrix, everything else under other names."""
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names |= {"self_attn.out_proj": "attn.out_proj", "encoder.layers": "transformer.resblocks"}
    names |= {"embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final"}
    names |= {"embeddings.position_embedding.weight": "positional_embedding"}
    state = {name.removeprefix("text_model."): value for name, value in text.state_dict().items()}
    renamed = {}
    for name, value in state.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            renamed[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj|position_ids", name):
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            renamed[name] = value
    return renamed | {"text_projection": torch.eye(text.config.hidden_size)}


@pytest.fixture(scope="module")
def both(tmp_path_factory, tokenizer_of) -> tuple[Path, Path]:
    """A Stable Diffusion 1.x of small sizes as a diffusers folder and as one file, beside which its vocabulary lies."""
    return small(tmp_path_factory.mktemp("one_file"), tokenizer_of, newer=False)


@pytest.fixture(scope="module")
def both_newer(tmp_path_factory, tokenizer_of) -> tuple[Path, Path]:
    """The same of a 2.x: OpenCLIP, linear projections, heads of 64 channels."""
    return small(tmp_path_factory.mktemp("one_file_2"), tokenizer_of, newer=True)


def small(folder: Path, tokenizer_of, newer: bool) -> tuple[Path, Path]:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "tokenizer") if newer else tokenizer_of(folder / "tokenizer")
    if newer:  # as whose vocabulary CLIP's has "!", which fills prompts up
        tokenizer.pad_token, tokenizer.model_max_length = "!", 12
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=1,
            hidden_act="gelu" if newer else "quick_gelu",
            max_position_embeddings=12,
            bos_token_id=len(tokenizer) - 2,
            eos_token_id=len(tokenizer) - 1,
            pad_token_id=len(tokenizer) - 1,
        )
    )
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=LAYERS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=(1, 1) if newer else 8,
        use_linear_projection=newer,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1)
    pipeline = StableDiffusionPipeline(vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False)
    pipeline.save_pretrained(folder / "diffusers")
    weights = {f"model.diffusion_model.{first_unet_name(n)}": v for n, v in unet.state_dict().items()}
    for name, value in vae.state_dict().items():
        of_attention = "attentions" in name and name.endswith("weight") and "norm" not in name
        weights[f"first_stage_model.{first_vae_name(name, 2)}"] = value[..., None, None] if of_attention else value
    if newer:
        weights |= {f"cond_stage_model.model.{name}": value for name, value in open_clip_state(text).items()}
    else:
        for name, value in text.state_dict().items():
            weights[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    told = {"modelspec.prediction_type": "epsilon"}  # of random weights no other sign can
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    save_file(contiguous, folder / "dreamy_v8.safetensors", told)
    return folder / "diffusers", folder / "dreamy_v8.safetensors"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty Hugging Face cache."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home"


@pytest.mark.parametrize("version", ["both", "both_newer"])
def test_one_file_predicts_what_its_diffusers_folder_does(version, cache, request):
    folder, file = request.getfixturevalue(version)
    assert local_folder(str(file)) is None  # not converted yet
    one, other = (load_prior(str(name), "cpu") for name in (file, folder))
    assert local_folder(str(file)) is not None
    generator = torch.Generator().manual_seed(0)
    latents, image = torch.randn(1, 4, 8, 8, generator=generator), torch.rand(1, 3, 16, 16, generator=generator)
    query = Query(latents, torch.tensor([300]), "a red ball", 7.5)
    torch.testing.assert_close(one.predict_noise([query]), other.predict_noise([query]))
    torch.testing.assert_close(one.encode(image), other.encode(image))
    assert sorted(path.name for path in (cache / "pds_nerfstudio").iterdir()) == [local_folder(str(file)).name]


@pytest.mark.parametrize(("answers_noise", "told", "sample"), [(True, "epsilon", 64), (False, "v_prediction", 96)])
def test_what_a_2_x_predicts_is_found_by_asking_it_about_pure_noise(
    both_newer, cache, tmp_path, monkeypatch, answers_noise, told, sample
):
    def answer(self, noise, *_, **__):
        return SimpleNamespace(sample=noise if answers_noise else torch.ones_like(noise))

    silent = tmp_path / "silent.safetensors"
    save_file(load_file(both_newer[1]), silent)
    shutil.copytree(both_newer[1].parent / "tokenizer", tmp_path / "tokenizer")
    monkeypatch.setattr(UNet2DConditionModel, "forward", answer)
    prior = load_prior(str(silent), "cpu")
    assert prior.scheduler.config.prediction_type == told
    assert prior.unet.config.sample_size == sample, "those of v-prediction were trained at 768 pixels"


def test_what_a_1_x_predicts_is_asked_too(both, cache, tmp_path, monkeypatch):
    silent = tmp_path / "silent.safetensors"
    save_file(load_file(both[1]), silent)
    shutil.copytree(both[1].parent / "tokenizer", tmp_path / "tokenizer")
    monkeypatch.setattr(
        UNet2DConditionModel, "forward", lambda self, noise, *_, **__: SimpleNamespace(sample=torch.ones_like(noise))
    )
    prior = load_prior(str(silent), "cpu")
    assert (prior.scheduler.config.prediction_type, prior.unet.config.sample_size) == ("v_prediction", 64)


def test_a_model_for_inpainting_is_refused_before_it_is_converted(both, cache, tmp_path):
    weights = load_file(both[1])
    name = "model.diffusion_model.input_blocks.0.0.weight"
    weights[name] = torch.cat([weights[name], torch.zeros(len(weights[name]), 5, 3, 3)], dim=1)
    save_file(weights, tmp_path / "inpainting.safetensors")
    shutil.copytree(both[1].parent / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"takes 9 channels and its VAE gives 4.*not one for inpainting"):
        check_prior(str(tmp_path / "inpainting.safetensors"))


def test_a_file_without_a_vocabulary_is_told_where_to_put_one(both, cache, tmp_path):
    moved = tmp_path / "alone" / "dreamy.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(both[1].read_bytes())
    with pytest.raises(UserError, match=r"holds no vocabulary.*merges.txt of openai/clip-vit-large-patch14"):
        check_prior(str(moved))
    snapshot = cache / "hub" / "models--a--b" / "snapshots" / "0" / "tokenizer"
    snapshot.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        (snapshot / name).write_bytes((both[1].parent / "tokenizer" / name).read_bytes())
    check_prior(str(moved))


SDXL = ("model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.1.model.token_embedding.weight")


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("a.safetensors", SDXL, "is a Stable Diffusion XL"),
        ("a.safetensors", ("model.diffusion_model.input_blocks.0.0.weight",), "without its VAE or text encoder"),
        ("a.safetensors", ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",), "is a LoRA.*--pipeline.lora"),
        ("a.safetensors", ("emb_params",), "is a textual inversion.*--pipeline.embedding"),
        ("a.safetensors", tuple(f"blocks.{i}.weight" for i in range(9)), "not a Stable Diffusion in one file"),
        ("a.ckpt", (), "is a pickle"),
        ("lora/add_detail.safetensors", ("lora_unet_x.lora_up.weight",), "holds a LoRA.*--pipeline.lora .*add_detail"),
    ],
)
def test_what_is_no_whole_model_is_named_with_the_place_it_belongs_to(tmp_path, name, keys, said):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    save_file({key: torch.zeros(2, 2) for key in keys}, path)
    with pytest.raises(UserError, match=said):
        check_prior(str(path.parent if "/" in name else path))


def test_a_file_that_lacks_weights_is_refused_before_it_is_loaded(both, tmp_path):
    weights = load_file(both[1])
    del weights["model.diffusion_model.middle_block.1.proj_in.weight"]
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"is not whole \(middle_block.1.proj_in.weight is missing\)"):
        check_prior(str(tmp_path / "a.safetensors"))


def test_the_header_alone_is_read(both):
    header = read_header(both[1])
    assert (header.kind, header.dtype) == ("model", "F32")
    assert header.metadata == {"modelspec.prediction_type": "epsilon"}
