"""FLUX.1-dev (Black Forest Labs 2024): a transformer that learned a flow, told its guidance; it refines and no more.

    v̂ = transformer(pack(x_σ), σ, ω, T5(y), pooled(y))         pack: squares of 2 x 2 latents, one token each

Guidance ω is a number that the network is given: it was distilled from a network that was asked twice. Score
distillation needs the two answers, since it follows the difference of guided predictions of two prompts; one answer
that guidance has gone into is off by what that leaves out. To noise a rendering and denoise it (SDEdit) takes
predictions alone.

The trap: its sampler shifts σ by the size of the picture. Here the shift is that of the size it was trained with,
whatever is shown, so that a strength of SDEdit means one amount of noise; Stable Diffusion 3's is much the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.objectives import Latents, Query
from pds_nerfstudio.priors.dialect import Times
from pds_nerfstudio.priors.families import FLUX
from pds_nerfstudio.priors.latent import Answers, LatentPrior
from pds_nerfstudio.priors.stable_diffusion import token_ids
from pds_nerfstudio.priors.text_encoders import Text, brought_to

T5_TOKENS = 512
"""How much of a prompt T5 reads, as diffusers has it read."""


@dataclass(eq=False, kw_only=True)
class FluxPrior(LatentPrior):
    """A FLUX.1-dev."""

    denoiser_part: ClassVar[str] = "transformer"

    transformer: Any
    """diffusers' FluxTransformer2DModel."""
    text_encoder: Any
    """transformers' CLIPTextModel, of which what it says of the whole prompt is taken."""
    text_encoder_2: Any
    """transformers' T5EncoderModel."""
    tokenizer: Any
    tokenizer_2: Any

    @property
    def size_multiple(self) -> int:
        """Two latents."""
        return 2 * self.latent_stride

    @property
    def trained_size(self) -> int:
        """1024, which its configuration does not say."""
        return FLUX.sample_size * self.latent_stride

    def text_parts(self) -> dict[str, Any]:
        """CLIP and T5."""
        return {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}

    def parts(self) -> dict[str, Any]:
        """The transformer and CLIP: no LoRA changes T5."""
        return {name: part for name, part in super().parts().items() if name != "text_encoder_2"}

    def readers(self) -> list[tuple[Any, int]]:
        """CLIP's and T5's."""
        return [(self.tokenizer, self.tokenizer.model_max_length), (self.tokenizer_2, T5_TOKENS)]

    def read(self, prompts: Sequence[str]) -> list[Text]:
        """T5's features, and CLIP's of the whole prompt."""
        with brought_to(self.device, [self.text_encoder]) as place:
            ids = token_ids(self.tokenizer, prompts, self.tokenizer.model_max_length).to(place)
            pooled = self.text_encoder(ids).pooler_output.to(self.device)
        with brought_to(self.device, [self.text_encoder_2]) as place:
            ids = token_ids(self.tokenizer_2, prompts, T5_TOKENS).to(place)
            features = self.text_encoder_2(ids)[0].to(self.device)
        return [Text(*row) for row in zip(features, pooled, strict=True)]

    def halves(self, query: Query) -> tuple[str]:
        """Its prompt: guidance is a number here."""
        return (query.prompt,)

    def _besides(self, queries: Sequence[Query], noisy: Latents, times: Times, texts: Text) -> Mapping[str, Any]:
        """The guidance of every row."""
        scales = [query.guidance_scale for query in queries for _ in range(len(query.noisy_latents))]
        told = {"guidance": torch.tensor(scales, device=noisy.device, dtype=noisy.dtype)}
        return {**super()._besides(queries, noisy, times, texts), **told}

    def ask(self, network: Any, noisy: Latents, times: Times, texts: Text, **more: Any) -> Answers:
        """The transformer's velocity."""
        height, width = noisy.shape[-2:]
        answer = network(
            hidden_states=pack(noisy),
            timestep=times / self.dialect.time_scale,
            encoder_hidden_states=texts.features,
            pooled_projections=texts.pooled,
            txt_ids=torch.zeros(texts.features.shape[1], 3, device=noisy.device, dtype=noisy.dtype),
            img_ids=places(height, width).to(noisy),
            **more,
        ).sample
        return unpack(answer, height, width)

    def pipeline(self) -> Any:
        """The same networks as diffusers' FluxPipeline."""
        from diffusers import FluxPipeline  # pyright: ignore[reportPrivateImportUsage]

        return FluxPipeline(
            transformer=self.transformer,
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
        )

    def _begin_sampling(self, num_steps: int) -> None:
        """As diffusers' pipeline has it: σ = 1, 1 − 1/N, …, 1/N, then shifted."""
        sigmas = torch.arange(num_steps, 0, -1, dtype=torch.float64) / num_steps
        self.scheduler.set_timesteps(sigmas=sigmas.tolist(), device=self.device)


def pack(latents: Latents) -> Float[Tensor, "batch tokens packed"]:
    """Squares of 2 x 2 latents as tokens, row by row: of each channel its four numbers."""
    squares = latents.unfold(2, 2, 2).unfold(3, 2, 2)  # batch channels rows columns 2 2
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Float[Tensor, "batch tokens packed"], height: int, width: int) -> Latents:
    """The latents, `height` x `width` of them, that `pack` made tokens of."""
    squares = tokens.unflatten(1, (height // 2, width // 2)).unflatten(3, (-1, 2, 2))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def places(height: int, width: int) -> Float[Tensor, "tokens 3"]:
    """Where each token of `height` x `width` latents lies: 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1).float()
