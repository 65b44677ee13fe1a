"""Does an edit do anything? Do views show the scene, does a gradient reach it, does it move, does it stay finite?"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.images import working_size
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.scene import Scene
from pds_nerfstudio.scenes.views import Views

GLANCES, GLANCE = 8, 64
"""How many views are looked at before an edit, and at which shorter side in pixels."""
FAINT = 0.01
"""Opacity below which there is nothing to see."""
MOVED_AFTER = 20
"""Steps after which the scene must have moved."""


@torch.no_grad()
def require_visible(scene: Scene, views: Views) -> None:
    """Raise UserError where training views, evenly chosen and small, show nothing of the scene."""
    chosen = evenly(len(views), GLANCES)
    for index in chosen:
        size = working_size(*views.size(index), GLANCE, 1)
        if bool((scene.render(views.camera(index, *size)).accumulation > FAINT).any()):
            return
    raise UserError(
        f"{len(chosen)} training views show nothing of the scene, so no edit can reach it: look at the run with "
        "ns-viewer; its cameras look elsewhere, or all of it is transparent."
    )


class MovementCheck:
    """Compares a scene's parameters, by optimiser group, with what they were when this was made."""

    def __init__(self, parameters: Mapping[str, Sequence[Tensor]]):
        self._parameters = parameters
        self._before = self._checksums()

    def after_step(self, done: int) -> None:
        """Look at the scene after the first edit step, and after `MOVED_AFTER` of them.

        Raises:
            UserError: it would do nothing, or has broken the scene.
        """
        if done == 1:
            self._require_gradient()
        if done == MOVED_AFTER:
            self._require_movement()

    def require_finite(self) -> None:
        """Raise UserError where the scene holds values that are not finite and that were, or had no like, before."""
        now, before = self._checksums(), self._before
        broken = [name for name, value in now.items() if value[2] > (before[name][2] if name in before else 0)]
        if broken:
            raise UserError(
                f"The scene is no longer finite ({', '.join(broken)}): lower the learning rate of these groups "
                "(--optimizers…), and resume from the last checkpoint, which is whole."
            )

    def _checksums(self) -> dict[str, Tensor]:
        """Of every parameter: sum, sum of squares, and how many entries are not finite."""
        sums = {}
        for group, parameters in self._parameters.items():
            for i, parameter in enumerate(parameters):
                broken = ~parameter.detach().isfinite()
                finite = parameter.detach().double().masked_fill(broken, 0)
                sums[f"{group}.{i}"] = torch.stack([finite.sum(), finite.square().sum(), broken.sum()])
        return sums

    def _require_gradient(self) -> None:
        gradients = [parameter.grad for parameters in self._parameters.values() for parameter in parameters]
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            raise UserError(
                "No gradient reached the scene in the first step, so this edit would do nothing: give prompts that "
                "mean different things to this prior, or another prior."
            )

    def _require_movement(self) -> None:
        self.require_finite()
        now, before = self._checksums(), self._before
        if all(name in before and torch.equal(value, before[name]) for name, value in now.items()):
            raise UserError(
                f"The scene has not moved in {MOVED_AFTER} steps: raise the learning rates (--optimizers…) or "
                "--pipeline.loss-weight."
            )
