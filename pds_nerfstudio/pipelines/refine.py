"""SDEdit refinement: the last stage of Koo et al. 2024 (section 5, S.3), which takes artefacts out of a finished edit.

    image i = D(SDEdit(E(render(view i; θ̃)), t₀ · T, y_tgt)),     t₀ ~ U[lo, hi],     θ̃ the scene as the edit left it

Why it works: a little noise covers what is unlikely under the prior, and the prior denoises towards what is likely; the
coarse structure, on which all views agree already, survives. The trap: θ̃ stays what it was. Images made of the scene
that trains on them feed their errors back, and it drifts (docs/refine.md).
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.sdedit import SDEdit
from pds_nerfstudio.pipelines.base import SCENE, noise_like
from pds_nerfstudio.pipelines.carried import find_source, source_state
from pds_nerfstudio.pipelines.dataset_update import DatasetUpdateConfig, DatasetUpdatePipeline, Picture
from pds_nerfstudio.pipelines.edit_config import EditConfig, listed_in_order
from pds_nerfstudio.pipelines.memory_plan import Demand
from pds_nerfstudio.ranges import Guidance, Share
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.hull import Hull, Region
from pds_nerfstudio.scenes.region import common, hull_of_views
from pds_nerfstudio.scenes.rendering import Rendering
from pds_nerfstudio.scenes.scene import FROZEN
from pds_nerfstudio.scenes.source import SourceRun, find_run

KEPT = "_kept."
"""Prefix, in a checkpoint, of what the edit froze."""
CHANGED = 0.1
"""Of RGB in [0, 1]."""
EDITED = 0.05
"""The same, of what an edit has changed: a shadow that begins to vanish differs by about so much."""
NEAR = 1 / 32
"""How far what was edited reaches beyond the pixels that changed, as a share of a picture's shorter side."""


@listed_in_order
@dataclass
class RefineConfig(DatasetUpdateConfig):
    """How an edited scene is refined; its prompts and its prior are the edit's."""

    _target: type = field(default_factory=lambda: RefinePipeline)
    refined: Literal["edit", "current"] = "edit"
    """Which rendering of a view SDEdit refines: that of the scene as the edit left it (edit), as Koo et al. 2024 and
    their release do, or that of the scene as it is now (current), whose errors feed back."""
    guidance_scale: Guidance = 15.0
    """Classifier-free guidance ω. The release of Koo et al. 2024 uses 15."""
    min_strength: Share = 0.0
    """Smallest strength t₀ of SDEdit, in [0, 1]: how far along the noise schedule a rendering is noised (Koo et al.
    2024, S.3: t₀ ~ U[0, 0.2])."""
    max_strength: Share = 0.2
    """Largest strength t₀. The release of Koo et al. begins at t = 51, 101 or 151 of 1000, which is 0.05 to 0.15."""
    change: Literal["everywhere", "edited"] = "everywhere"
    """Where the scene may change: everywhere, as in the paper, or only where the edit has changed it. Refined images
    disagree a little, which otherwise blurs what the edit has left alone."""
    keep_frozen: bool = True
    """Do not change what the edit was not allowed to change: all that lay outside its box, its masks, its words or the
    relevant part."""
    keep_details: bool = True
    """Add to each refined image the details that the VAE loses of the rendering. A pixel gets less of them the more
    SDEdit changes it."""

    @property
    def demand(self) -> Demand:
        """See `EditConfig.demand`; a FLUX will do."""
        return Demand(rows=2, differentiated=False, purpose="refinement")


