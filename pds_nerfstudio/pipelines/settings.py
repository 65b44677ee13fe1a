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
from pds_nerfstudio.ranges import Seed, Share, Steps, Weight
from pds_nerfstudio.scenes.orbit import VIEWS
from pds_nerfstudio.scenes.perturb import Eta
from pds_nerfstudio.scenes.region import Box, Corners, Point
from pds_nerfstudio.scenes.scene import Densify
from pds_nerfstudio.scenes.stencil import Stencil


class Group:
    """Settings that belong together; their flags carry no prefix of the group."""


G = TypeVar("G", bound=Group)
C = TypeVar("C")
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
    """Where the prior runs, for example "cuda:1"; by default beside the scene."""
    fit: Annotated[float, Gt(0), Le(10_000)] | Literal["auto", "off"] = "auto"
    """GiB that the edit may take on the prior's device; auto: what is free on a GPU. What it will take is counted and
    said before the first step, and where that is too much the encoder runs again in the backward pass. Results stay
    the same."""

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
    """Change only what these images show white: a folder with black-and-white images named like training views, not
    necessarily all of them. What most of them show white is what may change."""
    region: str | None = None
    """Change only what these words name, for example "the ball". The prior is asked where each training view shows it:
    in the source prompt if that has the words, else in the words alone."""
    region_by: FoundBy = "both"
    """How the words are found: by what the prior predicts with and without them, by its cross-attention, or by both.
    Stable Diffusion 3 takes difference alone."""
    click: tuple[int, float, float] | None = None
    """Change only the object that is seen here: the number of a training view, from 0, then column and row in pixels
    of its image, from the upper left. It takes the place of --pipeline.pick."""
    pick: Point | None = None
    """Change only the object that this point lies on: x, y, z in the scene's coordinates, which are the viewer's."""
    pick_grow: Annotated[float, Ge(-1), Le(1)] = 0.0
    """Take surfaces near that object in too, up to this share of its radius away; below 0, leave its rim out."""
    pick_invert: bool = False
    """Change everything but that object."""
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
    """What may change at all: the whole scene, or only the part of it where the prior, asked about the source's views,
    would change something for the target prompt. The rest is then frozen, as outside a box."""

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
    """Keep training the proposal networks, by nerfacto's own losses on the edited rendering, so that samples follow
    density that moves."""
    backward_share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the chunks of rays, drawn anew in each step, that is differentiated, scaled so that the gradient stays
    right on average."""

    def differentiated(self) -> float:
        """See `SceneSettings.differentiated`."""
        return self.backward_share

    def regularises(self) -> bool:
        """See `SceneSettings.regularises`."""
        return self.proposal_losses


@dataclass
class SplatSettings(DistilledScene):
    """What splats can be told."""

    densify_from: Count = 100
    """Edit step after which Gaussians are cloned, split and pruned."""
    densify_until: Count = 0
    """Edit step at which that ends; 0 keeps the number of Gaussians."""
    densify_every: Steps = 100
    """Steps between two refinements by cloning, splitting and pruning."""
    densify_growth: Annotated[float, Ge(1), Le(100)] = 2.0
    """About how many times as many Gaussians there are in the end, pruning aside. Each refinement clones or splits the
    share of them that this takes, those with the largest screen gradients; splatfacto's own threshold is for the scale
    of a photometric loss. What covers more of the screen than --pipeline.model.split-screen-size is split besides,
    which a perturbation of scales makes frequent."""

    def densification(self) -> Densify | None:
        """See `SceneSettings.densification`."""
        if not self.densify_until:
            return None
        return Densify(self.densify_from, self.densify_until, self.densify_every, self.densify_growth)


@dataclass
class ViewSettings(Group):
    """How views are shown to the prior."""

    resolution: Annotated[int, Ge(1), Le(8192)] | None = None
    """Shorter side, in pixels, at which views are rendered for the prior; by default the size it was trained at."""

    tell_cameras: bool = True
    """Tell a prior that takes cameras (toybox's, MVDream's) from where each view is seen."""
    front: Annotated[float, Ge(-360), Le(360)] = 0.0
    """Azimuth, in degrees from the scene's x axis towards y, from which such a prior is told that the subject's front
    is seen."""
    view_words: bool = False
    """Say "front view", "side view", "back view" or "overhead view" behind both prompts, by the azimuth from
    --pipeline.front (Poole et al. 2022): for priors that take no cameras. Each step then shows one view."""
    subject: tuple[float, ...] | None = None
    """What is edited, in the scene's coordinates: a point on it, x y z; or its middle and radius, x y z radius. By
    default what --pipeline.box encloses, or what the photographs frame. Orbits are drawn about it."""

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
    """What the source latent shows: the source scene's rendering, which an unchanged scene matches exactly, or the
    photograph, as in Koo et al. 2024 and their release: it then also asks for what the reconstruction lost."""

    def of_photographs(self) -> bool:
        """See `ViewSettings.of_photographs`."""
        return self.source_images == "photograph"


@dataclass
class DistilledViews(SourceViewSettings):
    """The same where each step shows some."""

    views_per_step: Annotated[int, Ge(1), Le(1024)] = 1
    """Views that each step shows to the prior, in one batch; their gradients are averaged."""
    steps_per_view: Steps = 1
    """Steps before the view changes. The release of Koo et al. 2024 keeps each for 10; with 1 a scene hears all its
    views sooner."""
    views: Literal["training", "orbit", "both"] = "training"
    """What steps show to the prior: training views; four views 90 degrees apart on an orbit about the subject, which a
    prior that takes cameras predicts together (Shi et al. 2023); or both in turn. A capture has to look around its
    subject for that."""
    orbits: Annotated[int, Ge(1), Le(10_000)] = 24
    """How many orbits there are to choose from, drawn once from the seed."""
    background: Literal["scene", "removed"] = "scene"
    """What orbits show behind the subject: the scene, or nothing, as the objects have it that MVDream was trained on.
    The subject is what --pipeline.box encloses, or what lies within one and a half times the radius of
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
    """Factor on the objective's gradient. Adam divides it out again, except against nerfacto's own losses."""
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
    """LoRAs added to the prior, PATH[:weight] each: a .safetensors of kohya's, diffusers' or peft's, or its folder."""
    embedding: tuple[Path, ...] = ()
    """Textual inversions (.safetensors); prompts hold them by their files' names."""
    vae_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the prior's VAE, which overflows in fp16. bf16 halves what its encoder keeps for backward."""


