"""How much memory a prior takes, counted from its configuration: nothing is loaded, and no GPU is asked.

Its networks are built on torch's meta device, where tensors have shapes and no values, and run once. What is counted is
every storage that is alive at the same time. A GPU takes somewhat more: its context, convolutions' workspaces, gaps.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pds_nerfstudio.priors.autoencoders import latents_of, stride_of
from pds_nerfstudio.priors.autoencoders import recompute_encoder as run_again
from pds_nerfstudio.priors.families import FLUX, SANA, SD, SD3, SDXL, Family
from pds_nerfstudio.priors.few_bits import Weights, bytes_of, to_few_bits
from pds_nerfstudio.priors.folder import family_in, read_json

TOKENS, T5_TOKENS, GEMMA_TOKENS, FLUX_TOKENS = 77, 256, 300, 512
"""Lengths of CLIP's, T5's and Gemma's prompts, and of T5's of a FLUX."""
SIZES = 6
"""Numbers by which Stable Diffusion XL is told sizes."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one edit step; what is kept is kept until the backward pass."""

    weights: int
    """All networks."""
    kept_by_encoder: int
    """For the rendering's backward pass, 0 where nothing is differentiated."""
    encoder: int
    """The most that is alive at once in an encoder pass, forward or backward, or in the decoder's where nothing is
    differentiated."""
    denoiser: int
    """The most that is alive at once while predictions are made."""
    kept_by_adapters: int
    """For the backward passes in which they learn."""

    @property
    def total(self) -> int:
        """The most of a step: predictions are made while the encoder's graph waits."""
        return self.weights + max(self.encoder, self.kept_by_encoder + self.denoiser + self.kept_by_adapters)


def count(
    folder: Path,
    height: int,
    width: int,
    *,
    views: int = 1,
    rows: int = 4,
    adapters: int = 0,
    dtype: torch.dtype = torch.float16,
    vae_dtype: torch.dtype = torch.float32,
    recompute_encoder: bool = False,
    differentiated: bool = True,
    stored: Weights = "full",
) -> Footprint:
    """Count a step of a prior in diffusers' folder layout.

    Args:
        folder: of which configurations are read, and of MVDream's original layout a header.
        height, width: of the rendering in pixels, multiples of the latent stride.
        views: renderings in a step.
        rows: of the denoiser's batch for each view: PDS and DDS ask under two prompts with and without guidance. A
            family whose guidance is distilled into the network is asked once where others are asked twice.
        adapters: how many learn, from one row of each view.
        recompute_encoder: whether the encoder runs again in the backward pass.
        differentiated: whether the rendering's gradient is wanted, as in score distillation.
        stored: how the denoiser's weights are.
    """
    family = family_in(folder)
    vae, denoiser = networks_of(folder)
    stride, channels = stride_of(vae.config), vae.config.latent_channels
    torch.nn.Module.to(vae, vae_dtype)
    torch.nn.Module.to(denoiser, dtype)
    for network in (vae, denoiser):
        network.requires_grad_(False).eval()
    if stored != "full":
        to_few_bits(denoiser, stored)
    weights = bytes_of(vae) + bytes_of(denoiser)
    if family is SD:  # those of larger families wait in main memory
        weights += bytes_of(torch.nn.Module.to(_text_encoder(folder), dtype))
    if recompute_encoder:
        run_again(vae)

    with _fused_attention(), torch.device("meta"):
        if differentiated:
            kept, encoder = _pass(vae.encode, torch.zeros(views, 3, height, width, dtype=vae_dtype), latents_of)
        else:
            shape = views, channels, height // stride, width // stride
            kept, encoder = 0, _peak(vae.decode, torch.zeros(shape, dtype=vae_dtype))
        size = height // stride, width // stride
        rows = rows if family.guided else rows // 2
        latents, told = inputs_of(denoiser, family, rows * views, size, dtype)
        predicting = _peak(denoiser, latents, **told)
        learning = 0
        if adapters:
            one, told = inputs_of(denoiser, family, views, size, dtype)
            learning = _pass(lambda x: denoiser(x, **told), one, lambda out: out.sample)[0]
            learning *= adapters
    return Footprint(weights, kept, encoder, predicting, learning)


