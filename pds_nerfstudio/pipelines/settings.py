"""An edit's settings in typed groups, whose flags stay flat: `config.region.box` is `--pipeline.box`.

    EditConfig
    ├── compute   what belongs to the machine: a resumed edit takes it from the command line, never from its run
    ├── region    where the scene may change
    ├── scene     what only this family of scenes, edited in this way, can be told
    └── …         and each method's own

A family's own settings are a subclass of a group: a method holds the group of its family
(`settings_tree.for_family`), and its help lists no others.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from annotated_types import Ge, Gt, Le

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.perturb import PAPERS_MINIMUM_DECREASE
from pds_nerfstudio.priors.few_bits import Weights
from pds_nerfstudio.ranges import Seed, Share, Steps, Weight
from pds_nerfstudio.scenes.orbit import VIEWS
from pds_nerfstudio.scenes.perturb import Eta
from pds_nerfstudio.scenes.region import Box, Corners, Point
from pds_nerfstudio.scenes.scene import Densify
from pds_nerfstudio.scenes.stencil import Stencil


class Group:
    """Settings that belong together; their flags carry no prefix of the group."""


G = TypeVar("G", bound=Group)
Count = Annotated[int, Ge(0), Le(10_000_000)]
"""A number of steps that may be none."""
Flat = Annotated[G, tyro.conf.arg(name="")]


@dataclass
class Compute(Group):
    """How the machine computes an edit, which changes its numbers only by rounding."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the prior's U-Net: auto is fp16 on CUDA and fp32 elsewhere."""
    recompute_encoder: bool = False
    """Run the VAE's encoder again in the backward pass instead of keeping its activations."""
    channels_last: bool = False
    """Store the prior's images channels last, the layout that GPUs prefer for half-precision convolutions."""
    compile_prior: bool = False
    """torch.compile the U-Net and the encoder: the first step takes minutes, the others less time."""
    prior_device: str | None = None
    """Device that the prior runs on, for example "cuda:1"; by default that of the scene."""
    fit: Annotated[float, Gt(0), Le(10_000)] | Literal["auto", "off"] = "auto"
    """GiB of memory that the edit may take on the prior's device; auto is what is free on a GPU. The edit counts what
    it will take and prints it before the first step. If that is too much, the encoder runs again in the backward pass,
    which does not change the result."""

    def rays_at_once(self) -> int | None:
        """How many rays of a NeRF to render at once; None for as many as fit."""
        return None

    def budget(self) -> float:
        """Bytes that the edit may take; infinite where nobody has named a limit."""
        return self.fit * 2**30 if isinstance(self.fit, int | float) else math.inf


@dataclass
class NerfCompute(Compute):
    """The same for a scene that is rendered ray by ray."""

    rays_per_chunk: Annotated[int, Ge(2)] | None = None
    """Rays rendered at once, and again in backward; by default as many as fit a quarter of the free memory (or of
    --pipeline.fit), at most 2 GiB and 4096 of them on a CPU, 16 GiB and 32768 on a GPU, 4096 with tiny-cuda-nn."""

    def rays_at_once(self) -> int | None:
        """See `Compute.rays_at_once`."""
        return self.rays_per_chunk


FoundBy = Literal["both", "difference", "attention"]


