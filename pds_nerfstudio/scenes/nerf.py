"""nerfacto scenes: rays in chunks, hash tables frozen entry by entry.

Rays are rendered in chunks, by deferred back-propagation (Zhang et al. 2022, ARF): first all of them without
a graph; backward then renders one chunk after the other again, with its graph, and goes back through it. One chunk's
activations are kept at a time, not those of all rays. That is `torch.utils.checkpoint` in its reentrant form. The other
form records a graph in the first rendering and only discards the tensors that it saves: tiny-cuda-nn keeps its
activations out of sight, for every chunk. In return the gradient of a rendering is for `backward()` alone and not for
`torch.autograd.grad`.

What a region freezes: the entries of hash tables that no point of it reads, and the networks, which every point reads.
An entry is shared by points far apart, so that the rest of a NeRF is frozen nearly, not to the bit.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.model_components.losses import distortion_loss, interlevel_loss
from nerfstudio.model_components.renderers import background_color_override_context
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.hash_grid import entries_read
from pds_nerfstudio.scenes.hull import Region
from pds_nerfstudio.scenes.memory import MOST_UNSEEN, free_memory, kept_for_backward, rays_that_fit
from pds_nerfstudio.scenes.perturb import Eta, nerf_parameters, perturb_nerf, redraw_tcnn, tcnn_modules
from pds_nerfstudio.scenes.rendering import Chunks, Rendering, as_image, evaluating, require_one
from pds_nerfstudio.scenes.scene import FROZEN, Scene
from pds_nerfstudio.scenes.views import CAMERA_INDEX, Views

RAY_VIEWS = 16
"""Views of which each step of `photometric` takes rays, drawn anew, an equal number of each."""
REGULARISERS = ("interlevel_loss", "distortion_loss")
"""nerfacto's losses that keep its samples on its surfaces (Barron et al. 2022, eqs. 13 and 15)."""
PROBED_SIDE = 8
EVERY_STEP = 2**62
BACKWARD = 1.5
"""The most that is alive at once while a chunk goes backward, in units of what it kept: counted, by the torch
implementation."""


