"""What in a scene is its subject, where a user has named a point on it or a box around it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from nerfstudio.models.base_model import Model
from torch import Tensor

from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.orbit import Subject, find_subject, subject_in_box
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.region import Corners
from pds_nerfstudio.scenes.views import Views

LOOKS = 12
"""Views by which surfaces are found, evenly chosen."""
SIDE = 64
"""Their shorter side, in pixels."""


def subject_at(model: Model, views: Views, named: Sequence[float], reach: float) -> Subject:
    """The subject that x, y, z, radius are, or on which the point x, y, z lies.

    Args:
        reach: larger than the subject, and smaller than the way to its surroundings.

    Raises:
        UserError: there is nothing near that point.
    """
    point = torch.tensor(named[:3], dtype=torch.float32)
    return Subject(point, named[3]) if len(named) > 3 else find_subject(*surfaces(model, views), point, reach)


def subject_within(model: Model, views: Views, box: Corners) -> Subject:
    """The subject that a box encloses.

    Raises:
        UserError: it encloses nothing that the views show.
    """
    corners = torch.tensor(box, dtype=torch.float32)
    return subject_in_box(*surfaces(model, views), corners[:3], corners[3:])


@torch.no_grad()
def surfaces(model: Model, views: Views) -> tuple[Float[Tensor, "points 3"], Float[Tensor, " points"]]:
    """Points on the surfaces that views show, in scene units, and the opacity of the pixel that shows each."""
    points, opacity = [], []
    for index in evenly(len(views), LOOKS):
        height, width = views.size(index)
        smaller = SIDE / min(height, width)
        camera = views.camera(index, round(height * smaller), round(width * smaller), device=model.device)
        rendering = render(model, camera)
        rays = camera.generate_rays(camera_indices=0, keep_shape=True).flatten()
        distance = rendering.depth.flatten()[:, None] * rays.metadata["directions_norm"]
        points.append((rays.origins + distance * rays.directions).cpu())
        opacity.append(rendering.accumulation.flatten().cpu())
    return torch.cat(points), torch.cat(opacity)
