"""Stable Diffusion XL (Podell et al. 2023): a larger U-Net, two text encoders, and sizes told beside the prompt.

    ε̂ = U-Net(x_t, t, [CLIP-L(y) | CLIP-bigG(y)], pooled(y), sizes)

Features are those of each encoder's last layer but one; the whole prompt's is the second encoder's. The sizes are those
of the picture itself: as large as it was and uncropped, as diffusers tells them.

The trap: the empty prompt is not read but all zeros, where `model_index.json` says so (force_zeros_for_empty_prompt),
which the published weights do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pds_nerfstudio.objectives import Latents
from pds_nerfstudio.priors.dialect import Times
from pds_nerfstudio.priors.latent import Answers, LatentPrior
from pds_nerfstudio.priors.stable_diffusion import token_ids
from pds_nerfstudio.priors.text_encoders import Text, brought_to


@dataclass(eq=False, kw_only=True)
class SDXLPrior(LatentPrior):
    """A Stable Diffusion XL."""

    denoiser_part: ClassVar[str] = "unet"

    unet: Any
    """diffusers' UNet2DConditionModel."""
    text_encoder: Any
    """transformers' CLIPTextModel."""
    text_encoder_2: Any
    """transformers' CLIPTextModelWithProjection."""
    tokenizer: Any
    tokenizer_2: Any
    empty_is_zero: bool = True
    """Whether the empty prompt is told as zeros."""
    _sizes: dict[Any, Tensor] = field(init=False, repr=False, default_factory=dict)

    def text_parts(self) -> dict[str, Any]:
        """Both text encoders."""
        return {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}

    def readers(self) -> list[tuple[Any, int]]:
        """Those of both CLIPs."""
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in (self.tokenizer, self.tokenizer_2)]

    def read(self, prompts: Sequence[str]) -> list[Text]:
        """Features of both encoders side by side."""
        features, pooled = [], None
        with brought_to(self.device, self.text_parts().values()) as place:
            for encoder, (tokenizer, length) in zip(self.text_parts().values(), self.readers(), strict=True):
                ids = token_ids(tokenizer, prompts, length).to(place)
                output = encoder(ids, output_hidden_states=True)
                features.append(output.hidden_states[-2].to(self.device))
                pooled = getattr(output, "text_embeds", None)
        assert pooled is not None  # the second encoder's
        rows = zip(prompts, torch.cat(features, dim=-1), pooled.to(self.device), strict=True)
        return [
            Text(f, p) if prompt or not self.empty_is_zero else Text(torch.zeros_like(f), torch.zeros_like(p))
            for prompt, f, p in rows
        ]

    def ask(self, network: Any, noisy: Latents, times: Times, texts: Text, **more: Any) -> Answers:
        """The U-Net's prediction for pictures of their own size, uncropped."""
        height, width = (side * self.latent_stride for side in noisy.shape[-2:])
        key = (height, width, noisy.dtype, noisy.device)
        if key not in self._sizes:  # made once: what is sent to a GPU makes the host wait
            told = [height, width, 0, 0, height, width]
            self._sizes[key] = torch.tensor(told, dtype=noisy.dtype, device=noisy.device)
        sizes = self._sizes[key]
        told = {"text_embeds": texts.pooled, "time_ids": sizes.expand(len(noisy), -1)}
        return network(noisy, times, texts.features, added_cond_kwargs=told, **more).sample

    def pipeline(self) -> Any:
        """The same networks as diffusers' StableDiffusionXLPipeline."""
        from diffusers import StableDiffusionXLPipeline  # pyright: ignore[reportPrivateImportUsage]

        return StableDiffusionXLPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            unet=self.unet,
            scheduler=self.scheduler,
            force_zeros_for_empty_prompt=self.empty_is_zero,
            add_watermarker=False,
        )
