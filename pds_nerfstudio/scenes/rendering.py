"""Rendering a whole image with gradients: how an edit reaches the Gaussians or the hash grid.

    image = g(view; θ)        RGB in [0, 1], with the graph of θ

What is rendered is what the viewer shows, not what the reconstruction was trained on: the average appearance instead of
one photograph's, the viewer's background instead of a random one, no near plane, full resolution, proposal weights
without annealing (nerfacto's annealing and splatfacto's coarse-to-fine count training steps and would begin again with
the edit). Two things are taken from training: the pose correction of a training view, so that rendering and photograph
coincide, and the jitter of a ray's samples, so that nothing can hide between them.

A NeRF is rendered in chunks of rays under `torch.utils.checkpoint`: what is kept for backward is one chunk's
activations, not those of all rays. Splats are rasterised in one pass.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.losses import distortion_loss, interlevel_loss
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pds_nerfstudio.images import to_channels_last
from pds_nerfstudio.scenes.views import CAMERA_INDEX

RAYS_PER_CHUNK = 2048
"""Half of nerfacto's own training batch; an edit chooses by the free memory (see `scenes.memory`)."""


@dataclass(frozen=True)
class Rendering:
    """A rendered view. All of it carries the graph of the scene's parameters, unless rendered under `no_grad`."""

    image: Float[Tensor, "1 3 height width"]
    """RGB in [0, 1]."""
    depth: Float[Tensor, "1 1 height width"]
    """Expected depth along the optical axis, in scene units."""
    accumulation: Float[Tensor, "1 1 height width"]
    """Opacity in [0, 1]."""
    regulariser: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """nerfacto's interlevel and distortion losses on these rays, weighted as in its config; empty unless asked for."""


def render(
    model: Model,
    camera: Cameras,
    *,
    recompute: bool | None = None,
    rays_per_chunk: int = RAYS_PER_CHUNK,
    regularise: bool = False,
    backward_share: float = 1.0,
) -> Rendering:
    """Render one view of a nerfacto or splatfacto model, keeping the graph of its parameters.

    Args:
        model: the scene. In training mode samples along rays are jittered where gradients are on; in evaluation mode
            the result is deterministic.
        camera: one camera, batch size 1. With a view index in its metadata (see `views.Views`), that view's pose
            correction is applied.
        recompute: whether activations are recomputed in backward (nerfacto only). By default, wherever gradients are
            wanted and the image has more rays than one chunk. The result is the same.
        rays_per_chunk: the largest number of rays to render at once (nerfacto only).
        regularise: whether to compute nerfacto's losses on its proposals and weights as well.
        backward_share: the share of the chunks that carries a graph (nerfacto only), at least one of them, drawn
            anew by torch's global generator in each call. Their gradients are scaled by its inverse: on average over
            the draws the gradient is that of the whole image.

    Raises:
        ValueError: for more than one camera, or a share outside (0, 1].
        TypeError: for a model of another family.
    """
    if tuple(camera.shape) != (1,):
        raise ValueError(f"render takes one camera, batch shape (1,), not {tuple(camera.shape)}")
    if not 0 < backward_share <= 1:
        raise ValueError(f"backward_share is {backward_share}: it must lie in (0, 1].")
    camera = camera.to(model.device)
    if isinstance(model, SplatfactoModel):
        return _render_splats(model, camera)
    if isinstance(model, NerfactoModel):
        return _render_rays(model, camera, recompute, rays_per_chunk, regularise, backward_share)
    raise TypeError(f"render knows nerfacto and splatfacto models, not {type(model).__name__}")


def _render_splats(model: SplatfactoModel, camera: Cameras) -> Rendering:
    with _as_shown(model):
        crop_box, model.crop_box = model.crop_box, None  # the viewer leaves its crop behind
        try:
            camera.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera)
            outputs = model.get_outputs(camera)
        finally:
            model.crop_box = crop_box
    means2d = model.info["means2d"]
    if means2d.requires_grad:
        means2d.retain_grad()  # densification reads it after backward
    rgb, depth, accumulation = (torch.as_tensor(outputs[name]) for name in ("rgb", "depth", "accumulation"))
    return Rendering(_as_image(rgb), _as_image(depth), _as_image(accumulation))


