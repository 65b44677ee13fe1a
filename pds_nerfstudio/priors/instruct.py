"""InstructPix2Pix (Brooks et al. 2023): a prior that is shown the picture to be edited beside the noisy one.

    ε̂ = ε(∅, ∅) + s_I (ε(I, ∅) − ε(∅, ∅)) + s_T (ε(I, y) − ε(I, ∅))

I: the latent of the picture, as four more input channels; s_I, s_T: guidance by picture and by text. Why it works: the
network has seen pairs before and after an edit, so that it copies from I what y does not speak of. The trap: I is the
VAE's posterior mean *without* the scaling factor that latents otherwise carry.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import Latents, NoiseSchedule, Query
from pds_nerfstudio.priors.autoencoders import unscaled
from pds_nerfstudio.priors.check import TOYBOX, check_prior
from pds_nerfstudio.priors.folder import check_safetensors
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

TOYBOX_INSTRUCT = TOYBOX.parent / "instruct" / "unet.safetensors"
"""toybox's editing U-Net, all of it: it began as the first edition of its prior, which it does not need."""


class InstructPrior(StableDiffusionPrior):
    """A diffusion model whose U-Net takes the latent of a picture beside the noisy latent."""

    def as_condition(self, latents: Latents) -> Latents:
        """x⁰ of a picture as the U-Net is shown it: unscaled."""
        return unscaled(latents, self.vae.config)

    def shown(self, original: Latents, image_guidance: float) -> "Shown":
        """This prior as it edits pictures of these latents x⁰."""
        return Shown(self, original, image_guidance)


@dataclass(frozen=True, eq=False)
class Shown:
    """An `InstructPrior` before the picture to be edited. Satisfies `objectives.Prior`."""

    prior: InstructPrior
    original: Latents
    """x⁰ of the picture."""
    image_guidance: float
    """s_I; a query's own guidance scale is s_T."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The prior's."""
        return self.prior.schedule

    @torch.no_grad()
    def predict_noise(self, queries: Sequence[Query]) -> list[Latents]:
        """ε̂ of every query under both guidances, in one U-Net batch; each query has as many latents as the original."""
        condition = self.prior.as_condition(self.original)
        nothing, unlike = torch.zeros_like(condition), self.prior.negative_prompt
        asked = [
            Query(torch.cat([query.noisy_latents, shown.to(query.noisy_latents)], dim=1), query.t, prompt)
            for query in queries
            for shown, prompt in ((nothing, unlike), (condition, unlike), (condition, query.prompt))
        ]
        answers = iter(self.prior._forward(asked, None))
        predictions = []
        for query in queries:
            neither, by_image, by_both = next(answers), next(answers), next(answers)
            guided = neither + self.image_guidance * (by_image - neither) + query.guidance_scale * (by_both - by_image)
            predictions.append(self.prior._to_epsilon(query, guided))
        return predictions


def widened(prior: StableDiffusionPrior) -> InstructPrior:
    """A text-to-image prior that takes a picture as well, and does not look at it before it has learned."""
    unet, old = prior.unet, prior.unet.conv_in
    channels = prior.latent_channels
    conv_in = torch.nn.Conv2d(2 * channels, old.out_channels, old.kernel_size, old.stride, old.padding).to(old.weight)
    new_channels = torch.zeros_like(conv_in.weight)[:, channels:]
    conv_in.load_state_dict({"weight": torch.cat([old.weight, new_channels], dim=1), "bias": old.bias})
    unet.conv_in = conv_in.requires_grad_(False)
    unet.register_to_config(in_channels=2 * channels)
    return _editing(prior)


def _editing(prior: StableDiffusionPrior) -> InstructPrior:
    editing = InstructPrior(**{part.name: getattr(prior, part.name) for part in fields(prior) if part.init})
    editing.words = dict(prior.words)
    return editing


def check_instruct(name: str) -> None:
    """Raise a UserError of one sentence if the editing model `name` cannot be loaded; see `check.check_prior`."""
    check_prior(name, "editing")
    if name == "toybox":
        if not TOYBOX_INSTRUCT.is_file():
            raise UserError(
                f"toybox's editing network is not in this installation ({TOYBOX_INSTRUCT}): train it with "
                "data_scripts/train_toybox_instruct.py --install."
            )
        check_safetensors(TOYBOX_INSTRUCT)


def load_instruct(
    name: str, device: torch.device | str, dtype: torch.dtype | None = None, **settings: Any
) -> InstructPrior:
    """Load an InstructPix2Pix: `toybox`, a local diffusers folder, or a hub id such as timbrooks/instruct-pix2pix.

    Args:
        dtype, settings: as `load_prior` takes them.

    Raises:
        UserError: see `check_instruct`.
    """
    check_instruct(name)
    prior = load_prior(name, device, dtype, purpose="editing", **settings)
    if name != "toybox":
        return _editing(prior)
    return with_toybox_weights(prior, TOYBOX_INSTRUCT)


def with_toybox_weights(prior: StableDiffusionPrior, path: Path) -> InstructPrior:
    """toybox's prior as its editing network, by the weights that `path` holds."""
    instruct, own = widened(prior), load_file(path)
    if set(own) != set(instruct.unet.state_dict()):
        raise UserError(f"{path} does not belong to the toybox prior: train it again (train_toybox_instruct.py).")
    instruct.unet.load_state_dict(own)
    return instruct
