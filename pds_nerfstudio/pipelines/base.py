"""What every edit of a scene shares: the scene, its views before the edit, the prior, and where the scene may change.

    EditPipeline ─┬─ DistillationPipeline ── RevisePipeline        a prior's gradients reach the scene by renderings
                  └─ DatasetUpdatePipeline ─┬─ RefinePipeline      the scene trains on images that a prior makes
                                            └─ IduPipeline

The prior is a plain attribute, loaded when a step first asks for it: an edited run is viewed, rendered, exported and
evaluated without it, and its checkpoints are ordinary nerfstudio checkpoints.
"""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from pds_nerfstudio.draws import generator_at, own_draws
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.images import to_channels_last, working_size
from pds_nerfstudio.perceptual import Perceptual
from pds_nerfstudio.pipelines import distributed
from pds_nerfstudio.pipelines.carried import source_state
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.finite import FiniteChecks
from pds_nerfstudio.pipelines.memory_plan import plan_edit
from pds_nerfstudio.pipelines.settings import NerfCompute
from pds_nerfstudio.pipelines.shown import ShownViews, shown_views
from pds_nerfstudio.pipelines.source_views import SourceView, SourceViews
from pds_nerfstudio.pipelines.word_region import WordSearch
from pds_nerfstudio.prompts import require_read_differently, sought
from pds_nerfstudio.scenes.families import scene_of
from pds_nerfstudio.scenes.hull import Hull, Region
from pds_nerfstudio.scenes.pick import object_at, point_seen
from pds_nerfstudio.scenes.region import Box, Outside, bounds_of, common, hull_of_masks, hull_of_views
from pds_nerfstudio.scenes.rendering import Rendering
from pds_nerfstudio.scenes.scene import Scene, load_weights
from pds_nerfstudio.scenes.splatfacto import few_points
from pds_nerfstudio.scenes.stencil import drawn_on
from pds_nerfstudio.scenes.views import Views, train_views
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

