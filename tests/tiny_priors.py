"""Folders of the newer families: real classes of diffusers and transformers at toy size, with random weights."""

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from pds_nerfstudio.toybox.tokenizer import build_tokenizer

PROMPTS = "a photo of a red ball on a grey floor", "a photo of a blue cube on a grey floor"


def clip(tokenizer: CLIPTokenizer, width: int, kind: Any = CLIPTextModelWithProjection) -> Any:
    """A text encoder of `width` numbers, as many of the whole prompt."""
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def autoencoder(channels: int, **more: Any) -> AutoencoderKL:
    """Of stride 4."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=channels,
        norm_num_groups=4,
        **more,
    )


def write_sdxl(folder: Path) -> Path:
    """Stable Diffusion XL: text features of 8 + 16 numbers."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder.with_name(f"{folder.name}_words"))
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16,
        cross_attention_dim=24,
        norm_num_groups=4,
    )
    StableDiffusionXLPipeline(
        vae=autoencoder(4, scaling_factor=0.13),
        text_encoder=clip(tokenizer, 8, CLIPTextModel),
        text_encoder_2=clip(tokenizer, 16),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def word_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """Words in place of T5's and Gemma's pieces of words, in the same file format."""
    words = dict.fromkeys(["<pad>", "</s>", "<unk>", *" ".join(PROMPTS).split()])
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", **settings
    )


def write_sd3(folder: Path, t5: bool = True) -> Path:
    """Stable Diffusion 3: 16 latent channels, text features of 8 + 16 numbers filled up to T5's 32, shift 3."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder.with_name(f"{folder.name}_words"))
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=8 + 16,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    large = T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
    StableDiffusion3Pipeline(
        vae=autoencoder(16, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip(tokenizer, 8),
        text_encoder_2=clip(tokenizer, 16),
        text_encoder_3=T5EncoderModel(large) if t5 else None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=word_tokenizer(model_max_length=256) if t5 else None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


def write_sana(folder: Path) -> Path:
    """SANA: stride 4, text features of 16 numbers, shift 3 in the words of another sampler, as published."""
    torch.manual_seed(0)
    widths, layers = (8, 8, 16), (1, 1, 1)
    SanaPipeline(
        vae=AutoencoderDC(
            latent_channels=8,
            attention_head_dim=8,
            encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            encoder_layers_per_block=layers,
            decoder_layers_per_block=layers,
            encoder_qkv_multiscales=((), (), (5,)),
            decoder_qkv_multiscales=((), (), (5,)),
            scaling_factor=0.41407,
        ),
        text_encoder=Gemma2Model(
            Gemma2Config(
                vocab_size=32,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                pad_token_id=0,
                eos_token_id=1,
            )
        ),
        tokenizer=word_tokenizer(),  # like Gemma's, without a greatest length
        transformer=SanaTransformer2DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=8,
        ),
        scheduler=DPMSolverMultistepScheduler(
            flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="zero"
        ),
    ).save_pretrained(folder)
    return folder


def write_flux(folder: Path) -> Path:
    """FLUX.1-dev: stride 4, 4 latent channels, so that tokens have 16 numbers; σ shifted by a picture's size."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder.with_name(f"{folder.name}_words"))
    FluxPipeline(
        vae=autoencoder(4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip(tokenizer, 8, CLIPTextModel),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2)),
        tokenizer=tokenizer,
        tokenizer_2=word_tokenizer(model_max_length=256),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=8,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    ).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    for write in (write_sdxl, write_sd3, write_sana, write_flux):
        print(write(Path(sys.argv[1]) / write.__name__.removeprefix("write_")))
