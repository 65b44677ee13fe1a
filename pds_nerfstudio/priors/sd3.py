"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a transformer that learned a flow, and up to three text encoders.

    v̂ = transformer(x_σ, 1000 σ, [CLIP-L(y) | CLIP-bigG(y) | 0 ; T5(y)], pooled(y))

The two CLIPs' features stand side by side, filled up with zeros to T5's width, and T5's follow as further tokens. T5 is
optional: without it zeros stand in its place, and long prompts are followed less well.

The trap: the transformer sees squares of two latents, so that pictures are multiples of 16 pixels and not of 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.objectives import Latents
from pds_nerfstudio.priors.dialect import Times
from pds_nerfstudio.priors.latent import Answers, LatentPrior
from pds_nerfstudio.priors.stable_diffusion import token_ids
from pds_nerfstudio.priors.text_encoders import Text, brought_to

T5_TOKENS = 256
"""How much of a prompt T5 reads, as diffusers has it read."""


@dataclass(eq=False, kw_only=True)
class SD3Prior(LatentPrior):
    """A Stable Diffusion 3 or 3.5."""

    denoiser_part: ClassVar[str] = "transformer"

    transformer: Any
    """diffusers' SD3Transformer2DModel."""
    text_encoder: Any
    """transformers' CLIPTextModelWithProjection."""
    text_encoder_2: Any
    """The same, larger."""
    text_encoder_3: Any | None = None
    """transformers' T5EncoderModel; None goes without."""
    tokenizer: Any
    tokenizer_2: Any
    tokenizer_3: Any | None = None

    @property
    def size_multiple(self) -> int:
        """Two latents."""
        return self.latent_stride * self.transformer.config.patch_size

    def text_parts(self) -> dict[str, Any]:
        """All text encoders that there are."""
        parts = {name: getattr(self, name) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")}
        return {name: part for name, part in parts.items() if part is not None}

    def parts(self) -> dict[str, Any]:
        """The transformer and both CLIPs."""
        return {name: part for name, part in super().parts().items() if name != "text_encoder_3"}

    def readers(self) -> list[tuple[Any, int]]:
        """Those of both CLIPs, and T5's."""
        clip = [(tokenizer, tokenizer.model_max_length) for tokenizer in (self.tokenizer, self.tokenizer_2)]
        return clip if self.text_encoder_3 is None else [*clip, (self.tokenizer_3, T5_TOKENS)]

    def read(self, prompts: Sequence[str]) -> list[Text]:
        """Both CLIPs side by side, and T5 after them."""
        features, pooled = [], []
        pairs = (self.text_encoder, self.tokenizer), (self.text_encoder_2, self.tokenizer_2)
        with brought_to(self.device, [encoder for encoder, _ in pairs]) as place:
            for encoder, tokenizer in pairs:
                ids = token_ids(tokenizer, prompts, tokenizer.model_max_length).to(place)
                output = encoder(ids, output_hidden_states=True)
                features.append(output.hidden_states[-2].to(self.device))
                pooled.append(output.text_embeds.to(self.device))
        clip = torch.cat(features, dim=-1)
        width = self.transformer.config.joint_attention_dim
        together = torch.cat([F.pad(clip, (0, width - clip.shape[-1])), self._t5(prompts).to(clip)], dim=1)
        return [Text(*row) for row in zip(together, torch.cat(pooled, dim=-1), strict=True)]

    def _t5(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens width"]:
        """Zeros where there is none."""
        if self.text_encoder_3 is None:
            width = self.transformer.config.joint_attention_dim
            return torch.zeros(len(prompts), self.tokenizer.model_max_length, width, device=self.device)
        with brought_to(self.device, [self.text_encoder_3]) as place:
            ids = token_ids(self.tokenizer_3, prompts, T5_TOKENS).to(place)
            return self.text_encoder_3(ids)[0].to(self.device)

    def ask(self, network: Any, noisy: Latents, times: Times, texts: Text, **more: Any) -> Answers:
        """The transformer's velocity."""
        return network(
            hidden_states=noisy,
            timestep=times,
            encoder_hidden_states=texts.features,
            pooled_projections=texts.pooled,
            **more,
        ).sample

    def pipeline(self) -> Any:
        """The same networks as diffusers' StableDiffusion3Pipeline."""
        from diffusers import StableDiffusion3Pipeline  # pyright: ignore[reportPrivateImportUsage]

        return StableDiffusion3Pipeline(
            transformer=self.transformer,
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
            text_encoder_3=self.text_encoder_3,  # pyright: ignore[reportArgumentType]
            tokenizer_3=self.tokenizer_3,  # pyright: ignore[reportArgumentType]
        )
