"""Training images that are replaced while a scene trains on them (Haque et al. 2023).

    every n steps   view i ─► render ─► the editor ─► image i        kept with the run
    every step      scene ─► photometric loss on such images ─► nerfstudio's trainer

Why it works: images that are edited one by one disagree, and the scene in between averages what they disagree about;
rendered and edited again, they disagree less. The trap: where they disagree about more than it can average (shapes), it
blurs. Images are made and compared at the prior's working size: what interpolation would add teaches a scene blur.
"""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models.nerfacto import NerfactoModel
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.pipelines import ranks
from pds_nerfstudio.pipelines.edit import EditPipeline, EditPipelineConfig
from pds_nerfstudio.pipelines.ranks import NonFiniteGradient
from pds_nerfstudio.scenes.rendering import photometric_losses, ray_losses, render
from pds_nerfstudio.scenes.views import Views

IMAGES = "_images."
"""Prefix, in a checkpoint, of the images that views were replaced by."""
RAY_VIEWS = 16
"""nerfacto only: views of which each step takes rays, drawn anew, an equal number of each."""
UNUSED = (
    *("objective", "loss_weight", "views_per_step", "steps_per_view", "backward_share", "proposal_losses"),
    *("adapter_rank", "control", "adapter_warmup", "hold_details"),
)
"""What an edit by distillation can be told and these cannot."""

Image3 = Float[Tensor, "1 3 height width"]


@dataclass
class UpdateConfig(EditPipelineConfig):
    """A scene that trains on images which a prior makes of its renderings."""

    _target: type = field(default_factory=lambda: UpdatePipeline)
    update_every: int = 10
    """Steps after which the next view's image is replaced (Haque et al. 2023; Koo et al. 2024, S.3)."""
    guidance_scale: float = 7.5
    """Classifier-free guidance ω of the editor."""
    num_steps: int = 20
    """DDIM steps of the editor."""
    min_strength: float = 0.02
    """Least share of noise that a rendering is given, in [0, 1]. An editor by inversion has a strength of its own."""
    max_strength: float = 0.98
    """Greatest share."""

    def __post_init__(self) -> None:
        for name in ("update_every", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1.")
        if not 0 <= self.min_strength <= self.max_strength <= 1:
            raise ValueError(
                f"min_strength is {self.min_strength} and max_strength {self.max_strength}: they are shares of noise, "
                "give 0 <= min <= max <= 1."
            )

    def draw_strength(self, generator: torch.Generator) -> float:
        """A share of noise between the two."""
        low, high = self.min_strength, self.max_strength
        return low + (high - low) * float(torch.rand((), generator=generator))


def check_used(config: UpdateConfig, method: str) -> None:
    """Raise a UserError for a setting that has no part in these methods."""
    for setting in fields(EditPipelineConfig):
        if setting.name in UNUSED:
            default = setting.default if setting.default_factory is MISSING else setting.default_factory()
            if getattr(config, setting.name) != default:
                flag = setting.name.replace("_", "-")
                raise UserError(f"{method} trains on images and has no use for --pipeline.{flag}: leave it out.")


class UpdatePipeline(EditPipeline):
    """The loop; what an editor makes of a view is for subclasses to say."""

    config: UpdateConfig
    steerable = False

    def __init__(self, config: UpdateConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self._images: dict[int, Tensor] = {}
        """By view: what it was last replaced by, bytes [3 H W] on the CPU."""

    def state_dict(self, *args, **kwargs):
        """The scene's, and the images beside it: without them an interrupted run would begin again from none."""
        state = super().state_dict(*args, **kwargs)
        return state | {f"{IMAGES}{index}": image for index, image in self._images.items()}

    def load_beside(self, state: dict[str, Tensor]) -> None:
        """Take the images of a run that goes on."""
        super().load_beside(state)
        found = {name: value for name, value in state.items() if name.startswith(IMAGES)}
        self._images = {int(name.removeprefix(IMAGES)): image.cpu() for name, image in found.items()}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """An edit's; in one process, for each would replace images of its own."""
        if ranks.count() > 1:
            raise UserError("Images are replaced in one process: start this method on one GPU.")
        return super().get_training_callbacks(training_callback_attributes)

    def edited(self, index: int, image: Image3, generator: torch.Generator) -> Image3:
        """What the editor makes of view `index`, whose rendering now is `image`, RGB in [0, 1]."""
        raise NotImplementedError

    def losses_on(self, views: Views, generator: torch.Generator) -> dict[str, Tensor]:
        """The scene's own photometric loss on the images there are."""
        indices = sorted(self._images)
        if isinstance(self.model, NerfactoModel):
            return self._losses_on_rays(self.model, views, indices, generator)
        index = indices[int(torch.randint(len(indices), (), generator=generator))]
        target = self.target(index)
        return photometric_losses(
            self.model, render(self.model, views.camera(index, *target.shape[-2:])), target.to(self.device)
        )

    def target(self, index: int) -> Image3:
        """The image that a view was replaced by, RGB in [0, 1], on the CPU."""
        return self._images[index][None].float() / 255

    def get_train_loss_dict(self, step: int):
        """Replace a view where it is time, and train on the images there are."""
        _, views = self._ready()
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        metrics: dict[str, Tensor] = {}
        if step % self.config.update_every == 0 or not self._images:
            index = self._view_of_step(step // self.config.update_every, 0, 1, len(views))
            metrics["change"] = self.replace(index, generator)
        losses = self.losses_on(views, generator)
        if not bool(torch.isfinite(torch.stack([loss.detach() for loss in losses.values()])).all()):
            raise NonFiniteGradient(f"the loss on the images is not finite ({', '.join(losses)})")
        return {}, losses, metrics

    @torch.no_grad()
    def replace(self, index: int, generator: torch.Generator) -> Tensor:
        """Give a view a new image; returns the mean absolute difference to its rendering."""
        prior, views = self._ready()
        image = render(self.model, views.camera(index, *self._working_size(prior, views, index))).image.clamp(0, 1)
        edited = self.edited(index, image, generator).to(image)
        if not bool(edited.isfinite().all()):
            raise NonFiniteGradient(f"the edited image of view {views.names[index]} is not finite")
        self._images[index] = (255 * edited[0]).round().clamp(0, 255).byte().cpu()
        return (edited - image).abs().mean()

    def _losses_on_rays(
        self, model: NerfactoModel, views: Views, indices: list[int], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """nerfacto's batch of rays, drawn from a few of the images."""
        chosen = [indices[i] for i in torch.randperm(len(indices), generator=generator)[:RAY_VIEWS].tolist()]
        datamanager: Any = self.datamanager
        count = datamanager.config.train_num_rays_per_batch // len(chosen)
        places, colours, sizes = [], [], []
        for image in (self.target(index)[0] for index in chosen):
            sizes.append((image.shape[1], image.shape[2]))
            pixels = torch.rand(count, 2, generator=generator) * torch.tensor(sizes[-1])
            y, x = pixels.long().unbind(-1)
            places.append(torch.stack([y, x], dim=-1) + 0.5)
            colours.append(image[:, y, x].T)
        rays = views.rays(torch.tensor(chosen), sizes, torch.stack(places))
        return ray_losses(model, rays, torch.cat(colours).to(self.device))