@dataclass
class RunSettings(Group):
    """What tells one run from another."""

    recipe: tuple[str, ...] = ()
    """The settings to begin with: by default those of the prior's recipe.json for what the prompts seem to ask; none
    for the method's own; a kind of edit (colour, addition, shape, style, object), what there is to spend (quick,
    quality, low-vram), or another recipe's file. What is given on the command line wins."""
    followed: Annotated[str | None, tyro.conf.Suppress] = None
    """The name of the recipe that an edit began with; set by it."""
    seed: Seed = 0
    """Seed of views, timesteps and noise; a step draws the same ones in an interrupted and in a straight run."""
    base: Path | None = None
    """The run that an edit to be resumed began with, where it has moved: its folder or config.yml. A new edit sets it
    from --load-dir."""
    base_step: int | None = None
    """The checkpoint of that run; set from --load-dir and --load-step."""
    base_checksum: Annotated[str | None, tyro.conf.Suppress] = None
    """SHA-256 of that checkpoint's file; set by a new edit."""
    carry_source: bool = True
    """Keep the source's weights in the edit's own folder (source.pt), so that the edit can be resumed, rendered and
    measured where its source is not."""
    carried: Annotated[Path | None, tyro.conf.Suppress] = None
    """That file; set by the edit."""


@dataclass
class AdapterSettings(Group):
    """How VSD's and Piva's adapters learn the source's and the edited renderings."""

    adapter_rank: Annotated[int, Ge(1), Le(1024)] = 16
    """VSD and Piva only: rank of the LoRA adapters that learn the source's and the edited renderings."""
    control: str | None = None
    """VSD and Piva only: a depth-conditioned ControlNet for the adapters, hub id or folder, such as
    lllyasviel/sd-controlnet-depth for Stable Diffusion 1.5, or "toybox". Without one, adapters mix up a scene's views
    (the Janus problem)."""
    adapter_warmup: Count = 0
    """Piva only: steps in which the source's adapter learns the source's views before the edit begins. Otherwise it
    learns along with the edit, and a few hundred steps are too few for that."""