class RefinePipeline(DatasetUpdatePipeline):
    """Replaces training images by what SDEdit makes of the scene's renderings."""

    config: RefineConfig
    _kept: Mapping[str, Tensor] = MappingProxyType({})
    """What the edit froze and stays frozen, named as in the extra state of the scene that it left."""
    _confined = True
    """Whether --pipeline.change edited still says something."""

    def open(self, state: Mapping[str, Tensor], resumes: bool = False, refreeze: bool = False) -> None:
        """See `EditPipeline.open`; what the edit froze stays frozen."""
        named = {name.removeprefix(SCENE): value for name, value in state.items() if name.startswith(SCENE + FROZEN)}
        self._keep(named if self.config.keep_frozen and not resumes else {})
        super().open(state, resumes, refreeze)
        if self._kept:
            self.decisions["region"] = "What the edit left as it was stays so."

    def _keep(self, frozen: Mapping[str, Tensor]) -> None:
        self._kept = frozen
        self._confined = not frozen  # the edit itself was, where it left anything frozen

    def beside(self) -> dict[str, Tensor]:
        """See `EditPipeline.beside`; what the edit froze, too."""
        return super().beside() | {KEPT + name: value for name, value in self._kept.items()}

    def load_beside(self, state: Mapping[str, Tensor]) -> None:
        """See `EditPipeline.load_beside`; refinements of 0.1.0 do not say what the edit froze."""
        super().load_beside(state)
        if kept := {name.removeprefix(KEPT): value for name, value in state.items() if name.startswith(KEPT)}:
            self._keep(kept)

    def freeze(self, added: int = 0) -> None:
        """See `EditPipeline.freeze`; what the edit froze stays frozen, and where the edit has changed nothing to speak
        of, all of the scene may change.

        Raises:
            UserError: densification has changed the scene since, so that it cannot be told what the edit froze.
        """
        now = self.scene.extra_state()
        if any(name in now and now[name].shape != kept.shape for name, kept in self._kept.items()):
            raise UserError("densification has moved what the edit froze: choose where to refine before it begins.")
        self._freeze_region(added)
        now = self.scene.extra_state()
        both = {name: kept.to(self.device) | now.get(name, kept.to(self.device)) for name, kept in self._kept.items()}
        if both:
            self.scene.load_extra_state(now | both)

    def _freeze_region(self, added: int) -> None:
        try:
            super().freeze(added if self._confined else 0)  # what is kept frozen knows the edit's Gaussians alone
        except UserError:
            if self.config.change == "everywhere" or self.config.region.confines:
                raise
            CONSOLE.log("The edit has changed too little to be confined to: all of the scene may change.")
            self._confined = False
            super().freeze()

    @property
    def source_caption(self) -> str:
        """The edit's target prompt: its result is what is refined."""
        return self.config.tgt_prompt

    def region(self) -> Region | None:
        """See `EditPipeline.region`; where asked for, what the edit has changed and no more."""
        region = super().region()
        if self.config.change == "everywhere" or not self._confined:
            return region
        edit = self._edit.config.pipeline
        if not isinstance(edit, EditConfig):
            CONSOLE.log("The run is no edit: all of its scene may change.")
            return region
        if not find_source(edit.run, self._edit.config, self._edit.config_path.parent):
            CONSOLE.log("[yellow]The scene before the edit is not there to tell what it changed: all may change.")
            return region
        return common(region, self.edited_hull(source_state(edit.run)))

    @functools.cached_property
    def _edit(self) -> SourceRun:
        """The run that is refined."""
        assert self.config.run.base is not None
        return find_run(self.config.run.base, self.config.run.base_step)

    def edited_hull(self, source: Mapping[str, Tensor]) -> Hull:
        """Where in space the edit has changed what the training views show of `source`, the scene before it."""
        before = self.build_source(source)

        def where(index: int, camera: Cameras, after: Rendering) -> Tensor:
            return changed(render(before, camera).image, after.image)[0, 0]

        return hull_of_views(self.source_scene(), self.views, self.working_size, where, "what was edited")

    def begin(self, probe: Callable[[int], list[float]]) -> None:
        """Refine every view once: few images, the first of many, would have the scene forget what the others show."""
        super().begin(probe)
        for index in track(range(len(self.views)), "refining every view", console=CONSOLE, transient=True):
            self.replace(index, self.generator(-1 - index))

    def stage_at(self, step: int) -> str:
        """ "refinement"."""
        return "refinement"

    def to_edit(self, index: int) -> Picture:
        """The view's rendering before or after what the scene has learned here."""
        if self.config.refined == "current":
            return super().to_edit(index)
        return self.source_view(index).image.to(self.device, torch.float32)

    def edited(self, index: int, image: Picture, generator: torch.Generator) -> Picture:
        """The rendering, noised a little and denoised under the target prompt."""
        prior = self.prior
        editor = SDEdit(self.config.guidance_scale, self.config.draw_strength(generator), self.config.num_steps)
        x0 = prior.encode(image)
        eps, cameras = noise_like(x0, [generator]), self.shown.seen_from([index])
        prompt = self.shown.prompt(self.config.tgt_prompt, index)
        refined = prior.decode(editor.edit(prior, x0, prompt, eps, cameras))
        return with_details(refined, image, prior.decode(x0)) if self.config.keep_details else refined


def changed(before: Picture, after: Picture) -> Float[Tensor, "1 1 height width"]:
    """1 where a channel differs by `EDITED` or more, and near such places; 0 elsewhere."""
    differs = ((after - before).abs().amax(dim=1, keepdim=True) >= EDITED).float()
    reach = max(1, round(NEAR * min(differs.shape[-2:])))
    return F.max_pool2d(differs, 2 * reach + 1, stride=1, padding=reach)


def with_details(refined: Picture, image: Picture, decoded: Picture) -> Picture:
    """An image that was edited as a latent, with what the VAE loses of the one it was made of: image − decoded.

    All of that where the edit changed nothing, so that an edit of nothing gives the image itself; nothing of it where
    a channel changed by `CHANGED` or more, since there it would bring back what the edit has removed.
    """
    change = (refined - decoded).abs().amax(dim=1, keepdim=True)
    return refined + (1 - change / CHANGED).clamp(min=0) * (image - decoded)
