"""How much a prior computes in an edit step, counted from its configuration: nothing is loaded, and no GPU is asked.

Its networks are built on torch's meta device, where tensors have shapes and no values, and run once each. What is
counted are products of matrices and convolutions, two floating point operations for a multiply-add.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from pds_nerfstudio.priors.autoencoders import latents_of, stride_of
from pds_nerfstudio.priors.folder import family_in
from pds_nerfstudio.priors.footprint import inputs_of, networks_of


@dataclass(frozen=True)
class Work:
    """Floating point operations of each pass, for one view."""

    row: int
    """The denoiser, of one row of a batch."""
    encoder: int
    """The VAE's encoder, forward."""
    back: int
    """The same, back to the picture."""

    def of_step(self, rows: int, lessons: int) -> int:
        """What a step of score distillation needs at the least.

        Args:
            rows: predictions, two for each that is guided.
            lessons: rows that an adapter learns from; what they answer is among `rows`.
        """
        return (rows + 2 * lessons) * self.row + self.encoder + self.back


def count_work(folder: Path, height: int, width: int) -> Work:
    """Count the passes of a prior in diffusers' folder layout.

    Args:
        folder: of which configurations are read.
        height, width: of a view in pixels, multiples of the latent stride.
    """
    vae, denoiser = networks_of(folder)
    stride = stride_of(vae.config)
    for network in (vae, denoiser):
        network.requires_grad_(False).eval()
    with torch.device("meta"):
        image = torch.zeros(1, 3, height, width, requires_grad=True)
        with FlopCounterMode(display=False) as forward:
            encoded = latents_of(vae.encode(image))
        with FlopCounterMode(display=False) as back:
            encoded.sum().backward()
        latents, told = inputs_of(denoiser, family_in(folder), 1, (height // stride, width // stride), torch.float32)
        with torch.no_grad(), FlopCounterMode(display=False) as row:
            denoiser(latents, **told)
    return Work(row.get_total_flops(), forward.get_total_flops(), back.get_total_flops())
