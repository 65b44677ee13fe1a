"""Stable Diffusion 1.x and 2.x, and whatever is built like them (Rombach et al. 2022): a U-Net, one text encoder.

    ε̂ = U-Net(x_t, t, CLIP(y))

A ControlNet may stand beside the U-Net, and words of one's own may be added to the prompts. A folder with a flow's
scheduler, such as toybox's flow prior, differs in its dialect alone.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Integer
from torch import Tensor

from pds_nerfstudio.objectives import Latents, Query
from pds_nerfstudio.priors.dialect import Times
from pds_nerfstudio.priors.latent import Answers, LatentPrior
from pds_nerfstudio.priors.text_encoders import Text


@dataclass(eq=False, kw_only=True)
class StableDiffusionPrior(LatentPrior):
    """A Stable Diffusion 1.x or 2.x."""

    denoiser_part: ClassVar[str] = "unet"

    unet: Any
    """diffusers' UNet2DConditionModel."""
    text_encoder: Any
    """transformers' CLIPTextModel."""
    tokenizer: Any
    """transformers' CLIPTokenizer."""
    words: dict[str, str] = field(init=False, repr=False, default_factory=dict)
    """Names of textual inversions, and the tokens that each stands for."""

    def text_parts(self) -> dict[str, Any]:
        """The one text encoder."""
        return {"text_encoder": self.text_encoder}

    def readers(self) -> list[tuple[Any, int]]:
        """CLIP's."""
        return [(self.tokenizer, self.tokenizer.model_max_length)]

    def read(self, prompts: Sequence[str]) -> list[Text]:
        """The text encoder's last features, one prompt at a time."""
        return [Text(self.text_encoder(self.token_ids(prompt)).last_hidden_state[0]) for prompt in prompts]

    def token_ids(self, prompt: str) -> Integer[Tensor, "1 tokens"]:
        """What the text encoder reads: as many tokens as it can, the prompt's and then padding."""
        for word, known in self.words.items():
            prompt = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", known, prompt)
        return token_ids(self.tokenizer, [prompt], self.tokenizer.model_max_length).to(self.device)

    def ask(self, network: Any, noisy: Latents, times: Times, texts: Text, **more: Any) -> Answers:
        """The U-Net's prediction."""
        return network(noisy, times, texts.features, **more).sample

    def pipeline(self) -> Any:
        """The same networks as diffusers' StableDiffusionPipeline."""
        from diffusers import StableDiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )

    def _networks(self) -> list[Any]:
        return [*super()._networks(), *filter(None, [self.controlnet])]

    def _besides(self, queries: Sequence[Query], noisy: Latents, times: Times, texts: Text) -> Mapping[str, Any]:
        placed = self._placed(queries)
        pictures = [query.control for query in queries for _ in self.halves(query)]
        return {**self._controlled((noisy, times, texts.features), pictures, placed), **placed}

    def _placed(self, queries: Sequence[Query]) -> dict[str, Any]:
        """What tells the U-Net where its rows are seen from: nothing, for a prior that takes no cameras."""
        if any(query.cameras is not None for query in queries):
            raise ValueError("A query has cameras and this prior takes none: leave cameras at None.")
        return {}

    def _controlled(
        self, inputs: tuple[Tensor, ...], pictures: Sequence[Tensor | None], placed: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the ControlNet adds to the U-Net's features, as the U-Net takes it; nothing without pictures.

        One that was made of a U-Net which takes cameras is told them too.
        """
        given = [picture for picture in pictures if picture is not None]
        if not given:
            return {}
        if self.controlnet is None:
            raise ValueError("A query has a control picture and this prior no ControlNet: leave control at None.")
        if len(given) < len(pictures):
            raise ValueError("Some queries of an adapter have a control picture and others none: give it to all.")
        picture = torch.cat(given).to(self.device, self.dtype)
        with torch.no_grad():
            labels = placed.get("class_labels") if self.controlnet.config.class_embed_type else None
            down, mid = self.controlnet(*inputs, controlnet_cond=picture, class_labels=labels, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def token_ids(tokenizer: Any, prompts: Sequence[str], length: int) -> Integer[Tensor, "prompts tokens"]:
    """Prompts as `length` tokens each (see `tokens_of`)."""
    return tokens_of(tokenizer, prompts, length).input_ids


def tokens_of(tokenizer: Any, prompts: Sequence[str], length: int) -> Any:
    """Prompts as `length` tokens each, their own and then padding, and a mask that is 1 at their own.

    A prompt that is longer loses its end, with a warning.
    """
    for prompt in prompts:
        tokens = len(tokenizer(prompt, verbose=False).input_ids)
        if tokens > length:
            warnings.warn(
                f"The prompt has {tokens} tokens and the prior reads {length}: its end is ignored ({prompt!r}).",
                stacklevel=2,
            )
    return tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
