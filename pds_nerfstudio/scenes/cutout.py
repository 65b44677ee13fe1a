"""From a coarse map of where something is in a picture to its outline (Otsu 1979; GrabCut, Rother et al. 2004).

    map ─ Otsu ─► probably it / probably not / surely not ─ GrabCut on the picture's colours ─► mask

Why it works: a prior's maps have one value for eight pixels and more, and objects end where colours do. GrabCut learns
the colours of both sides from the coarse map and cuts along contrast.

The trap: what is surely not it has to be left out of the guess, or GrabCut takes in everything of the object's colour.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SURELY_NOT = 0.35
"""Places below this share of Otsu's threshold stay outside."""
ROUNDS = 3
"""GrabCut's iterations."""


def cut_out(image: Float[Tensor, "1 3 height width"], found: Float[Tensor, "_ _"]) -> Float[Tensor, "height width"]:
    """1 where the picture shows it, 0 elsewhere; all 0 where the map is the same everywhere.

    Args:
        image: RGB in [0, 1].
        found: how much a place shows it, on any scale and of any size.
    """
    import cv2

    enlarged = F.interpolate(found[None, None].float(), image.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    low, high = enlarged.aminmax()
    if not high > low:
        return torch.zeros_like(enlarged)
    levels = ((enlarged - low) / (high - low) * 255).byte().cpu().numpy()
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    marks = np.where(levels > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[levels < SURELY_NOT * threshold] = cv2.GC_BGD
    colours = (image[0].float().movedim(0, -1) * 255).round().clamp(0, 255).byte().cpu().numpy()
    colours = np.ascontiguousarray(colours[..., ::-1])  # OpenCV has blue first
    cv2.setRNGSeed(0)
    nowhere = (0, 0, 0, 0)  # the marks say where
    cv2.grabCut(colours, marks, nowhere, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return torch.from_numpy(inside).to(enlarged)
