"""splatfacto as a scene to edit: the same model on any device, trainable after a checkpoint was loaded.

Four differences from `SplatfactoModel`, each by `super()`:

- it rasterises through `scenes.rasterize`, and makes no tensor on CUDA unasked;
- loading a checkpoint keeps every `Parameter` object (see `load_state_dict`);
- an edit counts its own steps (see `begin_edit`);
- AlexNet is neither downloaded at construction nor saved with the scene.
"""

import copy
import math
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gsplat.strategy.default import DefaultStrategy, remove
from jaxtyping import Bool
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models import splatfacto as upstream
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel, SplatfactoModelConfig
from torch import Tensor
from torch.nn import Parameter

from pds_nerfstudio.deferred_lpips import deferred_lpips
from pds_nerfstudio.scenes.enlarge import enlarged, spread
from pds_nerfstudio.scenes.rasterize import rasterization
from pds_nerfstudio.scenes.scene import FROZEN
from pds_nerfstudio.scenes.views import SIZE

RECONSTRUCTED = 30_000
"""The step that splatfacto takes a loaded scene to be at: all SH bands on, full resolution."""
SATURATED = 1e-3
"""How near to 0 and 1 a seed colour may be where colours are stored as logits: a logit of 1 would be infinite."""
VIEWS = "views"
"""The key of gsplat's record of a rendering under which a strategy finds those of all views of the step."""
NEVER = 2**62
"""A step that no run reaches."""
FEW = 8
"""Gaussians of a scene that is loaded before anybody looks at it."""


@dataclass
class SplatfactoSceneConfig(SplatfactoModelConfig):
    """splatfacto's settings, for a `SplatfactoScene`."""

    _target: type = field(default_factory=lambda: SplatfactoScene)


@contextmanager
def few_points(model: Any) -> Iterator[None]:
    """Within this block a model of these settings is built to be loaded: splatfacto begins with FEW random points.

    It begins with 50,000 of its own where no dataset gives it any, and takes half a second to find their neighbours.
    """
    if not isinstance(model, SplatfactoModelConfig):
        yield
        return
    number, model.num_random = model.num_random, FEW
    try:
        yield
    finally:
        model.num_random = number


