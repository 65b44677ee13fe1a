"""The networks of toybox's prior and of its judge, and of studio's: what they are made of, how they are written."""

import json
import shutil
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from toybox_data import IMAGE_SIZE
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pds_nerfstudio.toybox.tokenizer import MAX_TOKENS


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def make_unet(
    channels: tuple[int, ...], text_width: int, sample_size: int = IMAGE_SIZE // 4, latents: int = 4
) -> UNet2DConditionModel:
    """A U-Net of latents of so many channels, `sample_size` a side."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latents,
        out_channels=latents,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def text_config(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=96,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_clip(tokenizer: CLIPTokenizer, image_size: int = IMAGE_SIZE) -> CLIPModel:
    """Looks at 64 patches, whatever the size."""
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": image_size,
        "patch_size": image_size // 8,
        "projection_dim": 96,
    }
    text = text_config(tokenizer, 96, 2).to_dict()
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def make_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Straight lines in a thousand steps, without a shift: pictures of 64 pixels are below the size that asks for one.

    (Esser et al. 2024, section 5.3.2, shift what was trained at 256 pixels to larger sizes.)
    """
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str], device: str) -> Tensor:
    batch = tokenizer(prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return batch.input_ids.to(device)


def write_prior(
    out: Path,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
) -> None:
    """OUT/prior in diffusers' layout, half precision, safetensors."""
    StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out / "prior", safe_serialization=True)
    copy_vocabulary(out / "prior" / "tokenizer", out)
    halve(out / "prior")
    forget_places(out / "prior")


def copy_vocabulary(folder: Path, out: Path) -> None:
    """The two files that transformers before version 5 reads; newer ones write tokenizer.json alone."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(out / "tokenizer" / name, folder / name)


def halve(folder: Path) -> None:
    """Rewrites the folder's safetensors in half precision."""
    for path in folder.rglob("*.safetensors"):
        state = {name: t.half() if t.is_floating_point() else t for name, t in load_file(path).items()}
        save_file(state, path, metadata={"format": "pt"})


def forget_places(folder: Path) -> None:
    """Takes out of a folder's settings where its parts were loaded from."""
    for path in folder.rglob("config.json"):
        settings = json.loads(path.read_text())
        if settings.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(settings, indent=2) + "\n")


def write_clip(out: Path, clip: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """OUT/clip in transformers' layout, half precision."""
    folder, size = out / "clip", clip.config.vision_config.image_size
    clip.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)
    copy_vocabulary(folder, out)
    halve(folder)


def contrastive_loss(logits_per_image: Tensor, positive: Tensor) -> Tensor:
    """Of images against captions and captions against images.

    `positive` [images captions] is 1 where a caption is true of an image, and there may be several.
    """
    losses = [
        -(p / p.sum(1, keepdim=True) * x.log_softmax(1)).sum(1).mean()
        for p, x in ((positive, logits_per_image), (positive.T, logits_per_image.T))
    ]
    return (losses[0] + losses[1]) / 2