@dataclass
class RegionSettings(Group):
    """Where the scene may change."""

    box: Corners | None = None
    """Change only what lies in this box: the least x, y, z, then the greatest, in the scene's coordinates, which are
    the viewer's. Gaussians outside it stay as they are, to the bit."""
    masks: Path | None = None
    """Change only what is white in these masks: a folder of black-and-white images that are named like training views.
    Not every view needs one. A part of the scene may change if most masks show it white."""
    region: str | None = None
    """Change only what these words name, for example "the ball". The prior finds it in each training view, with the
    source prompt if the words occur in it, else with the words alone."""
    region_by: FoundBy = "both"
    """How the prior finds the words: difference compares its predictions with and without them, attention reads its
    cross-attention, both does both. Stable Diffusion 3 supports difference only."""
    click: tuple[int, float, float] | None = None
    """Change only the object at this pixel: the number of a training view, counted from 0, then column and row in its
    image, counted from the upper left. Use it instead of --pipeline.pick."""
    pick: Point | None = None
    """Change only the object that this point lies on: x, y, z in the scene's coordinates, which are the viewer's."""
    pick_grow: Annotated[float, Ge(-1), Le(1)] = 0.0
    """Also include surfaces near the object, up to this share of its radius away. Below 0, leave out its rim."""
    pick_invert: bool = False
    """Change everything except that object."""
    drawn: Annotated[tuple[Stencil, ...], tyro.conf.Suppress] = ()
    """What was drawn on views in the viewer: more that may change, or less."""

    @property
    def confines(self) -> bool:
        """Whether any part of the scene is kept from changing."""
        places = (self.box, self.masks, self.region, self.click, self.pick)
        return bool(self.drawn) or any(place is not None for place in places)

    def check(self) -> None:
        """Raise UserError for a box, masks or words that cannot be used."""
        try:
            if self.box is not None:
                Box(self.box)
        except ValueError as error:
            raise UserError(f"--pipeline.box: {error}") from error
        try:
            self.drawn = tuple(replace(stencil) for stencil in self.drawn)
        except (ValueError, TypeError) as error:
            raise UserError(f"What this run says was drawn cannot be read ({error}): edit its source again.") from error
        if self.masks is not None and not self.masks.is_dir():
            raise UserError(f"--pipeline.masks {self.masks} is no folder: give one with an image for some views.")
        if self.region is not None and not self.region.strip():
            raise UserError('--pipeline.region is empty: name what may change, for example "the ball".')
        if self.region is None and self.region_by != "both":
            raise UserError(f"--pipeline.region-by {self.region_by} finds words: give them with --pipeline.region.")
        if self.click is None and self.pick is None and (self.pick_grow or self.pick_invert):
            raise UserError(
                "--pipeline.pick-grow and --pipeline.pick-invert alter an object: say which one with --pipeline.click."
            )


@dataclass
class RelevantRegion(RegionSettings):
    """The same, where the prior can be asked what it would change."""

    change: Literal["everywhere", "relevant"] = "everywhere"
    """What may change: the whole scene, or only the relevant part, where the prior would change the source's views to
    match the target prompt. The rest is then frozen, as outside a box."""

    @property
    def confines(self) -> bool:
        """See `RegionSettings.confines`."""
        return super().confines or self.change == "relevant"


@dataclass
class SceneSettings(Group):
    """What can be said about the scene itself: of a NeRF that trains on images, nothing."""

    def densification(self) -> Densify | None:
        """When the number of Gaussians changes; None for never."""
        return None

    def added(self) -> int:
        """How many Gaussians are added where the scene may change, before the first step."""
        return 0

    def differentiated(self) -> float:
        """The share of a NeRF's chunks that carries a graph."""
        return 1.0

    def regularises(self) -> bool:
        """Whether a NeRF's own losses on its proposals go along."""
        return True


@dataclass
class DistilledScene(SceneSettings):
    """The scene of a distilled edit, before its family is known."""


