"""A prior that knows where it looks: noise for single views, views with a camera, and several views jointly.

    ε̂(x_t^{1..F}, t, y, M^{1..F})       one t and one prompt for the F views of a group (MVDream, Shi et al. 2023)

Stable Diffusion's U-Net with two additions: the camera's sixteen numbers (see `objectives.cameras`) become an embedding
that is added to that of the timestep, and self-attention runs over all views of a group (`priors.view_attention`). Both
halves of guidance see the cameras. Why it works: views that attend to each other agree
on one object, and an embedding of the azimuth tells front from back, so that an object gets one face.

The trap: the U-Net needs a camera for every row. Rows without one are given sixteen zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from pds_nerfstudio.files import write_whole
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.objectives.cameras import CAMERA_NUMBERS, without_framing
from pds_nerfstudio.priors.folder import CAMERA_SETTINGS
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.priors.view_attention import ViewAttention


@dataclass(eq=False)
class MultiViewPrior(StableDiffusionPrior):
    """A Stable Diffusion whose U-Net takes cameras; without them it is a `StableDiffusionPrior` like any other."""

    takes_cameras: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.unet.set_attn_processor(ViewAttention())

    def without_cameras(self, rows: int) -> dict[str, Any]:
        """Sixteen zeros for each row."""
        return {"class_labels": torch.zeros(rows, CAMERA_NUMBERS, device=self.device, dtype=self.dtype)}

    def _placed(self, queries: Sequence[Query]) -> dict[str, Any]:
        """The cameras of all rows, zeros where there is none, and which rows belong together.

        Raises:
            ValueError: the views of a group have different t, or a query not one camera for each of its samples.
        """
        vectors, groups = [], []
        for query in queries:
            rows, together = len(query.noisy_latents), 1
            vector = torch.zeros(rows, CAMERA_NUMBERS)
            if query.cameras is not None:
                matrices, together = query.cameras.matrices, query.cameras.together
                if len(matrices) != rows:
                    raise ValueError(f"A query has {len(matrices)} cameras for {rows} samples: give one each.")
                # Asked of groups alone: the answer costs a wait for a GPU.
                if together > 1 and bool((query.t.reshape(-1, together) != query.t[::together, None]).any()):
                    raise ValueError("The views of a group have different t: they are predicted jointly at one.")
                vector = (matrices if self.framing else without_framing(matrices)).flatten(1)
            for _ in self.halves(query):
                vectors.append(vector.to(self.device, self.dtype))
                groups.append((rows // together, together))
        return {"class_labels": torch.cat(vectors), "cross_attention_kwargs": {"groups": tuple(groups)}}

    def save(self, folder: Path) -> None:
        """As a `StableDiffusionPrior` is saved, with what its cameras say beside it."""
        super().save(folder)
        write_whole(folder / CAMERA_SETTINGS, f'{{"framing": {str(self.framing).lower()}}}\n')
