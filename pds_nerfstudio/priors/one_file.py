"""Stable Diffusion 1.x/2.x in one .safetensors file, as its first code and most of the web keep it.

The header tells by its keys what a file is, and by its shapes which networks are in it: nothing else is read before an
edit begins. Then diffusers' single-file loader converts it, once, into a diffusers folder in the Hugging Face cache,
which is a prior like any other. No hub is asked. What the file does not hold is CLIP's vocabulary: it is taken from
beside the file, or from another prior in the cache.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import from_json, private_folder

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
"""Text encoders of Stable Diffusion 1.x and 2.x."""
OF_SDXL = "conditioner.embedders."
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
LORA_SIGNS = (
    *(".lora_down.", ".lora_up.", ".lora.down.", ".lora_A.", ".lora_B.", "lora_linear", ".hada_", ".lokr_"),
    "_lora.down.",  # of diffusers before 0.24
)
Kind = Literal["model", "sdxl", "unet", "lora", "embedding", "unknown"]
SAMPLE_OF_V = 96
"""Latents' side of those 2.x that predict v, which were trained at 768 pixels."""
VOCABULARY = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says that it holds."""

    shapes: dict[str, tuple[int, ...]]
    dtype: str
    """Of its largest tensor: "F16", "F32", "BF16"."""
    metadata: dict[str, str]

    @property
    def kind(self) -> Kind:
        """What the file is, by its keys."""
        names = list(self.shapes)
        if any(sign in name for name in names for sign in LORA_SIGNS):
            return "lora"
        if any(name.startswith(UNET) for name in names):
            if any(name.startswith(OF_SDXL) for name in names):
                return "sdxl"
            text = any(name.startswith((CLIP, OPEN_CLIP)) for name in names)
            return "model" if text and any(name.startswith(VAE) for name in names) else "unet"
        if names and len(names) <= 4 and all(len(shape) <= 2 for shape in self.shapes.values()):
            return "embedding"
        return "unknown"

    def having(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """The shapes of keys that begin so, without that."""
        return {name.removeprefix(prefix): s for name, s in self.shapes.items() if name.startswith(prefix)}


def read_header(path: Path) -> Header:
    """Of a safetensors file, in milliseconds.

    Raises:
        UserError: it is pickled, or no safetensors file, or shorter than its header says.
    """
    from safetensors import safe_open

    from pds_nerfstudio.priors.folder import check_safetensors

    if path.suffix.lower() in PICKLED:
        raise UserError(
            f"{path} is a pickle, which could run code and is not loaded: get its .safetensors, or convert it where "
            "you trust it (safetensors.torch.save_file of its state_dict)."
        )
    check_safetensors(path)
    with safe_open(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        largest = max(shapes, key=lambda name: _size(shapes[name]), default=None)
        dtype = "F32" if largest is None else slices[largest].get_dtype()
        return Header(shapes, dtype, dict(file.metadata() or {}))


def is_one_file(name: str) -> bool:
    """Whether a prior's name is that of a file of weights."""
    path = Path(name).expanduser()
    return path.suffix.lower() in (".safetensors", *PICKLED) and path.is_file()


def check_file(path: Path) -> None:
    """Raise UserError if the file is no whole Stable Diffusion 1.x/2.x, or CLIP's vocabulary is not on this machine."""
    header = read_header(path)
    ways = {
        "sdxl": "a Stable Diffusion XL, and 1.x and 2.x are supported as priors: give one of those",
        "unet": "a U-Net without its VAE or text encoder: give the whole model, or a diffusers folder",
        "lora": "a LoRA, which changes a prior: add it with --pipeline.lora, and name the prior by --pipeline.prior",
        "embedding": "a textual inversion, a word of prompts: add it with --pipeline.embedding",
        "unknown": "not a Stable Diffusion in one file, by the names of its weights: give one, or a diffusers folder",
    }
    if header.kind != "model":
        raise UserError(f"{path} is {ways[header.kind]}.")
    configs = configurations(path, header)
    taken, given = configs["unet"]["in_channels"], configs["vae"]["latent_channels"]
    if taken not in (given, 2 * given):
        raise UserError(
            f"The U-Net of {path} takes {taken} channels and its VAE gives {given}: use a plain text-to-image model, "
            "not one for inpainting or depth."
        )
    if not converted(path).is_dir():
        find_vocabulary(path, configs["text_encoder"]["vocab_size"])