@dataclass
class NerfSettings(DistilledScene):
    """What a NeRF that is edited by distillation can be told."""

    proposal_losses: bool = True
    """Keep training the proposal networks with nerfacto's own losses on the edited rendering, so that samples follow
    the density when it moves."""
    backward_share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the chunks of rays that is differentiated, drawn again in each step. The gradient is scaled so that it
    stays right on average."""

    def differentiated(self) -> float:
        """See `SceneSettings.differentiated`."""
        return self.backward_share

    def regularises(self) -> bool:
        """See `SceneSettings.regularises`."""
        return self.proposal_losses


@dataclass
class SplatSettings(DistilledScene):
    """What splats can be told."""

    new_gaussians: Count = 0
    """Up to so many Gaussians are added, nearly transparent, to the part that may change, before the first step. An
    addition in empty air has few to be made of. None are added where everything may change, or where a refinement keeps
    what its edit froze."""
    densify_from: Count = 100
    """Edit step after which Gaussians are cloned, split and pruned."""
    densify_until: Count = 0
    """Edit step at which cloning, splitting and pruning end; 0 keeps the number of Gaussians."""
    densify_every: Steps = 100
    """Steps between two rounds of cloning, splitting and pruning."""
    densify_growth: Annotated[float, Ge(1), Le(100)] = 2.0
    """By how much the number of Gaussians grows in all, about and without pruning; 2 doubles it. Each time, the
    Gaussians with the largest screen gradients are cloned or split, as many as that takes; splatfacto's own threshold
    is made for a photometric loss. Gaussians that cover more of the screen than --pipeline.model.split-screen-size are
    split too, which happens often after a perturbation of scales."""

    def added(self) -> int:
        """See `SceneSettings.added`."""
        return self.new_gaussians

    def densification(self) -> Densify | None:
        """See `SceneSettings.densification`."""
        if not self.densify_until:
            return None
        return Densify(self.densify_from, self.densify_until, self.densify_every, self.densify_growth)


@dataclass
class ViewSettings(Group):
    """How views are shown to the prior."""

    resolution: Annotated[int, Ge(1), Le(8192)] | None = None
    """Shorter side of the views that are rendered for the prior, in pixels; by default the size it was trained at."""

    tell_cameras: bool = True
    """Tell a prior that takes cameras (toybox's, MVDream's) from where each view is seen."""
    front: Annotated[float, Ge(-360), Le(360)] = 0.0
    """Where the front of the subject is: the azimuth of a camera that sees it, in degrees from the scene's x axis
    towards y."""
    view_words: bool = False
    """Append "front view", "side view", "back view" or "overhead view" to both prompts, by the camera's azimuth from
    --pipeline.front (Poole et al. 2022): for priors that do not take cameras. Each step then shows one view."""
    subject: tuple[float, ...] | None = None
    """Where the subject is, in the scene's coordinates: a point on it, x y z; or its middle and radius, x y z radius.
    By default what --pipeline.box encloses, else what the photographs frame. Orbits turn around it."""

    def of_photographs(self) -> bool:
        """Whether photographs stand in for the source's renderings."""
        return False

    def orbit_count(self) -> int:
        """How many orbits there are to show."""
        return 0

    def subject_alone(self) -> bool:
        """Whether orbits show the subject without its background."""
        return False

    def check(self) -> None:
        """Raise UserError for settings that cannot be meant together."""
        if self.subject is not None and (len(self.subject) not in (3, 4) or min(self.subject[3:], default=1) <= 0):
            raise UserError("--pipeline.subject takes a point, x y z, or a middle and a radius above 0, x y z radius.")


@dataclass
class SourceViewSettings(ViewSettings):
    """The same where what the source shows may be its photographs."""

    source_images: Literal["rendering", "photograph"] = "rendering"
    """What the edit is compared with: a rendering of the source scene, which an unchanged scene matches exactly, or the
    photograph, as in Koo et al. 2024 and their release. With photographs the edit also restores what the reconstruction
    lost."""

    def of_photographs(self) -> bool:
        """See `ViewSettings.of_photographs`."""
        return self.source_images == "photograph"


