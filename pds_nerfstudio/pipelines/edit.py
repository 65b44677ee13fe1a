"""One edit step: render a view, ask the objective for a gradient on its latent, hand nerfstudio a loss.

    view i ─► render ─► I [1 3 H W] ─► prior.encode ─► x⁰_tgt        with the graph of θ
    source rendering of view i ─► prior.encode ─► x⁰_src             cached, no graph
    objective.gradient(prior, Edit(x⁰_tgt, x⁰_src, …)) ─► g ─► surrogate_loss ─► loss_dict ─► nerfstudio's trainer

The prior is a plain attribute, loaded on the first training step: an edited run is viewed, rendered, exported and
evaluated without it, and its checkpoints are ordinary nerfstudio checkpoints.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.images import details, to_channels_last, working_size
from pds_nerfstudio.objectives.base import SOURCE, Edit, ScoreDistillation, surrogate_loss
from pds_nerfstudio.objectives.pds import PDS
from pds_nerfstudio.pipelines import ranks
from pds_nerfstudio.pipelines.outcome import conclude
from pds_nerfstudio.pipelines.ranks import NonFiniteGradient
from pds_nerfstudio.pipelines.source_views import SourceView, SourceViews, depth_of
from pds_nerfstudio.priors.adapters import WARMUP_RATE
from pds_nerfstudio.priors.control import load_control
from pds_nerfstudio.priors.learning import LearningPrior
from pds_nerfstudio.scenes.hull import Region
from pds_nerfstudio.scenes.memory import bytes_per_ray, free_memory, rays_that_fit
from pds_nerfstudio.scenes.region import Box, Common, Corners, Held, hull_of_masks
from pds_nerfstudio.scenes.rendering import RAYS_PER_CHUNK, Rendering, render
from pds_nerfstudio.scenes.source import find_run, load_model_state, load_source_state
from pds_nerfstudio.scenes.splatfacto import HELD, NEVER, SplatfactoScene
from pds_nerfstudio.scenes.views import Views, train_views
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.priors.adapters import Adapters
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

FROZEN = ("camera_optimizer", "embedding_appearance", "bil_grids")
"""Parts of a scene that describe the photographs rather than the scene: an edit leaves them as they are."""
FROZEN_GROUPS = ("camera_opt", "bilateral_grid")
ADAPTERS = "adapters"
"""Parameter group of the prior's adapters, and their prefix in a checkpoint."""

WARMUP_VIEWS = 4
"""What `EditPipeline.learn_source` looks at in each step."""