class SplatfactoScene(SplatfactoModel):
    """splatfacto on CPU or CUDA whose Gaussians stay trainable after loading."""

    config: SplatfactoSceneConfig
    grow_share: float | None = None
    """See `begin_edit`."""
    rendered: list[dict[str, Any]]
    """gsplat's record of each rendering of this edit step that gradients may reach, for densification."""
    first_edit_step: int | None = None
    """The trainer's step at which the edit began; None while the scene is being reconstructed."""
    focal: float | None = None
    """Focal length in pixels of the sharpest photographs, where a trainer has told it: the viewer's larger pictures are
    blurred as much as those (see `enlarge`)."""

    @property
    def frozen(self) -> Bool[Tensor, " gaussians"] | None:
        """Which Gaussians densification leaves alone, see `freeze`."""
        return self.strategy_state.get(FROZEN)

    def freeze(self, gaussians: Bool[Tensor, " gaussians"] | None) -> None:
        """From here on, clone, split and prune none of these; None for all as usual.

        gsplat takes along what a strategy's state holds for each Gaussian, as their number changes. Loading a scene
        forgets it.
        """
        self.strategy_state.pop(FROZEN, None)
        if gaussians is not None:
            self.strategy_state[FROZEN] = gaussians.to(self.device)

    def populate_modules(self):
        """Build the scene. Seed colours are set here: upstream's branch for them allocates on CUDA."""
        self.rendered = []
        points = self.seed_points
        if points is not None:
            self.seed_points = (points[0], points[1][:0])
        with deferred_lpips():
            super().populate_modules()
        self.strategy.verbose = False  # its notes would tear the progress bar
        self.seed_points = points
        if points is not None and not self.config.random_init and len(points[1]):
            rgb = points[1] / 255
            features = RGB2SH(rgb) if self.config.sh_degree > 0 else torch.logit(rgb, eps=SATURATED)
            self.gauss_params["features_dc"] = Parameter(features.float())

    def load_state_dict(self, dict, **kwargs):
        """Load weights into the parameters that are already there.

        Upstream replaces each Gaussian parameter by a new one of the checkpoint's size, while nerfstudio's trainer has
        built the optimisers before it loads: they go on stepping the old ones and the scene never moves. Keeping the
        objects and exchanging their data holds in either order. Adam's moments are created at the first step, in the
        new size; moments loaded afterwards from the same checkpoint have that size as well.
        """
        built = {name: parameter for name, parameter in self.gauss_params.items()}
        try:
            return super().load_state_dict(dict, **kwargs)
        finally:  # a strict load that misses a metric's weights has loaded all others; nerfstudio then tries again
            for name, parameter in built.items():
                parameter.data = self.gauss_params[name].data
                parameter.grad = None
                self.gauss_params[name] = parameter
            self.info = {}  # it holds the last rendering's graph, which remembers the old size of the parameters
            self.rendered = []
            self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)

    def begin_edit(
        self,
        first_step: int = 0,
        *,
        refine_start: int = NEVER,
        refine_stop: int = 0,
        refine_every: int | None = None,
        reset_opacity_every: int = NEVER,
        grow_share: float | None = None,
    ) -> None:
        """From here on, count densification in edit steps, and show the scene as a finished one.

        Args:
            first_step: the trainer's step that is the edit's step 0.
            refine_start: edit step after which Gaussians are cloned, split and pruned.
            refine_stop: edit step at which that ends; 0 keeps the number of Gaussians.
            refine_every: steps between two refinements; the reconstruction's own by default.
            reset_opacity_every: steps between two resets of opacity, each of which makes the scene nearly transparent.
            grow_share: the share of Gaussians, those whose screen gradients are largest, that a refinement clones or
                splits. By default the reconstruction's threshold decides, which belongs to the scale of its loss.
        """
        self.first_edit_step = first_step
        self.step = RECONSTRUCTED
        self.grow_share = grow_share
        settings: dict[str, Any] = vars(self.strategy) | {
            "refine_start_iter": refine_start,
            "refine_stop_iter": refine_stop,
            "refine_every": refine_every or self.strategy.refine_every,
            "reset_every": reset_opacity_every,
            # splatfacto waits this long after each reset, and takes the beginning for one.
            "pause_refine_after_reset": 0 if reset_opacity_every == NEVER else self.strategy.pause_refine_after_reset,
        }
        self.strategy, frozen = EditStrategy(**settings), self.frozen
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)
        self.freeze(frozen)

    def remember_rendering(self) -> None:
        """Let densification hear of the last rendering, once a gradient has reached it."""
        means2d = self.info["means2d"]
        if not means2d.requires_grad:
            return
        means2d.retain_grad()
        if any(screen_gradient(info) is not None for info in self.rendered):
            self.rendered = []  # of an earlier step: a probe's, of which nothing is densified
        if self.first_edit_step is not None and self.strategy.refine_stop_iter > 0:
            self.rendered.append(self.info)

    def step_cb(self, optimizers, step):
        """Take over the trainer's step. In an edit, SH bands and resolution stay those of a finished scene."""
        super().step_cb(optimizers, step)
        self.rendered = []
        if self.first_edit_step is not None:
            self.step = RECONSTRUCTED + step - self.first_edit_step

    def step_post_backward(self, step):
        """Densify. In an edit the strategy counts from 1: at its step 0 it would reset every opacity.

        It hears every rendering of the step. A step that was skipped for want of a finite gradient does not count.
        """
        if self.first_edit_step is None:
            super().step_post_backward(step)
            return
        heard, self.rendered = self.rendered, []
        if step - self.first_edit_step + 1 >= self.strategy.refine_stop_iter:
            return
        gradients = [screen_gradient(info) for info in heard]
        if not heard or any(gradient is None or not bool(gradient.isfinite().all()) for gradient in gradients):
            return
        self.info = {**heard[-1], VIEWS: heard}
        shown_at, self.step = self.step, step - self.first_edit_step + 1
        if self.grow_share is not None and self.step % self.strategy.refine_every == 0:
            self.strategy.grow_grad2d = self._gradient_of_share(self.grow_share)
        try:
            super().step_post_backward(self.step)
        finally:
            self.step = shown_at
            self.info.pop(VIEWS, None)

    def _gradient_of_share(self, share: float) -> float:
        """The screen gradient that this share of the Gaussians exceeds, over the steps since the last refinement."""
        sums, counts = self.strategy_state["grad2d"], self.strategy_state["count"]
        if sums is None or counts is None:
            return math.inf
        means = sums / counts.clamp(min=1)
        free = means if self.frozen is None else means[~self.frozen]
        return float(np.quantile(free.cpu().numpy(), max(1 - share, 0)))

    def get_outputs(self, camera):
        """splatfacto's outputs (see `SplatfactoModel.get_outputs`); `camera` is left as it was."""
        if not isinstance(camera, Cameras):
            return super().get_outputs(camera)
        size = (camera.metadata or {}).get(SIZE) if self._get_downscale_factor() == 1 else None
        return _outputs(self, _placed(camera, self.device, size))

    def get_outputs_for_camera(self, camera, obb_box=None):
        """splatfacto's outputs for a camera of the viewer's, or of a photograph."""
        with enlarged(1.0 if self.focal is None else float(camera.fx.max()) / self.focal):
            return super().get_outputs_for_camera(camera, obb_box)

    def get_image_metrics_and_images(self, outputs, batch):
        """splatfacto's metrics, without those that could not be computed."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        return {name: value for name, value in metrics.items() if value == value}, images


def screen_gradient(info: Mapping[str, Any]) -> Tensor | None:
    """The loss's gradient on the Gaussians' places in a rendering, None where backward has not come there."""
    means2d = info["means2d"]
    absolute = getattr(means2d, "absgrad", None)
    return means2d.grad if absolute is None else absolute


def _reading(function: Callable, **names) -> Callable:
    """`function`, reading these values for the global names; the module that it comes from stays as it is."""
    plain = getattr(function, "__wrapped__", function)
    namespace = {**plain.__globals__, **names}
    return types.FunctionType(plain.__code__, namespace, plain.__name__, plain.__defaults__, plain.__closure__)


viewmat_of = getattr(upstream.get_viewmat, "_torchdynamo_orig_callable", upstream.get_viewmat)
"""World-to-camera matrices [n 4 4] of poses [n 3 4]. Compiling its ten lines costs seconds, and on a CPU needs a C++
compiler."""
_outputs = _reading(
    SplatfactoModel.get_outputs,
    rasterization=lambda **arguments: rasterization(**arguments, eps2d=spread()),
    get_viewmat=viewmat_of,
)


class EditStrategy(DefaultStrategy):
    """gsplat's densification, of the Gaussians that are not frozen, by all views of a step."""

    def _update_state(self, params, state, info, packed=False):
        for view in info.get(VIEWS, [info]):
            super()._update_state(params, state, view, packed)

    def _grow_gs(self, params, optimizers, state, step):
        if state.get(FROZEN) is not None:
            for name in ("grad2d", "radii"):
                if state.get(name) is not None:
                    state[name][state[FROZEN]] = 0
        return super()._grow_gs(params, optimizers, state, step)

    def _prune_gs(self, params, optimizers, state, step):
        return _prune_gs(self, params, optimizers, state, step)


