"""Training images that are replaced while a scene trains on them (Haque et al. 2023).

    every n steps   view i ─► render ─► the editor ─► image i        kept with the run
    every step      scene ─► photometric loss on such images ─► nerfstudio's trainer

Why it works: images that are edited one by one disagree, and the scene in between averages what they disagree about;
rendered and edited again, they disagree less. The trap: where they disagree about more than it can average (shapes), it
blurs. Images are made and compared at the prior's working size: what interpolation would add teaches a scene blur.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.pipelines import distributed
from pds_nerfstudio.pipelines.base import EditPipeline
from pds_nerfstudio.pipelines.distributed import NonFiniteGradient
from pds_nerfstudio.pipelines.edit_config import EditConfig, listed_in_order
from pds_nerfstudio.ranges import Guidance, Share, Steps

IMAGES = "_images."
"""Prefix, in a checkpoint, of the images that views were replaced by."""

Picture = Float[Tensor, "1 3 height width"]


@listed_in_order
@dataclass
class DatasetUpdateConfig(EditConfig):
    """A scene that trains on images which a prior makes of its renderings."""

    _target: type = field(default_factory=lambda: DatasetUpdatePipeline)
    update_every: Steps = 10
    """Replace the image of the next view every so many steps (Haque et al. 2023; Koo et al. 2024, S.3)."""
    guidance_scale: Guidance = 7.5
    """Classifier-free guidance ω of the editor."""
    num_steps: Steps = 20
    """DDIM steps of the editor."""
    min_strength: Share = 0.02
    """Smallest share of noise that is added to a rendering, in [0, 1]. The inversion editor has a strength of its
    own."""
    max_strength: Share = 0.98
    """Largest share of noise that is added to a rendering, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_strength <= self.max_strength <= 1:
            raise ValueError(
                f"min_strength is {self.min_strength} and max_strength {self.max_strength}: they are shares of noise, "
                "give 0 <= min <= max <= 1."
            )

    def draw_strength(self, generator: torch.Generator) -> float:
        """A share of noise between the two."""
        low, high = self.min_strength, self.max_strength
        return low + (high - low) * float(torch.rand((), generator=generator))


class DatasetUpdatePipeline(EditPipeline):
    """The loop; what an editor makes of a view is for subclasses to say."""

    config: DatasetUpdateConfig

    def __init__(self, config: DatasetUpdateConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self._images: dict[int, Tensor] = {}
        """By view: what it was last replaced by, bytes [3 H W] on the CPU."""

    def open(self, state: Mapping[str, Tensor], resumes: bool = False, refreeze: bool = False) -> None:
        """See `EditPipeline.open`."""
        if distributed.count() > 1:
            raise UserError("Images are replaced in one process: start this method on one GPU.")
        super().open(state, resumes, refreeze)

    def beside(self) -> dict[str, Tensor]:
        """The images: without them an interrupted run would begin again from none."""
        return {f"{IMAGES}{index}": image for index, image in self._images.items()}

    def load_beside(self, state: Mapping[str, Tensor]) -> None:
        """See `EditPipeline.load_beside`."""
        found = {name: value for name, value in state.items() if name.startswith(IMAGES)}
        self._images = {int(name.removeprefix(IMAGES)): image.cpu() for name, image in found.items()}

    def to_edit(self, index: int) -> Picture:
        """What the editor is given of view `index`, RGB in [0, 1]: its rendering now."""
        return self.scene.render(self.views.camera(index, *self.working_size(index))).image

    def edited(self, index: int, image: Picture, generator: torch.Generator) -> Picture:
        """What the editor makes of view `index`, given `image` (see `to_edit`), RGB in [0, 1]."""
        raise NotImplementedError

    def losses_on(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The scene's own photometric loss on the images there are."""
        datamanager: Any = self.datamanager
        rays = getattr(datamanager.config, "train_num_rays_per_batch", 0)
        return self.scene.photometric(self.views, self._images, generator, rays)

    def target(self, index: int) -> Picture:
        """The image that a view was replaced by, RGB in [0, 1], on the CPU."""
        return self._images[index][None].float() / 255

    def get_train_loss_dict(self, step: int):
        """Replace a view where it is time, and train on the images there are."""
        generator = self.generator(step)
        metrics: dict[str, Tensor] = {}
        if step % self.config.update_every == 0 or not self._images:
            metrics["change"] = self.replace(self.view_of_step(step // self.config.update_every), generator)
        losses = self.losses_on(generator)
        if not bool(torch.isfinite(torch.stack([loss.detach() for loss in losses.values()])).all()):
            raise NonFiniteGradient(f"the loss on the images is not finite ({', '.join(losses)})")
        return {}, losses, metrics

    @torch.no_grad()
    def replace(self, index: int, generator: torch.Generator) -> Tensor:
        """Give a view a new image; returns the mean absolute difference to the rendering that it was made of."""
        image = self.to_edit(index).clamp(0, 1)
        edited = self.edited(index, image, generator).to(image)
        if not bool(edited.isfinite().all()):
            raise NonFiniteGradient(f"the edited image of view {self.views.names[index]} is not finite")
        self._images[index] = (255 * edited[0]).round().clamp(0, 255).byte().cpu()
        return (edited - image).abs().mean()