@dataclass
class EditPipelineConfig(VanillaPipelineConfig):
    """What an edit is: prompts, prior, objective, and how views are shown to it."""

    _target: type = field(default_factory=lambda: EditPipeline)
    src_prompt: str = ""
    """What the scene shows now, for example "a photo of a man"."""
    tgt_prompt: str = ""
    """What it should show, for example "a photo of a man raising his arms"."""
    prior: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """The diffusion model: a hub id, a local diffusers folder, or "toybox" for the small one in this package."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the prior's U-Net: auto is fp16 on CUDA and fp32 elsewhere."""
    vae_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of its VAE, which overflows in fp16. bf16 halves what its encoder keeps for backward."""
    recompute_encoder: bool = False
    """Run the VAE's encoder again in the backward pass instead of keeping its activations."""
    encoder: str | None = None
    """A tiny encoder (diffusers' AutoencoderTiny) in place of the VAE's: a hub id, a local folder, or "toybox"."""
    channels_last: bool = False
    """Lay the prior's images out as GPUs' half-precision convolutions like them."""
    compile_prior: bool = False
    """torch.compile the U-Net and the encoder: the first step takes minutes, the others less time."""
    prior_device: str | None = None
    """Where the prior runs, for example "cuda:1"; by default beside the scene."""
    objective: ScoreDistillation = field(default_factory=PDS)
    """Where the gradient comes from, with its own settings."""
    loss_weight: float = 1.0
    """Factor on the objective's gradient. Adam divides it out again, except against nerfacto's own losses."""
    resolution: int | None = None
    """Shorter side, in pixels, at which views are rendered for the prior; by default the size it was trained at."""
    views_per_step: int = 1
    """Views that each step shows to the prior, in one batch; their gradients are averaged."""
    hold_details: float = 0.0
    """Weight of a pull that keeps the source's details, what averaging over the latent stride loses of a view. The
    encoder hardly sees them, so that nothing else does, and floors come to speckle. 4 suits changes of colour; hats and
    shapes change less under it."""
    rays_per_chunk: int | None = None
    """nerfacto only: rays rendered at once, and again in backward; by default as many as fit a quarter of the free
    memory and 2 GiB, 4096 at most."""
    backward_share: float = 1.0
    """nerfacto only: share of these chunks, drawn anew in each step, that is differentiated, scaled so that the
    gradient stays right on average."""
    steps_per_view: int = 1
    """Steps before the view changes. The release of Koo et al. 2024 keeps each for 10; with 1 a scene hears all its
    views sooner."""
    source_images: Literal["rendering", "photograph"] = "rendering"
    """What the source latent shows: the source scene's rendering, which an unchanged scene matches exactly, or the
    photograph."""
    proposal_losses: bool = True
    """nerfacto only: keep training the proposal networks, by nerfacto's own losses on the edited rendering, so that
    samples follow density that moves."""
    densify_from: int = 100
    """Splats only: edit step after which Gaussians are cloned, split and pruned."""
    densify_until: int = 0
    """Splats only: edit step at which that ends; 0 keeps the number of Gaussians."""
    densify_every: int = 100
    """Splats only: steps between two such refinements."""
    densify_growth: float = 2.0
    """Splats only: about how many times as many Gaussians there are in the end, pruning aside. Each refinement clones
    or splits the share of them that this takes, those with the largest screen gradients; splatfacto's own threshold
    is for the scale of a photometric loss. Its other rule holds besides: what covers more of the screen than
    --pipeline.model.split-screen-size is split, which a perturbation of scales makes frequent."""
    box: Corners | None = None
    """Change only what lies in this box: the least x, y, z, then the greatest, in the scene's coordinates, which are
    the viewer's. Of splats, what lies outside stays as it is to the bit."""
    masks: Path | None = None
    """Change only what these images show white: a folder with black-and-white images named like training views, not
    necessarily all of them. What most of them show white is what may change."""
    adapter_rank: int = 16
    """VSD and Piva only: rank of the LoRA adapters that learn the source's and the edited renderings."""
    control: str | None = None
    """VSD and Piva only: a depth-conditioned ControlNet for the adapters, hub id or folder, such as
    lllyasviel/sd-controlnet-depth for Stable Diffusion 1.5, or "toybox". Without one, adapters learn views mixed up
    (Janus)."""
    adapter_warmup: int = 0
    """Piva only: steps in which the source's adapter learns the source's views before the edit begins. It otherwise
    learns along with the edit, which an edit of a few hundred steps is too short for."""
    seed: int = 0
    """Seed of views, timesteps and noise; a step draws the same ones in an interrupted and in a straight run."""
    base: Path | None = None
    """config.yml of the run being edited; set from --load-dir."""
    base_step: int | None = None
    """The checkpoint of that run; set from --load-dir and --load-step."""