def _remove(params, optimizers, state, mask):
    frozen = state.get(FROZEN)
    remove(params=params, optimizers=optimizers, state=state, mask=mask if frozen is None else mask & ~frozen)


_prune_gs = _reading(DefaultStrategy._prune_gs, remove=_remove)


class _StaysHere(torch.Tensor):
    """A tensor that `.cuda()` leaves where it is: splatfacto calls it on the intrinsics whatever the device."""

    def cuda(self, *args, **kwargs) -> Tensor:
        return self.as_subclass(Tensor)


def _placed(camera: Cameras, device: torch.device, size: tuple[int, int] | None) -> Cameras:
    """A copy of `camera` on `device`, intrinsics included; where its size is known, it is not asked for there."""
    placed = copy.copy(camera.to(device))
    if size is not None:
        placed.height, placed.width = (torch.tensor([[side]]) for side in size)
        placed.rescale_output_resolution = _rescale_by_one
    placed.get_intrinsics_matrices = lambda: _intrinsics(placed).as_subclass(_StaysHere)
    return placed


def _rescale_by_one(scaling_factor: Any, scale_rounding_mode: str = "floor") -> None:
    """In place of `Cameras.rescale_output_resolution`, which multiplies by it on the camera's device."""


def _intrinsics(camera: Cameras) -> Tensor:
    """What `Cameras.get_intrinsics_matrices` gives, made where the camera is: upstream makes it on the CPU, and waits
    for a GPU four times."""
    zero, one = torch.zeros_like(camera.fx), torch.ones_like(camera.fx)
    rows = ((camera.fx, zero, camera.cx), (zero, camera.fy, camera.cy), (zero, zero, one))
    return torch.stack([torch.cat(row, dim=-1) for row in rows], dim=-2).float()