class NerfScene(Scene):
    """A nerfacto model: -big, -huge and earlier edits too."""

    family = "nerfacto"
    model_type = NerfactoModel
    config_type = NerfactoModelConfig
    film = (24, 64)
    enlarges = False

    def __init__(self, model: Model):
        super().__init__(model)
        self._frozen: dict[str, Bool[Tensor, ...]] = {}
        """Of each hash table, which entries are frozen. Empty: nothing is, not even the networks."""
        self._rays: int | None = None

    def chunks(
        self, rays: int | None, backward_share: float = 1.0, regularise: bool = False, budget: float = math.inf
    ) -> Chunks:
        """Chunks of so many rays, or of as many as fit the free memory and the budget, measured on the first call."""
        if rays is None and self._rays is None:
            per_ray = BACKWARD * self.bytes_per_ray(regularise)
            device = self.model.device
            most = MOST_UNSEEN if tcnn_modules(self.model) else None
            self._rays = rays_that_fit(per_ray, min(free_memory(device), budget), device.type, most)
            CONSOLE.log(f"Rendering {self._rays:d} rays at once, {per_ray / 2**20:.2f} MiB each.")
        return Chunks(rays or self._rays or Chunks.rays, backward_share=backward_share)

    def bytes_per_ray(self, regularise: bool = False) -> float:
        """What rendering keeps for the backward pass of each ray, measured on a few of them under the current
        autocast."""
        pose = torch.eye(4)[None, :3]
        focal = centre = PROBED_SIDE / 2
        camera = Cameras(pose, focal, focal, centre, centre, PROBED_SIDE, PROBED_SIDE, metadata={CAMERA_INDEX: 0})
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        parameters = self.model.parameters()
        with torch.random.fork_rng(devices), torch.enable_grad(), kept_for_backward(parameters) as kept:
            rendering = self.render(camera, Chunks(recompute=False), regularise=regularise)
        del rendering
        return max(kept.bytes, 1) / PROBED_SIDE**2

    def render(
        self,
        camera: Cameras,
        chunks: Chunks = Chunks(),
        *,
        regularise: bool = False,
        within: Region | None = None,
    ) -> Rendering:
        """See `Scene.render`. In training mode samples along rays are jittered where gradients are on; in evaluation
        mode the result is deterministic."""
        require_one(camera)
        model, camera = self.model, camera.to(self.model.device)
        index = (camera.metadata or {}).get(CAMERA_INDEX)
        with torch.no_grad():
            rays = camera.generate_rays(camera_indices=0, keep_shape=True)
            height, width = rays.shape
            rays = rays.flatten()
            assert rays.camera_indices is not None
            rays.camera_indices = torch.full_like(rays.camera_indices, 0 if index is None else index)
            cosine = 1 / rays.metadata["directions_norm"]
        posed = index is not None or model.camera_optimizer.config.mode == "off"
        jitter = model.training and torch.is_grad_enabled()
        if regularise and not posed:
            raise ValueError("regularise needs a camera with a view index (see scenes.views) while poses are optimised")

        # Every chunk lies all over the view: the gradient of one is then like that of any other. They are of equal
        # size: nerfstudio's camera optimiser cannot take a last chunk of a single ray.
        count = math.ceil(len(rays) / chunks.rays)
        spans = [torch.arange(i, len(rays), count, device=model.device) for i in range(count)]
        places = torch.cat(spans).argsort()
        trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
        recompute = trained and (count > 1 if chunks.recompute is None else chunks.recompute)
        asks_for_gradients = torch.zeros((), device=model.device, requires_grad=True)  # as the rays of a chunk do not

        def render_chunk(span: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            with _as_shown(model, posed=posed, jitter=jitter, proposals=regularise), _alone(model, within):
                outputs = model(rays[span])
                losses = _regularisers(model, outputs) if regularise else outputs["rgb"].new_zeros(2)
            return outputs["rgb"], outputs["depth"], outputs["accumulation"], losses * len(span) / len(rays)

        # Exactly so many, rather than each with that probability: every step then costs the same.
        differentiated = max(round(chunks.backward_share * count), 1)
        drawn = set(torch.randperm(count)[:differentiated].tolist()) if differentiated < count else set(range(count))
        parts = []
        for i, span in enumerate(spans):
            with torch.set_grad_enabled(torch.is_grad_enabled() and i in drawn):
                if recompute and i in drawn:
                    part = checkpoint(render_chunk, span, asks_for_gradients, use_reentrant=True)
                else:
                    part = render_chunk(span, asks_for_gradients)
            parts.append(tuple(_scaled_gradient(value, count / differentiated) for value in part))
        rgb, distance, accumulation, losses = zip(*parts, strict=True)

        def assembled(pieces: tuple[Tensor, ...]) -> Tensor:
            return as_image(torch.cat(pieces)[places].unflatten(0, (height, width)))

        return Rendering(
            assembled(rgb),
            assembled(distance) * as_image(cosine.unflatten(0, (height, width))),
            assembled(accumulation),
            dict(zip(REGULARISERS, torch.stack(losses).sum(0).unbind(), strict=True)) if regularise else {},
        )

    @property
    def background(self) -> Float[Tensor, "3"]:
        """See `Scene.background`: black too where a ray's last sample goes on behind the scene."""
        return self.model.renderer_rgb.blend_background(torch.zeros(4))

    def photometric(
        self, views: Views, images: Mapping[int, UInt8[Tensor, "3 _ _"]], generator: torch.Generator, rays: int
    ) -> dict[str, Float[Tensor, ""]]:
        """nerfacto's losses on a batch of rays, drawn from a few of the images."""
        indices = sorted(images)
        chosen = [indices[i] for i in torch.randperm(len(indices), generator=generator)[:RAY_VIEWS].tolist()]
        count = rays // len(chosen)
        places, colours, sizes = [], [], []
        for image in (images[index].float() / 255 for index in chosen):
            sizes.append((image.shape[1], image.shape[2]))
            pixels = torch.rand(count, 2, generator=generator) * torch.tensor(sizes[-1])
            y, x = pixels.long().unbind(-1)
            places.append(torch.stack([y, x], dim=-1) + 0.5)
            colours.append(image[:, y, x].T)
        bundle = views.rays(torch.tensor(chosen), sizes, torch.stack(places))
        return ray_losses(self.model, bundle, torch.cat(colours).to(self.model.device))

    def perturb(self, eta: Eta, fresh: Callable[[], Model], seed: int, where: Region | None) -> str:
        """The whole scene by `eta.geometry`; or, of the hash tables alone, the entries that points of `where` read."""
        other = fresh()
        redraw_tcnn(other, seed)
        return f"{perturb_nerf(self.model, other, eta.geometry, where):.1%} of the scene's parameters perturbed."

    def freeze_outside(self, region: Region | None) -> str | None:
        """Freeze the networks and the entries that no point of the region reads."""
        self._frozen = {}
        if region is None:
            return None
        read = entries_read(self.model, region)
        if not any(bool(entries.any()) for entries in read.values()):
            raise UserError("The region to change contains nothing of the scene: give another box, masks or words.")
        self._frozen = {name: ~entries for name, entries in read.items()}
        free = sum(int(entries.sum()) for entries in read.values())
        return f"{free} of {sum(entries.numel() for entries in read.values())} hash table entries may change."

    def frozen(self, name: str, parameter: Tensor) -> Bool[Tensor, "..."] | None:
        """Of a hash table, the entries that no point of the region reads; of a network, all.

        tiny-cuda-nn keeps a network and its table in one parameter: the mask tells them apart.
        """
        if not self._frozen or name not in nerf_parameters(self.model):
            return None
        return self._frozen.get(name, torch.ones((), dtype=torch.bool, device=parameter.device))

    def extra_state(self) -> dict[str, Tensor]:
        """Which entries are frozen: masks make another region of a scene that has changed since."""
        return {f"{FROZEN}.{name}": entries for name, entries in self._frozen.items()}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Freeze those entries again."""
        self._frozen = {
            name.removeprefix(f"{FROZEN}."): entries.to(self.model.device)
            for name, entries in state.items()
            if name.startswith(FROZEN)
        }

    @staticmethod
    def export_commands(config: Path, out: Path) -> list[list[str]]:
        """Meshes, from renderings and from points."""
        where = ["--load-config", str(config), "--output-dir", str(out)]
        return [["ns-export", "tsdf", *where], ["ns-export", "poisson", *where, "--normal-method", "open3d"]]


def ray_losses(model: NerfactoModel, rays: RayBundle, colours: Float[Tensor, "rays 3"]) -> dict[str, Float[Tensor, ""]]:
    """What nerfacto trains on, between rays of training views (see `views.Views.rays`) and colours in [0, 1]."""
    with _as_shown(model, posed=True, jitter=model.training, proposals=True):
        outputs = model(rays.to(model.device))
        return {
            "rgb_loss": model.rgb_loss(colours.to(outputs["rgb"]), outputs["rgb"]),
            **dict(zip(REGULARISERS, _regularisers(model, outputs).unbind(), strict=True)),
        }


def _scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, with so many times its gradient."""
    return value.detach() + factor * (value - value.detach()) if value.requires_grad and factor != 1 else value


def _regularisers(model: NerfactoModel, outputs: dict) -> Float[Tensor, "2"]:
    """REGULARISERS, weighted as nerfacto's settings say."""
    proposals, distortion = (
        loss(outputs["weights_list"], outputs["ray_samples_list"]) for loss in (interlevel_loss, distortion_loss)
    )
    return torch.stack([model.config.interlevel_loss_mult * proposals, model.config.distortion_loss_mult * distortion])


@contextmanager
def _alone(model: NerfactoModel, region: Region | None) -> Iterator[None]:
    """Within this block there is nothing outside the region, and a white background behind what is in it."""
    if region is None:
        yield
        return
    density = model.field.get_density

    def within(ray_samples: RaySamples) -> tuple[Tensor, Tensor]:
        values, features = density(ray_samples)
        inside = region.contains(ray_samples.frustums.get_positions().detach().reshape(-1, 3))
        return values * inside.reshape(values.shape), features

    model.field.get_density = within
    try:
        with background_color_override_context(torch.ones(3, device=model.device)):
            yield
    finally:
        del model.field.get_density  # the class's own


@contextmanager
def _as_shown(
    model: NerfactoModel, *, posed: bool = False, jitter: bool = False, proposals: bool = False
) -> Iterator[None]:
    """Within this block the model renders as in evaluation, except for what is asked for.

    It is entered for each chunk, again in backward: whatever a chunk depends on is set here and put back afterwards.
    """
    sampler = model.proposal_sampler
    schedule, normals = dict(vars(sampler)), model.config.predict_normals
    with evaluating(model):
        try:
            # Normals are a derivative of the density, taken inside the model: no picture needs it.
            model.config.predict_normals = False
            model.training = posed
            model.renderer_rgb.training = True  # in evaluation it would turn NaN into black
            sampler.initial_sampler.training = sampler.pdf_sampler.training = jitter
            # The sampler resets this count in its first chunk: left alone, only that chunk would train the proposals.
            sampler._steps_since_update = EVERY_STEP if proposals else -1
            sampler._step, sampler._anneal = 10, 1.0
            yield
        finally:
            model.config.predict_normals = normals
            for name in ("_steps_since_update", "_step", "_anneal"):
                setattr(sampler, name, schedule[name])