class EditPipeline(VanillaPipeline):
    """nerfstudio's pipeline with score distillation in place of the photometric loss."""

    config: EditPipelineConfig
    steerable = True
    """Whether the viewer's panel has something to set."""

    def __init__(
        self,
        config: EditPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ):
        # As if alone: gradients are averaged by `ranks`, not by DistributedDataParallel.
        super().__init__(config, device, test_mode, 1, local_rank, grad_scaler)
        self.world_size = world_size
        self._rays_per_chunk = config.rays_per_chunk
        self._prior: StableDiffusionPrior | None = None
        self._views: Views | None = None
        self.sources = SourceViews(self._load_source, config.source_images == "photograph")
        self.held = Held(self.model, None)
        """What the region keeps from moving."""
        self.decisions: dict[str, str] = {}
        """What this run has decided for itself, in words."""
        self.last_view: tuple[Tensor, Tensor] | None = None
        """Of the last step: the rendered image and the loss's gradient on it, [1 3 H W] each."""
        for name in FROZEN:
            for part in (self.model, getattr(self.model, "field", None)):
                if isinstance(getattr(part, name, None), torch.nn.Module):
                    getattr(part, name).requires_grad_(False)

    @property
    def adapters(self) -> "Adapters | None":
        """The prior's adapters, where this edit has made any."""
        return None if self._prior is None else self._prior.adapters

    def get_param_groups(self):
        """The scene's parameter groups, without camera poses and per-image colour corrections; and the adapters."""
        groups = {name: group for name, group in super().get_param_groups().items() if name not in FROZEN_GROUPS}
        if self.config.objective.adapters:
            groups[ADAPTERS] = self._adapters().parameters()
        return groups

    def state_dict(self, *args, **kwargs):
        """The scene's; the adapters' and what is held beside it: whoever loads the scene alone leaves them out."""
        state = super().state_dict(*args, **kwargs)
        if isinstance(self.model, SplatfactoScene) and self.model.held is not None:
            state[HELD] = self.model.held
        if self.adapters is not None:
            own = self.adapters.state_dict()
            state |= {f"_{ADAPTERS}.{name}": value for name, value in own.items()}
        return state

    def confine(self, state: dict[str, Tensor] | None = None) -> None:
        """Hold what lies outside the region, as the scene is now or as `state`, an edit's that goes on, says.

        Raises:
            UserError: nothing lies inside, or the masks cannot be read.
        """
        self.held = Held(self.model, self.region())
        if state is not None and HELD in state and isinstance(self.model, SplatfactoScene):
            self.model.hold(state[HELD])
        if isinstance(self.model, SplatfactoScene) and self.model.held is not None:
            free = len(self.model.held) - int(self.model.held.sum())
            self.decisions["confined"] = f"{free} of {len(self.model.held)} Gaussians may change."
            CONSOLE.log(in_rich(self.decisions["confined"]))

    @property
    def confining(self) -> tuple[str, ...]:
        """Names of the settings that the region depends on and that may change while the edit runs."""
        return ("box",)

    def region(self) -> Region | None:
        """Where the scene may change; None for everywhere."""
        region: Region | None = None if self.config.box is None else Box(self.config.box)
        if self.config.masks is not None:
            masks = hull_of_masks(self.model, train_views(self.datamanager), self.config.masks)
            region = masks if region is None else Common(region, masks)
        return region

    def load_beside(self, state: dict[str, Tensor]) -> None:
        """Take the adapters, where this edit has any, from the pipeline state dict of an edit that goes on."""
        if self.config.objective.adapters:
            prefix = f"_{ADAPTERS}."
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            self._adapters().load_state_dict(own)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfstudio's callbacks, with densification counted in edit steps; and the sheet that concludes an edit."""
        if isinstance(self.model, SplatfactoScene):
            if self.config.densify_until and ranks.count() > 1:
                raise UserError(
                    "Every process would densify by its own views, and the scenes part: run on one GPU, or leave "
                    "--pipeline.densify-until at 0."
                )
            first, last, every = self.config.densify_from, self.config.densify_until, self.config.densify_every
            refinements = max((last - first) // every, 1)
            self.model.begin_edit(
                refine_start=first if last else NEVER,
                refine_stop=last,
                refine_every=every,
                grow_share=self.config.densify_growth ** (1 / refinements) - 1,
            )
        conclude_edit = TrainingCallback(
            [TrainingCallbackLocation.AFTER_TRAIN], conclude, args=[self, training_callback_attributes.trainer]
        )
        return [*super().get_training_callbacks(training_callback_attributes), conclude_edit]

    def get_train_loss_dict(self, step: int):
        """Losses of one edit step; raises `NonFiniteGradient` where they cannot be used."""
        prior, views = self._ready()
        objective, config = self.objective_at(step), self.config
        places = range(ranks.rank() * config.views_per_step, (ranks.rank() + 1) * config.views_per_step)
        shown = ranks.count() * config.views_per_step
        generators = [torch.Generator().manual_seed(config.seed * 1_000_003 + step * shown + i) for i in places]
        indices = [self._view_of_step(step, i, shown, len(views)) for i in places]

        renderings = [self._render_view(prior, views, index) for index in indices]
        if len({rendering.image.shape for rendering in renderings}) > 1:
            raise UserError("The dataset's views differ in shape and make no batch: leave --pipeline.views-per-step 1.")
        image = torch.cat([rendering.image for rendering in renderings])
        pairs = [objective.sample_timesteps(prior.schedule, 1, generator) for generator in generators]
        t, s = (torch.cat(steps) for steps in zip(*pairs, strict=True))  # on the CPU: a look-up then waits for no GPU
        if image.requires_grad:
            pixels = image[:1].detach()  # the hook must not hold the graph that it hangs on

            def look(grad: Tensor) -> None:
                _require_finite(grad, "image", objective, t)
                self.last_view = pixels, grad[:1].detach()

            image.register_hook(look)
        x0_tgt = prior.encode(image)
        sources = [self.source_view(index) for index in indices]
        x0_src = torch.cat([source.latent for source in sources])
        controls = None
        if sources[0].control is not None:
            controls = torch.cat([source.control for source in sources if source.control is not None]).to(x0_tgt)
        edit = Edit(
            x0_tgt=x0_tgt.detach(),
            x0_src=x0_src,
            src_prompt=config.src_prompt,
            tgt_prompt=config.tgt_prompt,
            t=t,
            s=s,
            eps=noise_like(x0_tgt, generators),
            eps_s=noise_like(x0_tgt, generators),
            control_tgt=None if controls is None else torch.cat([depth_of(r) for r in renderings]),
            control_src=controls,
        )
        learning = LearningPrior.of_step(prior, objective.adapters, edit)
        gradient = objective.gradient(learning, edit)
        _require_finite(gradient, "latent", objective, t)
        losses = {
            **{f"{name}_adapter_loss": loss for name, loss in learning.losses().items()},
            "edit_loss": config.loss_weight * surrogate_loss(x0_tgt, gradient),
            **_mean_of([rendering.regulariser for rendering in renderings]),
            **_mean_of([self.further_losses(step, *pair) for pair in zip(renderings, sources, strict=True)]),
        }
        metrics = {"gradient_norm": gradient.norm(), "timestep": t.float().mean()}
        return {}, {name: loss.to(self.device) for name, loss in losses.items()}, metrics

    def begin(self, probe: Callable[[int], list[float]]) -> None:
        """Called once, before the first step of a new edit, with the source scene loaded.

        Args:
            probe: runs that many edit steps, puts the scene back as it was, and returns the values of `edit_loss`.
        """
        if SOURCE in self.config.objective.adapters and self.config.adapter_warmup:
            self.learn_source(self.config.adapter_warmup)

    def learn_source(self, steps: int) -> None:
        """Train ψ alone on the source's views, `WARMUP_VIEWS` of them in each step where they share their shape."""
        prior, views = self._ready()
        optimizer = torch.optim.Adam(self._adapters().parameters(SOURCE), lr=WARMUP_RATE)
        for step in track(range(steps), "learning the source", console=CONSOLE, transient=True):
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
            indices = [self._view_of_step(step, i, WARMUP_VIEWS, len(views)) for i in range(WARMUP_VIEWS)]
            sources = [self.source_view(index) for index in indices]
            alike = [source for source in sources if source.latent.shape == sources[0].latent.shape]
            x0 = torch.cat([source.latent for source in alike])
            controls = [source.control.to(x0) for source in alike if source.control is not None]
            t, s = self.config.objective.sample_timesteps(prior.schedule, len(x0), generator)
            eps = noise_like(x0, [generator] * len(x0))
            control = torch.cat(controls) if controls else None
            edit = Edit(x0, x0, self.config.src_prompt, "", t, s, eps, eps, control_src=control)
            LearningPrior.of_step(prior, (SOURCE,), edit).teach(optimizer)

    def stage_at(self, step: int) -> str:
        """What the progress bar calls edit step `step`."""
        return "edit"

    def objective_at(self, step: int) -> ScoreDistillation:
        """The objective of edit step `step`."""
        return self.config.objective

    def further_losses(self, step: int, rendering: Rendering, source: SourceView) -> dict[str, Tensor]:
        """Losses beside the objective's at edit step `step`."""
        weight = self.config.loss_weight * self.config.hold_details
        if weight == 0:
            return {}
        prior, _ = self._ready()
        lost = details(rendering.image - source.image.to(rendering.image), prior.latent_stride)
        # Beside a score loss that is summed over latents.
        return {"detail_loss": weight * source.latent.numel() * lost.square().mean()}

    def short_side(self) -> int | None:
        """Shorter side in pixels of the views that the prior is shown; None before a prior is loaded that decides."""
        if self.config.resolution is not None or self._prior is None:
            return self.config.resolution
        return self._prior.unet.config.sample_size * self._prior.latent_stride

    @torch.no_grad()
    def before_and_after(self, count: int) -> dict[str, Float[Tensor, "height both 3"]]:
        """`count` training views, evenly chosen: the source image beside the scene as it is, RGB in [0, 1], by name."""
        prior, views = self._ready()
        pairs = {}
        for index in range(0, len(views), math.ceil(len(views) / count)):
            height, width = self._working_size(prior, views, index)
            source = self.source_view(index).image.float().cpu()
            now = render(self.model, views.camera(index, height, width)).image.cpu()
            pairs[Path(views.names[index]).stem] = to_channels_last(torch.cat([source, now], dim=-1))[0]
        return pairs

    def build_model(self) -> Model:
        """Another scene of the same settings and data, as its initialisation leaves it.

        An edit draws the same numbers whether and whenever one is built, for a viewer or for its pictures.
        """
        dataset = self.datamanager.train_dataset
        assert dataset is not None
        with torch.random.fork_rng():
            return self.config.model.setup(
                scene_box=dataset.scene_box,
                num_train_data=len(dataset),
                metadata=dataset.metadata,
                device=self.device,
                grad_scaler=None,
                seed_points=None,
            ).to(self.device)

    def load(self, *args: Any, **settings: Any) -> "StableDiffusionPrior":
        """The prior, see `load_prior`."""
        from pds_nerfstudio.priors.stable_diffusion import load_prior

        return load_prior(*args, **settings)

    def _ready(self) -> "tuple[StableDiffusionPrior, Views]":
        if self._prior is None:
            CONSOLE.log(f"Loading the prior {in_rich(self.config.prior)}")
            dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
            self._prior = self.load(
                self.config.prior,
                self.config.prior_device or self.device,
                dtypes.get(self.config.precision),
                vae_dtype=dtypes[self.config.vae_precision],
                recompute_encoder=self.config.recompute_encoder,
                encoder=self.config.encoder,
                channels_last=self.config.channels_last,
                compiled=self.config.compile_prior,
            )
            self.decisions["prior"] = f"{self.config.prior}, {str(self._prior.unet.dtype).removeprefix('torch.')}"
            if self.config.control is not None and self.config.objective.adapters:
                CONSOLE.log(f"Loading the ControlNet {in_rich(self.config.control)}")
                self._prior.controlnet = load_control(self.config.control, self._prior)
        if self._views is None:
            self._views = train_views(self.datamanager)
        return self._prior, self._views

    def _adapters(self) -> "Adapters":
        """The prior's adapters, made on first use: a trainer's optimisers need their parameters."""
        prior, _ = self._ready()
        if prior.adapters is None:
            if prior.controlnet is None:
                CONSOLE.log(
                    "The adapters learn without a depth-conditioned ControlNet (--pipeline.control): they may mix up a "
                    "scene's views, so that one side shows all around."
                )
            return prior.add_adapters(self.config.objective.adapters, self.config.adapter_rank, self.config.seed)
        return prior.adapters

    def _view_of_step(self, step: int, place: int, shown: int, num_views: int) -> int:
        """Every view once, in a new order, before any comes again; `shown` of them in each step."""
        turn = step // self.config.steps_per_view * shown + place
        order = torch.Generator().manual_seed(self.config.seed * 1_000_003 + turn // num_views)
        return int(torch.randperm(num_views, generator=order)[turn % num_views])

    def _render_view(self, prior: "StableDiffusionPrior", views: Views, index: int) -> Rendering:
        """A view of the edited scene at the prior's working size, with its graph."""
        regularise = self.config.proposal_losses
        if isinstance(self.model, NerfactoModel) and self._rays_per_chunk is None:
            per_ray = bytes_per_ray(self.model, regularise)
            self._rays_per_chunk = rays_that_fit(per_ray, free_memory(self.model.device))
            CONSOLE.log(f"Rendering {self._rays_per_chunk} rays at once, {per_ray / 2**20:.2f} MiB each.")
        camera = views.camera(index, *self._working_size(prior, views, index))
        return render(
            self.model,
            camera,
            rays_per_chunk=self._rays_per_chunk or RAYS_PER_CHUNK,
            regularise=regularise,
            backward_share=self.config.backward_share,
        )

    def _working_size(self, prior: "StableDiffusionPrior", views: Views, index: int) -> tuple[int, int]:
        short_side = self.short_side()
        assert short_side is not None
        return working_size(*views.size(index), short_side, prior.latent_stride)

    def source_view(self, index: int) -> SourceView:
        """What a training view showed before the edit, at the size at which the prior is shown it."""
        prior, views = self._ready()
        return self.sources.view(prior, views, index, *self._working_size(prior, views, index))

    def source_scene(self) -> Model:
        """The scene before the edit, kept until every view's source latent has been computed."""
        return self.sources.scene()

    def _load_source(self) -> Model:
        assert self.config.base is not None
        run = find_run(self.config.base, self.config.base_step)
        model = self.build_model()
        load_model_state(model, load_source_state(run))
        if isinstance(model, SplatfactoScene):
            model.begin_edit()
        return model.requires_grad_(False).eval()


def noise_like(latents: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Standard normal noise, each sample's from its own generator."""
    return torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators]).to(latents)


def _mean_of(losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over views of each loss by name."""
    return {name: torch.stack([of_view[name] for of_view in losses]).mean() for name in losses[0]}


def _require_finite(gradient: Tensor, place: str, objective: ScoreDistillation, t: Tensor) -> None:
    if not bool(torch.isfinite(gradient).all()):
        raise NonFiniteGradient(
            f"the {place} gradient of {type(objective).__name__} at timestep {t.tolist()} is not finite"
        )