def networks_of(folder: Path) -> tuple[Any, Any]:
    """VAE and denoiser on the meta device."""
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from pds_nerfstudio.priors.camera_unet import unet_config

    family = family_in(folder)
    with torch.device("meta"):
        vae = (AutoencoderDC if family is SANA else AutoencoderKL).from_config(
            read_json(folder / "vae" / "config.json")
        )
        if family.denoiser == "unet":
            return vae, UNet2DConditionModel.from_config(unet_config(folder))
        kinds = {SD3: SD3Transformer2DModel, SANA: SanaTransformer2DModel, FLUX: FluxTransformer2DModel}
        return vae, kinds[family].from_config(read_json(folder / "transformer" / "config.json"))


def _text_encoder(folder: Path) -> Any:
    """Stable Diffusion's, on the meta device."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder", local_files_only=True))


def inputs_of(
    denoiser: Any, family: Family, rows: int, size: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, dict[str, Any]]:
    """Noisy latents of `size` (height, width) as a denoiser takes them, and what it is told beside them."""
    channels, (height, width) = denoiser.config.in_channels, size
    if family.packed:
        tokens = height // 2 * (width // 2)
        latents = torch.zeros(rows, tokens, channels, dtype=dtype)
        return latents, _told(denoiser, family, rows, dtype) | {"img_ids": torch.zeros(tokens, 3, dtype=dtype)}
    return torch.zeros(rows, channels, height, width, dtype=dtype), _told(denoiser, family, rows, dtype)


def _told(denoiser: Any, family: Family, rows: int, dtype: torch.dtype) -> dict[str, Any]:
    """What a denoiser is told beside the noisy latents, whatever their size."""
    config = denoiser.config

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(rows, *shape, dtype=dtype)

    times = torch.zeros(rows, dtype=torch.long)
    if family is SANA:
        mask = torch.zeros(rows, GEMMA_TOKENS, dtype=torch.long)
        told = {"encoder_hidden_states": zeros(GEMMA_TOKENS, config.caption_channels)}
        return {"timestep": times, "encoder_attention_mask": mask} | told
    if family is FLUX:
        told = {"encoder_hidden_states": zeros(FLUX_TOKENS, config.joint_attention_dim), "guidance": zeros()}
        told |= {"pooled_projections": zeros(config.pooled_projection_dim)}
        return {"timestep": zeros(), "txt_ids": torch.zeros(FLUX_TOKENS, 3, dtype=dtype)} | told
    if family is SD3:
        tokens = TOKENS + T5_TOKENS
        told = {"encoder_hidden_states": zeros(tokens, config.joint_attention_dim)}
        return {"timestep": times, "pooled_projections": zeros(config.pooled_projection_dim)} | told
    told: dict[str, Any] = {"timestep": times, "encoder_hidden_states": zeros(TOKENS, config.cross_attention_dim)}
    if family is SDXL:
        pooled = config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim
        told["added_cond_kwargs"] = {"text_embeds": zeros(pooled), "time_ids": zeros(SIZES)}
    elif (width := config.projection_class_embeddings_input_dim) is not None:
        told["class_labels"] = zeros(width)  # a camera
    return told


def _peak(network: Any, *inputs: Tensor, **rest: Any) -> int:
    """The most bytes alive in a forward pass without a graph."""
    with torch.no_grad(), _Alive() as alive:
        network(*inputs, **rest)
    return alive.most


def _pass(network: Any, x: Tensor, output_of: Any) -> tuple[int, int]:
    """Bytes kept for backward, and the most alive, of a forward and backward pass differentiated by its input."""
    x.requires_grad_()
    with torch.enable_grad(), _Alive() as alive:
        output = output_of(network(x))
        kept = alive.bytes
        output.sum().backward()
    return kept, alive.most


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors that operations make within the block, for as long as each is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._held: dict[int, Any] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {value.untyped_storage()._cdata for value in args if isinstance(value, Tensor)}  # of views, in place
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in given:
                self._hold(value.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._held:
            return

        def released(_: Any) -> None:
            del self._held[key]
            self.bytes -= size

        self._held[key] = weakref.ref(storage, released)
        self.bytes += size
        self.most = max(self.most, self.bytes)


class _Fused(torch.autograd.Function):
    """What fused attention keeps: its inputs and its output, and no matrix of weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Within this block attention is counted as GPUs run it; torch's meta device would write its weights out."""

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return _Fused.apply(query, key, value) if torch.is_grad_enabled() else torch.empty_like(query)  # pyright: ignore

    before, F.scaled_dot_product_attention = F.scaled_dot_product_attention, attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before
