"""Two kinds of autoencoders by one name each: AutoencoderKL of Stable Diffusion, and AutoencoderDC of SANA.

    x⁰ = (E(2I − 1) − shift) · scale        scale, shift from its configuration

The second (Chen et al. 2024) has a stride of 32, gives latents in place of a posterior, and cannot by itself run its
blocks again in the backward pass.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pds_nerfstudio.priors.folder import levels_of
from pds_nerfstudio.priors.placement import device_of, dtype_of


def stride_of(config: Mapping[str, Any]) -> int:
    """Pixels per latent, by an autoencoder's configuration."""
    return 2 ** (len(levels_of(config)) - 1)


def latents_of(encoded: Any, generator: torch.Generator | None = None) -> Tensor:
    """Of what `encode` returns: the posterior's mean, or with a generator a sample of it; or the latents themselves."""
    posterior = getattr(encoded, "latent_dist", None)
    if posterior is None:
        return encoded.latent
    return posterior.mean if generator is None else posterior.sample(generator)


def as_input(images: Tensor, network: Any) -> Tensor:
    """Pictures as an encoder takes them: in [-1, 1], in its place and precision."""
    return (2 * images - 1).to(device_of(network), dtype_of(network))


def scaled(latents: Tensor, config: Any) -> Tensor:
    """An autoencoder's latents, in float32 and of about unit variance over natural images."""
    return (latents.float() - _shift(config)) * config.scaling_factor


def unscaled(latents: Tensor, config: Any) -> Tensor:
    """The inverse of `scaled`."""
    return latents / config.scaling_factor + _shift(config)


def _shift(config: Any) -> float:
    return getattr(config, "shift_factor", None) or 0.0


def features_of(autoencoder: Any, images: Tensor) -> list[Tensor]:
    """What the encoder makes of images, RGB in [0, 1], at each resolution, where they are; with the graph to them."""
    hidden = autoencoder.encoder.conv_in(as_input(images, autoencoder))
    features = []
    again = torch.is_grad_enabled() and getattr(autoencoder.encoder, "gradient_checkpointing", False)
    for block in autoencoder.encoder.down_blocks:  # as in the encoder's own forward pass
        hidden = checkpoint(block, hidden, use_reentrant=False) if again else block(hidden)
        features.append(hidden.to(images.device))
    return features


def recompute_encoder(autoencoder: Any) -> None:
    """Keep only the inputs of the encoder's blocks, and run each block again in the backward pass."""
    if autoencoder._supports_gradient_checkpointing:
        autoencoder.enable_gradient_checkpointing()
        return
    for block in autoencoder.encoder.down_blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
