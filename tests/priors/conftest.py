"""A Stable Diffusion folder of real diffusers classes at toy size, with random weights."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
WORDS = ("a", "red", "blue", "ball", "cube")


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair format with letters, the merges that spell WORDS, and the two special tokens."""
    letters = sorted(set("".join(WORDS)))
    merges, pieces = [], []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
                pieces.append("".join(pair))
            parts[:2] = ["".join(pair)]
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters), *pieces])
    vocabulary = [*tokens, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 12, "pad_token": "<|endoftext|>"})
    )
    return CLIPTokenizer.from_pretrained(folder)


def write_prior(folder: Path, prediction_type: str = "epsilon", scheduler: type = PNDMScheduler) -> Path:
    """A whole pipeline in diffusers' layout: stride 4, 4 latent channels, text features of 16 numbers."""
    torch.manual_seed(0)
    tokenizer = write_tokenizer(folder.with_name(folder.name + "_tokenizer"))
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.7,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(**SD_SCHEDULE, prediction_type=prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """An epsilon prior. Read-only: tests that spoil a folder copy it first."""
    return write_prior(tmp_path_factory.mktemp("prior") / "epsilon")


@pytest.fixture(scope="session")
def velocity_folder(tmp_path_factory) -> Path:
    return write_prior(tmp_path_factory.mktemp("prior") / "velocity", "v_prediction", DDIMScheduler)


@pytest.fixture(scope="session")
def tokenizer_of():
    """`write_tokenizer`."""
    return write_tokenizer


@pytest.fixture
def prior(folder) -> StableDiffusionPrior:
    return load_prior(str(folder), "cpu")
