"""splatfacto scenes: rasterised in one pass, Gaussians frozen one by one.

A Gaussian is frozen if its mean lies outside the region as the edit begins; it is then neither moved, nor cloned, split
or pruned. Which ones are frozen is kept by the densification strategy alone: gsplat carries its state along as the
number of Gaussians changes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.images import to_channels_last
from pds_nerfstudio.scenes.hull import Bounds, Region
from pds_nerfstudio.scenes.kernels import require_splats
from pds_nerfstudio.scenes.lift import members_of_masks
from pds_nerfstudio.scenes.perturb import Eta, perturb_splats
from pds_nerfstudio.scenes.populate import populate
from pds_nerfstudio.scenes.rendering import Chunks, Rendering, as_image, evaluating, require_one
from pds_nerfstudio.scenes.scene import FROZEN, Densify, Scene
from pds_nerfstudio.scenes.views import Views


class SplatScene(Scene):
    """A splatfacto model: -big and earlier edits too."""

    family = "splatfacto"
    model_type = SplatfactoModel
    config_type = SplatfactoModelConfig
    film = (60, 256)
    enlarges = True

    @staticmethod
    def require(device: str) -> None:
        """On a GPU, gsplat's kernels."""
        require_splats(device)

    def begin_edit(self, densify: Densify | None = None) -> None:
        """See `SplatfactoScene.begin_edit`."""
        if densify is None or not densify.stop:
            self.model.begin_edit()
            return
        self.model.begin_edit(
            refine_start=densify.start,
            refine_stop=densify.stop,
            refine_every=densify.every,
            grow_share=densify.share,
        )

    def populate(self, count: int, region: Region, seed: int, bounds: Bounds | None = None) -> None:
        """So many Gaussians, see `scenes.populate`."""
        populate(self.model, count, region, torch.Generator().manual_seed(seed), bounds)

    def made_from(self, views: Views) -> None:
        """See `SplatfactoScene.focal`."""
        self.model.focal = float(views.cameras.fx.max())

    def show_on(self, other: Model) -> None:
        """See `Scene.show_on`."""
        self.model.set_background(other.background_color)  # pyright: ignore[reportArgumentType]
        self.model.focal = getattr(other, "focal", None)

    def render(
        self,
        camera: Cameras,
        chunks: Chunks = Chunks(),
        *,
        regularise: bool = False,
        within: Region | None = None,
    ) -> Rendering:
        """See `Scene.render`; splats have no losses of their own beside a rendering.

        Densification hears of no rendering that shows a part of them: their numbers would be others.
        """
        require_one(camera)
        model, camera = self.model, camera.to(self.model.device)
        with evaluating(model):
            # The viewer leaves its crop behind.
            crop_box, model.crop_box = model.crop_box, None if within is None else _Crop(within)
            try:
                camera.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera)
                outputs = model.get_outputs(camera)
            finally:
                model.crop_box = crop_box
        remember = getattr(model, "remember_rendering", None)  # nerfstudio's own has none
        if remember is not None and within is None:
            remember()
        rgb, depth, accumulation = (torch.as_tensor(outputs[name]) for name in ("rgb", "depth", "accumulation"))
        return Rendering(as_image(rgb), as_image(depth), as_image(accumulation))

    @property
    def background(self) -> Float[Tensor, "3"]:
        """See `Scene.background`."""
        with evaluating(self.model):
            return self.model._get_background_color()

    def photometric(
        self, views: Views, images: Mapping[int, UInt8[Tensor, "3 _ _"]], generator: torch.Generator, rays: int
    ) -> dict[str, Float[Tensor, ""]]:
        """splatfacto's losses on one of the images."""
        indices = sorted(images)
        index = indices[int(torch.randint(len(indices), (), generator=generator))]
        target = images[index][None].float() / 255
        rendering = self.render(views.camera(index, *target.shape[-2:], device=self.model.device))
        shown, wanted = (to_channels_last(image)[0] for image in (rendering.image, target.to(rendering.image)))
        return self.model.get_loss_dict({"rgb": shown, "background": wanted.new_zeros(3)}, {"image": wanted})

    def perturb(self, eta: Eta, fresh: Callable[[], Model], seed: int, where: Region | None) -> str:
        """Means and log-scales by `eta.geometry`, opacities and colours by their own; nothing is built anew."""
        generator, frozen = torch.Generator().manual_seed(seed), self.model.frozen
        inside = None if where is None or frozen is None else where.contains(self.model.means)
        count = perturb_splats(self.model, eta.of_splats(), generator, where)
        if count and frozen is not None:  # what is frozen is put back
            count = int((~frozen if inside is None else inside & ~frozen).sum())
        return f"{count} of {len(self.model.means)} Gaussians perturbed."

    def region_of_masks(
        self,
        cameras: Sequence[Cameras],
        renderings: Sequence[Rendering],
        masks: Sequence[Bool[Tensor, "_ _"]],
        counted: Sequence[Bool[Tensor, "_ _"]],
    ) -> Region:
        """The Gaussians that the masks show: sharper than a hull, since it asks how much of each is seen."""
        return members_of_masks(self.model, cameras, masks, counted)

    def freeze_outside(self, region: Region | None) -> str | None:
        """Freeze the Gaussians whose means lie outside."""
        means = self.model.means.detach()
        frozen = None if region is None else ~region.contains(means)
        if frozen is not None and bool(frozen.all()):
            low, high = means.aminmax(dim=0)
            raise UserError(
                f"The region to change contains none of the {len(means)} Gaussians, which lie between "
                f"{_listed(low.tolist())} and {_listed(high.tolist())}: give another box, masks, words or click."
            )
        self.model.freeze(frozen)
        return None if frozen is None else f"{int((~frozen).sum())} of {len(frozen)} Gaussians may change."

    def frozen(self, name: str, parameter: Tensor) -> Bool[Tensor, "..."] | None:
        """All values of the Gaussians that are frozen."""
        frozen = self.model.strategy_state.get(FROZEN)
        if frozen is None or not name.startswith("gauss_params."):
            return None
        return frozen.reshape(-1, *[1] * (parameter.dim() - 1))

    def extra_state(self) -> dict[str, Tensor]:
        """The densification strategy's: what is frozen, and the gradients added up since its last refinement."""
        return {name: value for name, value in self.model.strategy_state.items() if isinstance(value, Tensor)}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the strategy's state."""
        self.model.strategy_state = self.model.strategy.initialize_state(scene_scale=1.0)
        self.model.strategy_state |= {name: value.clone().to(self.model.device) for name, value in state.items()}

    @staticmethod
    def export_commands(config: Path, out: Path) -> list[list[str]]:
        """Its Gaussians: nerfstudio 1.1.5 makes meshes from rays, which splats do not have."""
        return [["ns-export", "gaussian-splat", "--load-config", str(config), "--output-dir", str(out)]]


@dataclass(frozen=True)
class _Crop:
    """What splatfacto asks its crop."""

    region: Region

    def within(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, "points 1"]:
        """Whether each point is shown."""
        return self.region.contains(points)[:, None]


def _listed(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
