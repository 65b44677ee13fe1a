"""Editing a part of a scene: which of its parameters may move, and how the others are held to the bit.

Splats: a Gaussian is held if its mean lies outside the region as the edit begins; it is then neither moved, nor cloned,
split or pruned. NeRFs: entries of hash tables that no point of the region reads are held, and the networks, which every
point reads; an entry is shared by points far apart, so that the rest of a NeRF is held nearly, not to the bit.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from PIL import Image
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.hull import Hull, Region
from pds_nerfstudio.scenes.perturb import entries_read, nerf_parameters
from pds_nerfstudio.scenes.rendering import render
from pds_nerfstudio.scenes.splatfacto import SplatfactoScene
from pds_nerfstudio.scenes.views import Views

MASK_SIZE = 256
"""Longer side, in pixels, at which masks are carried into the scene."""
Corners = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Box:
    """A box along the scene's axes: the least x, y, z and the greatest, in scene units.

    Raises ValueError where the least is not less.
    """

    corners: Corners

    def __post_init__(self) -> None:
        if not all(low < high for low, high in zip(self.corners[:3], self.corners[3:], strict=True)):
            raise ValueError(
                f"the box {_listed(self.corners)} is empty: give the least x, y, z and then the greatest, in the "
                "coordinates that the viewer shows."
            )

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether each point is in the box, its faces included."""
        low, high = (points.new_tensor(corner) for corner in (self.corners[:3], self.corners[3:]))
        return ((points >= low) & (points <= high)).all(-1)


@dataclass(frozen=True)
class Common:
    """What two regions have in common."""

    first: Region
    second: Region

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether each point is in both."""
        return self.first.contains(points) & self.second.contains(points)


class Held:
    """The parameters of a scene that an edit leaves alone, entry by entry."""

    def __init__(self, model: Model, region: Region | None):
        """Hold what lies outside `region` now; nothing without one.

        Raises:
            UserError: nothing lies inside.
        """
        self._model = model
        self._entries: dict[str, Tensor] = {}
        if isinstance(model, SplatfactoScene):
            model.hold(None if region is None else ~region.contains(model.means.detach()))
            if model.held is not None and bool(model.held.all()):
                low, high = model.means.detach().aminmax(dim=0)
                raise UserError(
                    f"The region to change contains none of the {len(model.means)} Gaussians, which lie between "
                    f"{_listed(low.tolist())} and {_listed(high.tolist())}: give another box or other masks."
                )
        elif region is not None and isinstance(model, NerfactoModel):
            read = entries_read(model, region)
            if not any(bool(entries.any()) for entries in read.values()):
                raise UserError("The region to change contains nothing of the scene: give another box or other masks.")
            self._entries = {
                name: ~read[name] if name in read else torch.ones_like(parameter, dtype=torch.bool)
                for name, parameter in nerf_parameters(model).items()
            }

    def of(self, name: str, parameter: Tensor) -> Bool[Tensor, "..."] | None:
        """Which entries of the model's parameter `name` are held; None for none."""
        if not isinstance(self._model, SplatfactoScene):
            return self._entries.get(name)
        if self._model.held is None or not name.startswith("gauss_params."):
            return None
        return self._model.held.reshape(-1, *[1] * (parameter.dim() - 1)).expand_as(parameter)

    def still(self, optimizer: torch.optim.Optimizer) -> None:
        """Before a step of `optimizer`: let it neither see a gradient of what is held nor remember one."""
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in self._model.named_parameters():
            if id(parameter) not in own or (held := self.of(name, parameter)) is None:
                continue
            for values in (parameter.grad, optimizer.state.get(parameter, {}).get("exp_avg")):
                if values is not None:
                    values.masked_fill_(held, 0)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Within this block anything may be changed; what is held is then put back."""
        before = {name: parameter.detach().clone() for name, parameter in self._model.named_parameters()}
        yield
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if (held := self.of(name, parameter)) is not None:
                    parameter.copy_(torch.where(held, before[name], parameter))


def hull_of_masks(model: Model, views: Views, folder: Path) -> Hull:
    """Where in space the images in `folder`, named like some of the views, are white.

    Raises:
        UserError: none of them is named like a view, or one cannot be read.
    """
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.is_file()}
    cameras, masks, renderings = [], [], []
    for index, name in enumerate(views.names):
        if (path := files.get(Path(name).stem)) is None:
            continue
        try:
            mask = torch.from_numpy(np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255)
        except OSError as error:
            raise UserError(f"The mask {path} cannot be read ({error}): replace it.") from error
        height, width = views.size(index)
        scale = min(1.0, MASK_SIZE / max(height, width))
        cameras.append(views.camera(index, round(height * scale), round(width * scale)))
        masks.append(mask.to(model.device))
        with torch.no_grad():
            renderings.append(render(model, cameras[-1]))
    if not masks:
        raise UserError(
            f"No image in {folder} is named like a training view, such as {Path(views.names[0]).stem}.png: name masks "
            "like the photographs they belong to."
        )
    return Hull.from_renderings(cameras, masks, renderings)


def _listed(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
