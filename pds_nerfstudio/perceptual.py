"""How different two pictures look: LPIPS where its weights are on this machine, else features of a prior's VAE."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.deferred_lpips import lpips_weights_on_disk
from pds_nerfstudio.objectives.perturb import feature_distance


class Perceptual:
    """A distance of pictures [B 3 H W], RGB in [0, 1], summed over the batch, with the graph of the first of them.

    Not an nn.Module: as an attribute of a pipeline it is in no checkpoint.
    """

    def __init__(self, features: Callable[[Tensor], Any] | None, device: torch.device | str = "cpu"):
        """`features` of a batch of pictures, such as `StableDiffusionPrior.features`, are for want of LPIPS."""
        self._features, self._lpips = features, None
        self.name = "the distance of VAE features (LPIPS' AlexNet is not on this machine)"
        if lpips_weights_on_disk():
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            lpips: Any = LearnedPerceptualImagePatchSimilarity(net_type="alex", reduction="sum", normalize=True)
            self._lpips, self.name = (lpips.to(device).requires_grad_(False).eval(),), "LPIPS (AlexNet)"

    def __call__(self, image: Tensor, reference: Tensor) -> Float[Tensor, ""]:
        if self._lpips is not None:
            return self._lpips[0](image.clamp(0, 1), reference.clamp(0, 1))
        assert self._features is not None
        with torch.no_grad():
            features = self._features(reference)
        return feature_distance(self._features(image), features)