def converted(path: Path) -> Path:
    """Where the diffusers folder of this file lies, or would; another file of that name has another."""
    from huggingface_hub import constants

    state = path.resolve().stat()
    told = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    name = f"{path.stem[:40]}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    return Path(constants.HF_HOME) / "pds_nerfstudio" / name


def find_vocabulary(path: Path, size: int) -> Path:
    """A folder with CLIP's vocab.json and merges.txt, of so many words.

    Raises:
        UserError: there is none beside the file nor in the Hugging Face cache.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    snapshots = "models--*/snapshots/*"
    for folder in (
        path.parent / "tokenizer",
        path.parent,
        *sorted(cache.glob(f"{snapshots}/tokenizer")),
        *sorted(cache.glob(snapshots)),
    ):
        try:
            words = from_json(folder / VOCABULARY[0])
        except (OSError, ValueError):
            continue
        if len(words) == size and (folder / VOCABULARY[1]).is_file():
            return folder
    raise UserError(
        f"{path} holds no vocabulary, and none of its {size} words is beside it or in the Hugging Face cache: put "
        f"{' and '.join(VOCABULARY)} of openai/clip-vit-large-patch14 into {path.parent / 'tokenizer'}."
    )


def configurations(path: Path, header: Header) -> dict[str, dict[str, Any]]:
    """Of U-Net, VAE and text encoder in diffusers' terms, by the shapes of their weights.

    Raises:
        UserError: they are not those of a Stable Diffusion.
    """
    try:
        newer = bool(header.having(OPEN_CLIP))
        text = _open_clip(header.having(OPEN_CLIP)) if newer else _clip(header.having(CLIP))
        return {"unet": _unet(header.having(UNET), newer), "vae": _vae(header.having(VAE)), "text_encoder": text}
    except (KeyError, IndexError, ValueError) as error:
        reason = first_line(error).strip("'")
        raise UserError(
            f"{path} looks like a Stable Diffusion in one file and is not whole ({reason} is missing): get it again."
        ) from error


def convert(path: Path) -> Path:
    """The diffusers folder of a file that `check_file` has passed, made if it is not there.

    Raises:
        UserError: diffusers cannot load the file.
    """
    target = converted(path)
    if target.is_dir():
        return target
    import torch
    from diffusers import StableDiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]

    header = read_header(path)
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}.get(header.dtype, torch.float32)
    with private_folder(target) as partial:
        layout = partial / "layout"
        _write_layout(layout, path, header)
        try:
            pipeline: Any = StableDiffusionPipeline.from_single_file(
                str(path), config=str(layout), local_files_only=True, torch_dtype=dtype, safety_checker=None
            )
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{path} cannot be loaded as a Stable Diffusion ({first_line(error)[:160]}).") from error
        for part in ("unet", "vae", "text_encoder"):
            empty = [name for name, value in getattr(pipeline, part).state_dict().items() if value.is_meta]
            if empty:
                raise UserError(f"{path} lacks {len(empty)} weights of its {part}, as {empty[0]}: get it again.")
        scheduler = json.loads((layout / "scheduler" / "scheduler_config.json").read_text())
        if "prediction_type" not in scheduler:
            scheduler["prediction_type"] = _told_by_noise(pipeline.unet.float())
            pipeline.unet.to(dtype)
        if header.having(OPEN_CLIP) and scheduler["prediction_type"] == "v_prediction":
            pipeline.unet.register_to_config(sample_size=SAMPLE_OF_V)
        whole = partial / "whole"
        pipeline.save_pretrained(whole, safe_serialization=True)
        shutil.copytree(layout / "tokenizer", whole / "tokenizer", dirs_exist_ok=True)
        (whole / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        try:
            os.replace(whole, target)
        except OSError:  # another process has been as fast
            if not target.is_dir():
                raise
    return target


def _write_layout(folder: Path, path: Path, header: Header) -> None:
    """A diffusers folder without weights."""
    configs = configurations(path, header)
    names = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    for part, config in configs.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps({"_class_name": names.get(part)} | config))
    newer = bool(header.having(OPEN_CLIP))
    scheduler = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "clip_sample": False}
    scheduler |= {"beta_start": 0.00085, "beta_end": 0.012, "set_alpha_to_one": False, "steps_offset": 1}
    if told := header.metadata.get("modelspec.prediction_type"):  # else the U-Net is asked
        scheduler["prediction_type"] = "v_prediction" if told.startswith("v") else "epsilon"
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    text = configs["text_encoder"]
    (folder / "tokenizer").mkdir()
    for name in VOCABULARY:
        shutil.copy(find_vocabulary(path, text["vocab_size"]) / name, folder / "tokenizer" / name)
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special |= {"pad_token": "!" if newer else "<|endoftext|>", "model_max_length": text["max_position_embeddings"]}
    settings = json.dumps({"tokenizer_class": "CLIPTokenizer"} | special)
    (folder / "tokenizer" / "tokenizer_config.json").write_text(settings)
    parts = {part: ["diffusers", name] for part, name in (*names.items(), ("scheduler", "DDIMScheduler"))}
    parts |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    parts |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False} | parts
    (folder / "model_index.json").write_text(json.dumps(index))


def _told_by_noise(unet: Any) -> str:
    """What a U-Net predicts: asked about pure noise, ε̂ is that noise, and v̂ is −x⁰, which has nothing of it."""
    import torch

    noise = torch.randn(1, unet.config.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = unet(noise, 999, torch.zeros(1, 77, unet.config.cross_attention_dim)).sample
    asked = noise[:, : answer.shape[1]]  # the others are a picture's to be edited
    return "epsilon" if torch.cosine_similarity(answer.flatten(), asked.flatten(), dim=0) > 0.5 else "v_prediction"


def _unet(shapes: dict[str, tuple[int, ...]], newer: bool) -> dict[str, Any]:
    levels: list[list[bool]] = [[]]
    widths = []
    attention = ".1.transformer_blocks.0.attn2.to_k.weight"
    for i in range(1, 100):
        block = f"input_blocks.{i}"
        if f"{block}.0.op.weight" in shapes:
            levels.append([])
        elif f"{block}.0.out_layers.3.weight" in shapes:
            if not levels[-1]:
                widths.append(shapes[f"{block}.0.out_layers.3.weight"][0])
            levels[-1].append(block + attention in shapes)
        else:
            break
    attended = [any(level) for level in levels]
    context = shapes["middle_block" + attention][1]
    return {
        "sample_size": 64,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "down_block_types": [f"{'CrossAttn' * has}DownBlock2D" for has in attended],
        "up_block_types": [f"{'CrossAttn' * has}UpBlock2D" for has in reversed(attended)],
        "cross_attention_dim": context,
        # Heads are not in the shapes: eight in 1.x, and of 64 channels each in 2.x.
        "attention_head_dim": [max(1, width // 64) for width in widths] if newer else 8,
        "use_linear_projection": len(shapes["middle_block.1.proj_in.weight"]) == 2,
    }


def _vae(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    count = next(i for i in range(100) if f"encoder.down.{i}.block.0.conv1.weight" not in shapes)
    layers = next(i for i in range(100) if f"encoder.down.0.block.{i}.conv1.weight" not in shapes)
    return {
        "in_channels": 3,
        "out_channels": 3,
        "sample_size": 512,
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(count)],
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
        "layers_per_block": layers,
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "scaling_factor": 0.18215,
    }


def _clip(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    words, width = shapes["embeddings.token_embedding.weight"]
    layers = next(i for i in range(100) if f"encoder.layers.{i}.mlp.fc1.weight" not in shapes)
    return _text_encoder(words, width, layers, shapes["encoder.layers.0.mlp.fc1.weight"][0], "quick_gelu") | {
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"][0]
    }


def _open_clip(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    words, width = shapes["token_embedding.weight"]
    layers = next(i for i in range(100) if f"transformer.resblocks.{i}.mlp.c_fc.weight" not in shapes)
    # 2.x reads the last but one of 24 layers, and diffusers leaves the last out.
    return _text_encoder(
        words, width, min(layers, 23), shapes["transformer.resblocks.0.mlp.c_fc.weight"][0], "gelu"
    ) | {"max_position_embeddings": shapes["positional_embedding"][0]}


def _text_encoder(words: int, width: int, layers: int, inner: int, activation: str) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "hidden_act": activation,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": 0 if activation == "gelu" else words - 1,
    }


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
