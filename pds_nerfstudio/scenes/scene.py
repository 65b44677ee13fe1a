"""What an edit needs from a scene, whichever family it is of: the one interface behind which NeRFs and splats differ.

    begin_edit ─► render ─► (gradients) ─► mask_gradients ─► step          each edit step
    perturb, freeze_outside                                                once, before the first
    extra_state / load_extra_state, state / restore                        across a resume, and back in time

A scene wraps a nerfstudio model rather than being one, because a run may hold nerfstudio's built-in models. It is a
plain object: a pipeline that holds one keeps ordinary checkpoints. A third family is one file with a subclass of
`Scene`, and one entry of `families.FAMILIES`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.hull import Bounds, Hull, Region, spread_over
from pds_nerfstudio.scenes.perturb import Eta
from pds_nerfstudio.scenes.rendering import Chunks, Rendering
from pds_nerfstudio.scenes.views import Views

Family = Literal["nerfacto", "splatfacto"]

FROZEN = "frozen"
"""How the names begin, in the extra state of a scene, of what says which part is frozen."""
MODEL = "_model."
"""Prefix of the scene's weights in a pipeline's state dict."""


@dataclass(frozen=True)
class Densify:
    """When Gaussians are cloned, split and pruned, in edit steps."""

    start: int
    """Step after which that begins."""
    stop: int
    """Step at which it ends; 0 keeps the number of Gaussians."""
    every: int
    """Steps between two refinements."""
    growth: float
    """About how many times as many Gaussians there are in the end, pruning aside."""

    @property
    def share(self) -> float:
        """The share of Gaussians that each refinement clones or splits to get there."""
        return self.growth ** (1 / max((self.stop - self.start) // self.every, 1)) - 1


class Scene(ABC):
    """A nerfstudio model as a scene to edit. Make one with `families.scene_of`."""

    family: ClassVar[Family]
    model_type: ClassVar[type[Model]]
    """nerfstudio's model of this family."""
    config_type: ClassVar[type]
    """The settings of that model."""
    film: ClassVar[tuple[int, int]]
    """Frames and shorter side in pixels of a film that a CPU renders in about a minute."""
    enlarges: ClassVar[bool]
    """Whether its pictures may be larger than the photographs: as fast, and nicer to look at."""

    def __init__(self, model: Model):
        self.model: Any = model

    @staticmethod
    def require(device: str) -> None:
        """Raise UserError where this family cannot be rendered on a device; asked before anything is loaded."""
        return

    def begin_edit(self, densify: Densify | None = None) -> None:  # noqa: B027 - a NeRF has nothing to prepare
        """Show the scene as a finished one and count its edit from step 0; without `densify` its size stays."""

    def populate(  # noqa: B027 - a NeRF has values everywhere
        self, count: int, region: Region, seed: int, bounds: Bounds | None = None
    ) -> None:
        """Add to the region, whose bounds may be known, what an edit can be made of, before optimisers are built."""

    def made_from(self, views: Views) -> None:  # noqa: B027 - a NeRF is as smooth at any size
        """Know the photographs, so that the viewer's pictures, which may be larger, are as smooth as they are."""

    def show_on(self, other: Model) -> None:  # noqa: B027 - a NeRF has its own background
        """Be shown in the viewer as another model of this family is: on its background, as smooth as it."""

    def chunks(
        self, rays: int | None, backward_share: float = 1.0, regularise: bool = False, budget: float = math.inf
    ) -> Chunks:
        """How to render its views; `rays` at once, or by default as many as the free memory allows, or so many bytes
        where they are fewer."""
        return Chunks()

    @abstractmethod
    def render(
        self,
        camera: Cameras,
        chunks: Chunks = Chunks(),
        *,
        regularise: bool = False,
        within: Region | None = None,
    ) -> Rendering:
        """Render one view (batch size 1) with the graph of the scene's parameters.

        What is rendered is what the viewer shows; see `scenes.rendering`. With `regularise`, a NeRF's own losses on
        its proposals and weights come along; they need a camera with a view index where poses are optimised. With
        `within`, only what lies in that region is shown, before a plain background.

        Raises:
            ValueError: for more than one camera.
        """

    @property
    def background(self) -> Float[Tensor, "3"]:
        """What its transparent photographs are put on, RGB in [0, 1]: as its renderings are."""
        return torch.zeros(3)

    @abstractmethod
    def photometric(
        self, views: Views, images: Mapping[int, UInt8[Tensor, "3 _ _"]], generator: torch.Generator, rays: int
    ) -> dict[str, Float[Tensor, ""]]:
        """What the family's reconstruction trains on, against `images` in place of their views' photographs.

        Args:
            images: by number of the view.
            generator: draws the view, or the rays.
            rays: how many a NeRF draws.
        """

    @abstractmethod
    def perturb(self, eta: Eta, fresh: Callable[[], Model], seed: int, where: Region | None) -> str:
        """θ ← (1−η) θ_src + η θ₀ in place (Hong et al. 2024, Alg. 1), frozen entries too; returns what was done.

        Args:
            fresh: builds a scene of the same settings, initialised anew from `seed`.
            seed: of the draw θ₀.
            where: perturb only what lies in it; None perturbs the whole scene.
        """

    def region_of_masks(
        self,
        cameras: Sequence[Cameras],
        renderings: Sequence[Rendering],
        masks: Sequence[Bool[Tensor, "_ _"]],
        counted: Sequence[Bool[Tensor, "_ _"]],
    ) -> Region:
        """The part of space that masks of several views show: their hull.

        Args:
            cameras: one each, batch size 1, at the size of its rendering and its mask.
            counted: which pixels have a say; one that has none takes its neighbour's.
        """
        spread = [spread_over(mask, counts) for mask, counts in zip(masks, counted, strict=True)]
        return Hull.from_renderings(cameras, [mask.float().to(self.model.device) for mask in spread], renderings)

    @abstractmethod
    def freeze_outside(self, region: Region | None) -> str | None:
        """Freeze what lies outside the region now, nothing without one; returns how much may change.

        Raises:
            UserError: nothing lies inside.
        """

    @abstractmethod
    def frozen(self, name: str, parameter: Tensor) -> Bool[Tensor, "..."] | None:
        """Which entries of the model's parameter `name` are frozen, to be broadcast over it; None for none."""

    def mask_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Before a step of `optimizer`: let it neither see a gradient of what is frozen nor remember one."""
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in self.model.named_parameters():
            if id(parameter) not in own or (frozen := self.frozen(name, parameter)) is None:
                continue
            for values in (parameter.grad, optimizer.state.get(parameter, {}).get("exp_avg")):
                if values is not None:
                    values.masked_fill_(frozen, 0)

    @contextmanager
    def keeping_frozen(self) -> Iterator[None]:
        """Within this block anything may be changed; what is frozen is then put back."""
        before = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        yield
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if (frozen := self.frozen(name, parameter)) is not None:
                    parameter.copy_(torch.where(frozen, before[name], parameter))

    @abstractmethod
    def extra_state(self) -> dict[str, Tensor]:
        """What an edit that goes on needs beside the parameters: what is frozen, and how far densification is."""

    @abstractmethod
    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `extra_state` gave."""

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs: the tensors themselves."""
        weights = {MODEL + name: value for name, value in self.model.state_dict().items()}
        return {name: value.detach() for name, value in (weights | self.extra_state()).items()}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Make the scene what it was when a copy of its `state` was made."""
        load_weights(self.model, kept)
        self.load_extra_state({name: value for name, value in kept.items() if not name.startswith(MODEL)})

    @staticmethod
    @abstractmethod
    def export_commands(config: Path, out: Path) -> list[list[str]]:
        """`ns-export` commands that write a run's scene to `out`."""


def load_weights(model: Model, state: Mapping[str, Tensor]) -> None:
    """Load the scene's part of a pipeline state dict; weights of metrics may be missing or left over.

    Raises:
        UserError: where the weights belong to another scene: other settings, or another number of photographs.
    """
    weights = {name.removeprefix(MODEL): value for name, value in state.items() if name.startswith(MODEL)}
    missing = [
        name for name in model.state_dict() if name not in weights and not name.startswith(("lpips", "psnr", "ssim"))
    ]
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[1:2]).strip() or str(error)
        raise UserError(
            f"The run's weights do not fit its settings and data ({reason}): edit it with the dataset it was made from."
        ) from error
    if missing:
        raise UserError(
            f"The run's checkpoint lacks {len(missing)} weights that its settings ask for, the first is {missing[0]}: "
            "leave the model's settings as the run has them."
        )