OF_THE_PHOTOGRAPHS = ("camera_optimizer", "embedding_appearance", "bil_grids")
"""Parts of a model that describe the photographs rather than the scene: an edit leaves them as they are."""
GROUPS_OF_THE_PHOTOGRAPHS = ("camera_opt", "bilateral_grid")
SCENE = "_scene."
"""Prefix, in a checkpoint, of the scene's extra state."""
REACHED = "_session"
"""In a checkpoint: how many lines of its run's session, and moments of its history, it contains."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FROZEN_BEFORE = "held"
"""What runs of 0.1.0 call the frozen Gaussians in their checkpoints."""


class EditPipeline(VanillaPipeline):
    """nerfstudio's pipeline around a scene that a prior changes. How it does is for subclasses to say."""

    config: EditConfig
    steps: int | None = None
    """Of the whole edit, once that is known."""
    reached: tuple[int, int] | None = None
    """What a checkpoint keeps as `REACHED`."""
    _fewer_rays = False
    """Whether memory has run out, and a NeRF's chunks are smaller since."""

    def __init__(
        self,
        config: EditConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ):
        # As if alone: gradients are averaged by `distributed`, not by DistributedDataParallel.
        with few_points(config.model):
            super().__init__(config, device, test_mode, 1, local_rank, grad_scaler)
        self.world_size = world_size
        self.finite = FiniteChecks()
        """What of the present step has to be finite, before the optimisers take it."""
        photographs = config.view.of_photographs()
        self.sources = SourceViews(self.build_source, photographs, self.device, lambda: self.scene.background)
        self.decisions: dict[str, str] = {}
        """What this run has decided for itself, in words."""
        self.last_view: tuple[Tensor, Tensor] | None = None
        """Of the last step: the rendered image and the loss's gradient on it, [1 3 H W] each."""
        for name in OF_THE_PHOTOGRAPHS:
            for part in (self.model, getattr(self.model, "field", None)):
                if isinstance(getattr(part, name, None), torch.nn.Module):
                    getattr(part, name).requires_grad_(False)

    # nerfstudio's viewer evaluates every plain property of a pipeline, and none that is cached.

    @functools.cached_property
    def scene(self) -> Scene:
        """The scene that is edited."""
        return scene_of(self.model)

    @functools.cached_property
    def views(self) -> Views:
        """The run's training views."""
        return train_views(self.datamanager)

    @functools.cached_property
    def shown(self) -> ShownViews:
        """The views that the prior is shown."""
        config, prior, size = self.config, self.prior, self.short_side()
        assert size is not None
        box, seed = config.region.box, config.run.seed
        return shown_views(self.views, config.view, box, seed, self.source_scene, prior, size)

    @functools.cached_property
    def prior(self) -> "StableDiffusionPrior":
        """The diffusion model, loaded here."""
        config = self.config
        device = torch.device(config.compute.prior_device or self.device)
        dtype = DTYPES.get(config.compute.precision)
        self.plan_memory(device, dtype or (torch.float16 if device.type == "cuda" else torch.float32))
        CONSOLE.log(f"Loading the prior {in_rich(config.prior)}")
        prior = self.load(
            config.prior,
            device,
            dtype,
            vae_dtype=DTYPES[config.network.vae_precision],
            weights=config.network.weights,
            recompute_encoder=config.compute.recompute_encoder,
            encoder=config.network.encoder,
            channels_last=config.compute.channels_last,
            compiled=config.compute.compile_prior,
            loras=config.network.lora,
            embeddings=config.network.embedding,
        )
        prior.negative_prompt = config.negative_prompt
        if config.reads_source_prompt:
            require_read_differently(config.src_prompt, config.tgt_prompt, prior.readers())
        named = " + ".join([config.prior, *config.network.lora, *map(str, config.network.embedding)])
        self.decisions["prior"] = f"{named}, {str(prior.dtype).removeprefix('torch.')}"
        return prior

    def plan_memory(self, device: torch.device, dtype: torch.dtype) -> None:
        """Before the prior is loaded: say what a step will take, and set what lets it fit (see `memory_plan`)."""
        scene = self.model.parameters() if self.device == device else ()
        plan = plan_edit(self.config, self.views, scene, device, dtype, DTYPES[self.config.network.vae_precision])
        if plan is None:
            return
        self.config.compute.recompute_encoder = plan.recompute_encoder
        self.decisions["memory"] = str(plan)
        CONSOLE.log(in_rich(str(plan)))

    def economise(self) -> str | None:
        """When memory has run out: take less of it without changing results; returns how, or None where that was done.

        The encoder runs again in the backward pass, and a NeRF's chunks shrink to a quarter.
        """
        from pds_nerfstudio.priors.autoencoders import recompute_encoder

        compute, prior = self.config.compute, self.prior
        done = []
        if not compute.recompute_encoder:
            compute.recompute_encoder = prior.recompute_encoder = True
            recompute_encoder(prior.vae)
            done.append("the encoder runs again in the backward pass")
        if isinstance(compute, NerfCompute) and not self._fewer_rays:
            self._fewer_rays = True
            compute.rays_per_chunk = max(self.scene.chunks(compute.rays_per_chunk).rays // 4, 2)
            done.append(f"{compute.rays_per_chunk} rays are rendered at once")
        return ", and ".join(done) or None

    @functools.cached_property
    def perceptual(self) -> Perceptual:
        """How different two pictures look."""
        perceptual = Perceptual(self.prior.features, self.device)
        CONSOLE.log(f"The perceptual loss is {in_rich(perceptual.name)}.")
        return perceptual

    @property
    def prior_is_loaded(self) -> bool:
        """Whether anything has asked for the prior yet."""
        return "prior" in vars(self)

    def load(self, *args: Any, **settings: Any) -> "StableDiffusionPrior":
        """Load the prior, see `load_prior`."""
        from pds_nerfstudio.priors.load import load_prior

        return load_prior(*args, purpose=self.config.demand.purpose, **settings)

    def open(self, state: Mapping[str, Tensor], resumes: bool = False, refreeze: bool = False) -> None:
        """Take over a scene, once, before optimisers are built: weights, region, densification, extra state.

        Args:
            state: pipeline state dict of the run to edit, or of the edit that goes on.
            resumes: whether it is the latter.
            refreeze: freeze what lies outside the region as the scene is now, also where the edit that goes on has
                kept what it froze.

        Raises:
            UserError: nothing lies inside the region, its masks cannot be read, or a click meets nothing.
        """
        densify = self.config.scene.densification()
        if densify is not None and distributed.count() > 1:
            raise UserError(
                "Densification is not supported on several GPUs because the copies of the scene would diverge: run on "
                "one GPU, or leave --pipeline.densify-until at 0."
            )
        load_weights(self.model, state)
        self.scene.begin_edit(densify)
        if resumes:
            self.load_extra_state(state)
        kept = any(name.startswith(SCENE) for name in state) or FROZEN_BEFORE in state
        if not resumes or refreeze or not kept:
            settings = self.config.region
            if settings.click is not None:
                settings.pick, settings.click = point_seen(self.model, self.views, *settings.click), None
            self.freeze(0 if resumes else self.config.scene.added())

    def get_param_groups(self):
        """The scene's parameter groups, without camera poses and per-image colour corrections."""
        groups = super().get_param_groups()
        return {name: group for name, group in groups.items() if name not in GROUPS_OF_THE_PHOTOGRAPHS}

    def state_dict(self, *args, **kwargs):
        """The scene's, and the extra state beside it: whoever loads the scene alone leaves that out."""
        return super().state_dict(*args, **kwargs) | self.extra_state()

    def extra_state(self) -> dict[str, Tensor]:
        """What an edit that goes on needs beside the scene's weights, under names that no weight has."""
        own = {} if self.reached is None else {REACHED: torch.tensor(self.reached)}
        return {SCENE + name: value for name, value in self.scene.extra_state().items()} | self.beside() | own

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Take it from a pipeline state dict that has it."""
        own = {name.removeprefix(SCENE): value for name, value in state.items() if name.startswith(SCENE)}
        if FROZEN_BEFORE in state:
            own["frozen"] = state[FROZEN_BEFORE]
        self.scene.load_extra_state(own)
        self.load_beside(state)

    def beside(self) -> dict[str, Tensor]:
        """What trains beside the scene: a prior's adapters, or the images that it has made."""
        return {}

    def load_beside(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `beside` gave, out of a larger state dict."""

    def freeze(self, added: int = 0) -> None:
        """Freeze what lies outside the region, as the scene is now; `added` Gaussians join what lies inside.

        Raises:
            UserError: nothing lies inside, or the masks cannot be read.
        """
        region = self.region()
        if added and region is not None:
            self.scene.populate(added, region, self.config.run.seed, bounds_of(region))
        said = self.scene.freeze_outside(region)
        if said is not None:
            self.decisions["region"] = said
            CONSOLE.log(in_rich(said))

    def region(self) -> Region | None:
        """Where the scene may change; None for everywhere."""
        settings = self.config.region
        return common(
            None if settings.box is None else Box(settings.box),
            None if settings.masks is None else hull_of_masks(self.model, self.views, settings.masks),
            None if settings.region is None else self.named_hull,
            self._pointed_at(),
        )

    def _pointed_at(self) -> Region | None:
        """What a click has picked and stencils have altered, as the scene is now."""
        settings, picked = self.config.region, None
        if settings.pick is not None:
            picked = object_at(self.model, self.views, settings.pick, settings.pick_grow)
            picked = Outside(picked) if settings.pick_invert else picked
        return drawn_on(self.model, picked, settings.drawn)

    @functools.cached_property
    def named_hull(self) -> Hull:
        """Where in space the source's views show what --pipeline.region names."""
        settings = self.config.region
        assert settings.region is not None
        asked = sought(settings.region, self.source_caption)
        search = WordSearch(self.prior, self.shown, asked, settings.region_by, self.config.run.seed)
        return hull_of_views(
            self.source_scene(),
            self.views,
            self.working_size,
            lambda index, *_: search.mask(self.source_view(index)).to(self.device),
            f"where the {in_rich(asked.words)} is",
        )

    @property
    def source_caption(self) -> str:
        """What the scene showed as the edit began."""
        return self.config.src_prompt

    @property
    def region_depends_on(self) -> tuple[str, ...]:
        """Names of the settings that the region depends on and that may change while the edit runs."""
        return ("box", "pick")

    def begin(self, probe: Callable[[int], list[float]]) -> None:
        """Called once, before the first step of a new edit, with the source scene loaded.

        Args:
            probe: runs that many edit steps, puts the scene back as it was, and returns the values of `edit_loss`.
        """

    def stage_at(self, step: int) -> str:
        """What the progress bar calls edit step `step`."""
        return "edit"

    def perturb_scene(self, eta: float) -> None:
        """Move the scene towards a fresh draw. Raises ValueError where this kind of edit does not perturb."""
        raise ValueError("only pnr-edit perturbs.")

    def short_side(self) -> int | None:
        """Shorter side in pixels of the views that the prior is shown; None before a prior is loaded that decides."""
        if self.config.view.resolution is not None or not self.prior_is_loaded:
            return self.config.view.resolution
        return self.prior.trained_size

    def working_size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels at which a view is shown to the prior; loads it."""
        multiple, short_side = self.prior.size_multiple, self.short_side()
        assert short_side is not None
        return working_size(*self.shown.size(index), short_side, multiple)

    @torch.no_grad()
    def before_and_after(self, count: int) -> dict[str, Float[Tensor, "height both 3"]]:
        """`count` training views, evenly chosen: the source image beside the scene as it is, RGB in [0, 1], by name."""
        pairs = {}
        for index in range(0, len(self.views), math.ceil(len(self.views) / count)):
            source = self.source_view(index).image.float().cpu()
            now = self.scene.render(self.views.camera(index, *self.working_size(index))).image.cpu()
            pairs[Path(self.views.names[index]).stem] = to_channels_last(torch.cat([source, now], dim=-1))[0]
        return pairs

    def generator(self, number: int) -> torch.Generator:
        """The generator of one draw: the same number draws the same, whatever was drawn before."""
        return generator_at(self.config.run.seed, number)

    def view_of_step(self, turn: int) -> int:
        """Every view once, in a new order, before any comes again."""
        count = len(self.views)
        return int(torch.randperm(count, generator=self.generator(turn // count))[turn % count])

    def render_view(self, index: int, coarseness: int = 1) -> Rendering:
        """A view of the edited scene at the prior's working size, with its graph.

        Args:
            coarseness: by how much it is rendered smaller, and enlarged.
        """
        settings, views = self.config.scene, self.shown.at(index)[0]
        # A NeRF's own losses ask for a row of the camera optimiser.
        regularise = settings.regularises() and views.in_training
        compute = self.config.compute
        chunks = self.scene.chunks(compute.rays_at_once(), settings.differentiated(), regularise, compute.budget())
        size = self.working_size(index)
        smaller = [max(side // coarseness, 1) for side in size]
        camera = self.shown.camera(index, *smaller, device=self.device)
        rendering = self.scene.render(camera, chunks, regularise=regularise, within=views.within)
        return rendering if coarseness == 1 else rendering.enlarged(*size)

    def source_view(self, index: int) -> SourceView:
        """What a view showed before the edit, at the size at which the prior is shown it."""
        return self.sources.view(self.prior, self.shown, index, *self.working_size(index))

    def source_scene(self) -> Model:
        """The scene before the edit, kept until every view's source latent has been computed."""
        return self.sources.scene()

    def source_state(self) -> Mapping[str, Tensor]:
        """The pipeline state dict of the run that is edited."""
        return source_state(self.config.run)

    def build_model(self, seed: int | None = None) -> Model:
        """Another scene of the same settings and data, as its initialisation leaves it, drawn from `seed`; of splats,
        few.

        An edit draws the same numbers whether and whenever one is built, for a viewer or for its pictures.
        """
        dataset = self.datamanager.train_dataset
        assert dataset is not None
        with own_draws(torch.device(self.device), seed), few_points(self.config.model):
            return self.config.model.setup(
                scene_box=dataset.scene_box,
                num_train_data=len(dataset),
                metadata=dataset.metadata,
                device=self.device,
                grad_scaler=None,
                seed_points=None,
            ).to(self.device)

    def build_source(self, state: Mapping[str, Tensor] | None = None) -> Model:
        """The scene before the edit, or of another state dict of the same settings, to be looked at."""
        model = self.build_model()
        load_weights(model, self.source_state() if state is None else state)
        scene_of(model).begin_edit()
        return model.requires_grad_(False).eval()


def noise_like(latents: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Standard normal noise, each sample's from its own generator."""
    return torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators]).to(latents)
