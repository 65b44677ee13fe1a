"""SANA (Xie et al. 2024): a transformer with linear attention that learned a flow, latents of 32 pixels, and Gemma.

    v̂ = transformer(x_σ, 1000 σ, Gemma2(instruction y))

Gemma 2 is a language model. It reads the prompt after an instruction of several hundred words, that it should describe
the picture well, and what it says of the instruction itself is then left out: the first token and the last 299 are kept
(section 3.1). The instruction is that of diffusers' pipeline. What guidance leads away from is read without.

The trap: prompts are shorter than 300 tokens, and the rest is masked. Stride 32 makes 1024 pixels 32 by 32 latents, so
that a picture of 512 has only 16 by 16: the smallest thing that can be changed is large.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pds_nerfstudio.objectives import Latents
from pds_nerfstudio.priors.dialect import Times
from pds_nerfstudio.priors.latent import Answers, LatentPrior
from pds_nerfstudio.priors.stable_diffusion import tokens_of
from pds_nerfstudio.priors.text_encoders import Text, brought_to

TOKENS = 300
"""How many of a prompt's tokens the transformer reads."""


@dataclass(eq=False, kw_only=True)
class SanaPrior(LatentPrior):
    """A SANA of the first two generations, which is guided and not distilled."""

    denoiser_part: ClassVar[str] = "transformer"

    transformer: Any
    """diffusers' SanaTransformer2DModel."""
    text_encoder: Any
    """transformers' Gemma2Model."""
    tokenizer: Any

    def text_parts(self) -> dict[str, Any]:
        """Gemma 2."""
        return {"text_encoder": self.text_encoder}

    def parts(self) -> dict[str, Any]:
        """The transformer: no LoRA changes Gemma."""
        return {"transformer": self.transformer}

    @property
    def size_multiple(self) -> int:
        """A latent, or several where they are seen in squares."""
        return self.latent_stride * self.transformer.config.patch_size

    def readers(self) -> list[tuple[Any, int]]:
        """Gemma's, which itself names no greatest length."""
        return [(self.tokenizer, TOKENS)]

    def read(self, prompts: Sequence[str]) -> list[Text]:
        """One at a time: the instruction is long."""
        with brought_to(self.device, [self.text_encoder]) as place:
            return [self._read_one(prompt, place) for prompt in prompts]

    def _read_one(self, prompt: str, place: torch.device) -> Text:
        led_away_from = prompt in ("", self.negative_prompt)
        before = "" if led_away_from else instruction()
        length = TOKENS + (len(self.tokenizer.encode(before)) - 2 if before else 0)
        self.tokenizer.padding_side = "right"
        tokens = tokens_of(self.tokenizer, [before + prompt.lower().strip()], length)
        mask = tokens.attention_mask.to(place)
        features = self.text_encoder(tokens.input_ids.to(place), attention_mask=mask)[0]
        kept = [0, *range(-TOKENS + 1, 0)]
        return Text(features[0, kept].to(self.device), mask=mask[0, kept].to(self.device))

    def ask(self, network: Any, noisy: Latents, times: Times, texts: Text, **more: Any) -> Answers:
        """The transformer's velocity."""
        return network(
            hidden_states=noisy,
            timestep=times * self.transformer.config.timestep_scale,
            encoder_hidden_states=texts.features,
            encoder_attention_mask=texts.mask,
            **more,
        ).sample

    def pipeline(self) -> Any:
        """The same networks as diffusers' SanaPipeline."""
        from diffusers import SanaPipeline  # pyright: ignore[reportPrivateImportUsage]

        return SanaPipeline(
            transformer=self.transformer,
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
        )


def instruction() -> str:
    """What stands before a prompt, as diffusers' pipeline has it."""
    from diffusers import SanaPipeline  # pyright: ignore[reportPrivateImportUsage]

    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return "\n".join(lines)