@dataclass
class DistilledViews(SourceViewSettings):
    """The same where each step shows some."""

    views_per_step: Annotated[int, Ge(1), Le(1024)] = 1
    """Number of views that each step shows to the prior, in one batch. Their gradients are averaged."""
    steps_per_view: Steps = 1
    """Number of steps that use the same view. The release of Koo et al. 2024 uses 10; with 1, all views take their turn
    sooner."""
    views: Literal["training", "orbit", "both"] = "training"
    """Which views to show to the prior: training views; orbit, four views 90 degrees apart around the subject, which a
    prior that takes cameras predicts together (Shi et al. 2023); or both in turn. Orbits need a capture that goes
    around its subject."""
    orbits: Annotated[int, Ge(1), Le(10_000)] = 24
    """Number of different orbits, drawn once from the seed."""
    background: Literal["scene", "removed"] = "scene"
    """What orbits show behind the subject: the scene, or nothing, as in the pictures of objects that MVDream was
    trained on. The subject is then what --pipeline.box encloses, or what lies within one and a half times the radius of
    --pipeline.subject."""

    def orbit_count(self) -> int:
        """See `ViewSettings.orbit_count`."""
        return 0 if self.views == "training" else self.orbits

    def subject_alone(self) -> bool:
        """See `ViewSettings.subject_alone`."""
        return self.background == "removed"

    def most_at_once(self) -> int:
        """How many views a step shows at most."""
        of_training = 0 if self.views == "orbit" else self.views_per_step
        return max(of_training, VIEWS if self.orbit_count() else 0)

    def check(self) -> None:
        """See `ViewSettings.check`."""
        super().check()
        if self.background == "removed" and not self.orbit_count():
            raise UserError("--pipeline.background removed is for orbits: give --pipeline.views orbit or both as well.")
        if self.view_words and (self.views_per_step > 1 or self.views != "training"):
            raise UserError(
                "--pipeline.view-words puts a word for one view into the prompts: leave --pipeline.views-per-step 1 "
                "and --pipeline.views training."
            )


@dataclass
class LossSettings(Group):
    """What the scene descends."""

    loss_weight: Annotated[float, Gt(0), Le(1e6)] = 1.0
    """Factor on the objective's gradient. Adam cancels it, so it matters only beside nerfacto's own losses."""
    hold_details: Weight = 0.0
    """Weight of a loss that keeps fine detail near the source: what averaging over the latent stride removes. The
    encoder hardly sees such detail, so nothing else keeps it, and floors begin to speckle. 4 suits changes of colour;
    hats and shapes change less under it."""


@dataclass
class NetworkSettings(Group):
    """What the prior's networks are, beyond its name."""

    encoder: str | None = None
    """A tiny encoder (diffusers' AutoencoderTiny) in place of the VAE's: a hub id, a local folder, or "toybox"."""
    lora: tuple[str, ...] = ()
    """LoRAs to add to the prior, PATH[:weight] each: a .safetensors in kohya's, diffusers' or peft's format, or its
    folder."""
    embedding: tuple[Path, ...] = ()
    """Textual inversions (.safetensors) to load. Write a file's name in a prompt to use it."""
    vae_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the prior's VAE. bf16 halves what its encoder keeps for the backward pass; fp16 would overflow."""
    weights: Weights = "full"
    """How the weights of the prior's U-Net or transformer, and of T5, are stored: in its precision, or in 8 or 4 bits,
    half or a little over a quarter of what they take on a GPU, from which each layer's are made when it is used.
    4 bits change what is predicted more: they are for what does not fit otherwise, such as FLUX on 12 GB."""


@dataclass
class RunSettings(Group):
    """What tells one run from another."""

    recipe: tuple[str, ...] = ()
    """Which settings to start from: a kind of edit (colour, addition, shape, style, object), what to spend (quick,
    quality, low-vram), or both; a recipe's file; or none for the method's own. By default, the prior's recipe.json for
    the kind of edit that the prompts seem to ask for. Flags on the command line take precedence."""
    followed: Annotated[str | None, tyro.conf.Suppress] = None
    """The name of the recipe that an edit began with; set by it."""
    seed: Seed = 0
    """Seed of views, timesteps and noise. A run that was interrupted draws the same ones as one that was not."""
    base: Path | None = None
    """When resuming, the run that the edit started from, if it has moved: its folder or config.yml. A new edit sets
    this from --load-dir."""
    base_step: int | None = None
    """The step of that run's checkpoint; set from --load-dir and --load-step."""
    base_checksum: Annotated[str | None, tyro.conf.Suppress] = None
    """SHA-256 of that checkpoint's file; set by a new edit."""
    carry_source: bool = True
    """Keep a copy of the source's weights in the edit's own folder (source.pt), so that the edit can be resumed,
    rendered and measured without its source."""
    carried: Annotated[Path | None, tyro.conf.Suppress] = None
    """That file; set by the edit."""