@dataclass
class Perturbation(Group):
    """How far the scene is moved towards a fresh draw before the edit."""

    eta: Share | Literal["auto"] = 0.6
    """How far towards a fresh draw the scene is moved before the edit, in [0, 1]. 0.6 is for real scenes (Hong et al.
    2024, sec. E); "auto" measures it (Alg. 2)."""
    perturb: Literal["everywhere", "relevant"] = "relevant"
    """What is perturbed: the whole scene, as in the paper, or the part of it where the prior, asked about the source's
    views, would change something for the target prompt."""
    probe_steps: Annotated[int, Ge(20), Le(100_000)] = 50
    """With --pipeline.eta auto: steps of the probe."""
    eta_max: Share = 0.6
    """With --pipeline.eta auto: the largest eta it may choose."""
    minimum_decrease: Annotated[float, Gt(0)] = PAPERS_MINIMUM_DECREASE
    """With --pipeline.eta auto: Δ_min, the fall of the loss over the probe from which on no perturbation is needed.
    1000 is for MVDream's loss; `pds calibrate-eta` proposes one for another prior, objective or scene."""

    def etas(self, eta: float) -> Eta:
        """η of each part of the scene where that of its geometry is `eta`."""
        return Eta(eta)


@dataclass
class SplatPerturbation(Perturbation):
    """The same for splats, of which the paper says no more than that mean and variance are perturbed."""

    eta: Share | Literal["auto"] = 0.3
    """How far towards a fresh draw means and scales are moved before the edit, in [0, 1]; "auto" measures it (Hong et
    al. 2024, Alg. 2)."""
    eta_opacity: Share = 0.8
    """Eta of the opacities, wherever eta itself is not 0. The paper leaves them as they are."""
    eta_colour: Share = 0.0
    """Eta of the colours, wherever eta itself is not 0."""

    def etas(self, eta: float) -> Eta:
        """See `Perturbation.etas`."""
        return Eta(eta, self.eta_opacity, self.eta_colour)


@dataclass
class Refinement(Group):
    """The second stage of a perturbed edit, which restores the source's identity."""

    refine_steps: Count = 1_000
    """Steps of the refinement that follows the edit; 0 leaves it out."""
    spare_relevant: bool = True
    """Refinement: pull back only what the prior, asked about the source's views, would leave alone. Off, it pulls
    everywhere, as in the paper."""
    identity_l1: Weight = 30_000.0
    """Refinement: weight of the mean absolute difference to the source image when it begins (Hong et al. 2024, table
    2). Meant for a score loss over 4,096 latent values; scaled to the prior's."""
    identity_perceptual: Weight = 300.0
    """Refinement: weight of the perceptual distance to the source image, summed over four views, when it begins.
    Meant for a score loss over 4,096 latent values; scaled to the prior's."""


ORDER = (
    *("_target", "datamanager", "model", "src_prompt", "tgt_prompt", "negative_prompt", "prior", "objective", "by"),
    *("edit_steps", "anneal", "perturbation", "refinement", "loss", "region", "scene", "view", "adapter", "network"),
    *("compute", "run"),
)
"""Of an edit's settings: what everybody sets, what one tunes, the rest."""


def listed_in_order(cls: type[C]) -> type[C]:
    """Let a configuration's fields, and with them its help, stand in ORDER, its own other ones behind the prior.

    A dataclass lists inherited fields first, so that a method's own settings would come last.
    """
    own = [name for name in cls.__dataclass_fields__ if name not in ORDER]  # pyright: ignore[reportAttributeAccessIssue]
    first, rest = ORDER[: ORDER.index("objective")], ORDER[ORDER.index("objective") :]
    by_name = cls.__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
    cls.__dataclass_fields__ = {name: by_name[name] for name in (*first, *own, *rest) if name in by_name}  # pyright: ignore[reportAttributeAccessIssue]
    return cls