def _render_rays(
    model: NerfactoModel,
    camera: Cameras,
    recompute: bool | None,
    rays_per_chunk: int,
    regularise: bool,
    backward_share: float,
) -> Rendering:
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

    # Every chunk lies all over the view: the gradient of one is then like that of any other. They are of equal size:
    # nerfstudio's camera optimiser cannot take a last chunk of a single ray.
    chunks = math.ceil(len(rays) / rays_per_chunk)
    spans = [torch.arange(i, len(rays), chunks, device=model.device) for i in range(chunks)]
    places = torch.cat(spans).argsort()
    if recompute is None:
        recompute = torch.is_grad_enabled() and chunks > 1

    def render_chunk(span: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with _as_shown(model, posed=posed, jitter=jitter, proposals=regularise):
            outputs = model(rays[span])
            losses = _ray_losses(model, outputs) if regularise else outputs["rgb"].new_zeros(2)
        return outputs["rgb"], outputs["expected_depth"], outputs["accumulation"], losses * len(span) / len(rays)

    # Exactly so many, rather than each with that probability: every step then costs the same.
    differentiated = max(round(backward_share * chunks), 1)
    drawn = set(torch.randperm(chunks)[:differentiated].tolist()) if differentiated < chunks else set(range(chunks))
    parts = []
    for i, span in enumerate(spans):
        with torch.set_grad_enabled(torch.is_grad_enabled() and i in drawn):
            part = checkpoint(render_chunk, span, use_reentrant=False) if recompute else render_chunk(span)
        parts.append(tuple(_scaled_gradient(value, chunks / differentiated) for value in part))
    rgb, distance, accumulation, losses = zip(*parts, strict=True)

    def assembled(pieces: tuple[Tensor, ...]) -> Tensor:
        return _as_image(torch.cat(pieces)[places].unflatten(0, (height, width)))

    names = ("interlevel_loss", "distortion_loss")
    return Rendering(
        assembled(rgb),
        assembled(distance) * _as_image(cosine.unflatten(0, (height, width))),
        assembled(accumulation),
        dict(zip(names, torch.stack(losses).sum(0).unbind(), strict=True)) if regularise else {},
    )


def photometric_losses(
    model: Model, rendering: Rendering, target: Float[Tensor, "1 3 height width"]
) -> dict[str, Float[Tensor, ""]]:
    """What splatfacto trains on, between a rendering and an image of the same size, RGB in [0, 1]."""
    shown, wanted = (to_channels_last(image)[0] for image in (rendering.image, target.to(rendering.image)))
    return model.get_loss_dict({"rgb": shown, "background": wanted.new_zeros(3)}, {"image": wanted})


def ray_losses(model: NerfactoModel, rays: RayBundle, colours: Float[Tensor, "rays 3"]) -> dict[str, Float[Tensor, ""]]:
    """What nerfacto trains on, between rays of training views (see `views.Views.rays`) and colours in [0, 1]."""
    with _as_shown(model, posed=True, jitter=model.training, proposals=True):
        outputs = model(rays.to(model.device))
        regulariser = _ray_losses(model, outputs)
        names = ("interlevel_loss", "distortion_loss")
        return {
            "rgb_loss": model.rgb_loss(colours.to(outputs["rgb"]), outputs["rgb"]),
            **dict(zip(names, regulariser.unbind(), strict=True)),
        }


def _scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, with so many times its gradient."""
    return value.detach() + factor * (value - value.detach()) if value.requires_grad and factor != 1 else value


def _ray_losses(model: NerfactoModel, outputs: dict) -> Float[Tensor, "2"]:
    """What keeps nerfacto's samples on its surfaces (Barron et al. 2022, eqs. 13 and 15), as nerfacto weights them."""
    proposals, distortion = (
        loss(outputs["weights_list"], outputs["ray_samples_list"]) for loss in (interlevel_loss, distortion_loss)
    )
    return torch.stack([model.config.interlevel_loss_mult * proposals, model.config.distortion_loss_mult * distortion])


@contextmanager
def _as_shown(model: Any, *, posed: bool = False, jitter: bool = False, proposals: bool = False) -> Iterator[None]:
    """Within this block the model renders as in evaluation, except for what is asked for.

    It is entered for each chunk, again in backward: whatever a chunk depends on is set here and put back afterwards.
    """
    flags = [(module, module.training) for module in model.modules()]
    sampler = getattr(model, "proposal_sampler", None)
    schedule = dict(vars(sampler)) if sampler is not None else {}
    normals = getattr(model.config, "predict_normals", False)
    model.eval()
    try:
        if sampler is not None:
            # Normals are a derivative of the density, taken inside the model: no picture needs it.
            model.config.predict_normals = False
            model.training = posed
            model.renderer_rgb.training = True  # in evaluation it would turn NaN into black
            sampler.initial_sampler.training = sampler.pdf_sampler.training = jitter
            # The sampler resets this count in its first chunk: left alone, only that chunk would train the proposals.
            sampler._steps_since_update, sampler._step, sampler._anneal = (math.inf if proposals else -1), 10, 1.0
        yield
    finally:
        for module, training in flags:
            module.training = training
        if sampler is not None:
            model.config.predict_normals = normals
            for name in ("_steps_since_update", "_step", "_anneal"):
                setattr(sampler, name, schedule[name])


def _as_image(values: Float[Tensor, "height width channels"]) -> Float[Tensor, "1 channels height width"]:
    return values.float().movedim(-1, 0)[None]
