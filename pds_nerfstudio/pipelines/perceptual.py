"""How different two pictures look: LPIPS where its weights are on this machine, else features of the prior's VAE."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from pds_nerfstudio.compat import lpips_weights_on_disk
from pds_nerfstudio.objectives.perturb import feature_distance

if TYPE_CHECKING:
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior


class Perceptual:
    """A distance of pictures [B 3 H W], RGB in [0, 1], summed over the batch, with the graph of the first of them.

    Not an nn.Module: as an attribute of a pipeline it is in no checkpoint.
    """

    def __init__(self, prior: "StableDiffusionPrior", device: torch.device | str):
        self._prior, self._lpips = prior, None
        if not lpips_weights_on_disk():
            CONSOLE.log(
                "The perceptual loss compares features of the prior's VAE encoder: the weights of LPIPS (AlexNet) are "
                "not on this machine."
            )
            return
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        CONSOLE.log("The perceptual loss is LPIPS (AlexNet).")
        lpips: Any = LearnedPerceptualImagePatchSimilarity(net_type="alex", reduction="sum", normalize=True)
        self._lpips = (lpips.to(device).requires_grad_(False).eval(),)

    def __call__(self, image: Tensor, reference: Tensor) -> Float[Tensor, ""]:
        if self._lpips is not None:
            return self._lpips[0](image.clamp(0, 1), reference)
        with torch.no_grad():
            features = self._prior.features(reference)
        return feature_distance(self._prior.features(image), features)