@dataclass
class AdapterSettings(Group):
    """How VSD's and Piva's adapters learn the source's and the edited renderings."""

    adapter_rank: Annotated[int, Ge(1), Le(1024)] = 16
    """VSD and Piva only: rank of the LoRA adapters that learn the source's and the edited renderings."""
    control: str | None = None
    """VSD and Piva only: a depth-conditioned ControlNet for the adapters. A hub id or folder, such as
    lllyasviel/sd-controlnet-depth for Stable Diffusion 1.5, or "toybox". Without one, adapters mix up the views of a
    scene (the Janus problem)."""
    adapter_warmup: Count = 0
    """Piva only: number of steps in which the source's adapter learns the source's views before the edit begins. With 0
    it learns during the edit, for which a few hundred steps are too few."""


@dataclass
class Perturbation(Group):
    """How far the scene is moved towards a fresh draw before the edit."""

    eta: Share | Literal["auto"] = 0.6
    """How far the scene is moved towards a random new one before the edit, in [0, 1]. 0.6 is for real scenes (Hong et
    al. 2024, sec. E); "auto" measures it (Alg. 2)."""
    perturb: Literal["everywhere", "relevant"] = "relevant"
    """What to perturb: the whole scene, as in the paper, or only the relevant part, where the prior would change the
    source's views to match the target prompt."""
    probe_steps: Annotated[int, Ge(20), Le(100_000)] = 50
    """With --pipeline.eta auto: number of steps that measure it (the probe)."""
    eta_max: Share = 0.6
    """With --pipeline.eta auto: the largest eta it may choose."""
    minimum_decrease: Annotated[float, Gt(0)] = PAPERS_MINIMUM_DECREASE
    """With --pipeline.eta auto: Δ_min, the fall of the loss over the probe at which no perturbation is needed. 1000 is
    for MVDream's loss; `pds calibrate-eta` proposes a value for another prior, objective or scene."""

    def etas(self, eta: float) -> Eta:
        """η of each part of the scene where that of its geometry is `eta`."""
        return Eta(eta)


@dataclass
class SplatPerturbation(Perturbation):
    """The same for splats, of which the paper says no more than that mean and variance are perturbed."""

    eta: Share | Literal["auto"] = 0.3
    """How far means and scales are moved towards random new ones before the edit, in [0, 1]; "auto" measures it (Hong
    et al. 2024, Alg. 2)."""
    eta_opacity: Share = 0.8
    """How far opacities are moved, unless --pipeline.eta is 0. The paper does not perturb them."""
    eta_colour: Share = 0.0
    """How far colours are moved, unless --pipeline.eta is 0."""

    def etas(self, eta: float) -> Eta:
        """See `Perturbation.etas`."""
        return Eta(eta, self.eta_opacity, self.eta_colour)


@dataclass
class Refinement(Group):
    """The second stage of a perturbed edit, which restores the source's identity."""

    refine_steps: Count = 1_000
    """Steps of the refinement that follows the edit; 0 for none."""
    spare_relevant: bool = True
    """Refinement: pull back to the source only what the prior would leave alone in its views. False pulls everywhere,
    as in the paper."""
    identity_l1: Weight = 30_000.0
    """Refinement: weight, at its start, of the mean absolute difference to the source image (Hong et al. 2024, table
    2). The value is for 4,096 latent values and is scaled to the number that the prior has."""
    identity_perceptual: Weight = 300.0
    """Refinement: weight, at its start, of the perceptual distance to the source image, summed over four views. The
    value is for 4,096 latent values and is scaled to the number that the prior has."""
