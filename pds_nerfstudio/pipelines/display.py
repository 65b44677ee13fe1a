"""What an open page shows of a running edit: a copy of the scene, and the source beside it.

    edit step ──► scene ── copied where no picture is being made ──► copy ◄── rendered by each page's own thread

nerfstudio's viewer renders the trained model itself, under the trainer's lock: a slow picture holds the edit up for
many steps, and leaves its background and its crop behind in the scene. The copy costs the scene's memory once more.
"""

import functools
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from viser import ClientHandle
from viser.transforms import SO3

from pds_nerfstudio.heaps import return_free_memory
from pds_nerfstudio.scenes.families import scene_of
from pds_nerfstudio.scenes.lift import render_values
from pds_nerfstudio.scenes.pick import surface_along
from pds_nerfstudio.scenes.region import Point
from pds_nerfstudio.scenes.scene import FROZEN

SECONDS_BETWEEN_COPIES = 0.1
SECONDS_BETWEEN_TRIMS = 20.0
VIEWER_SHARE = 0.5
"""The share of the time in which a picture is being rendered while a page is open; nerfstudio's own is 0.1."""
DIVIDER = (0.133, 0.157, 0.192)
"""RGB in [0, 1] of the line between source and edited, as in the viewer's own split screen."""


TINT = (1.0, 0.2, 0.9)
"""RGB in [0, 1] of what may change, and how much of it is mixed in."""
TINT_SHARE = 0.45
MARGIN = 10
"""Pixels between the words in a divided picture and its edges."""
BACKING = 0.75
"""How dark their background is."""


class Display:
    """The copy that a viewer renders, and its lock, which the trainer never waits for."""

    source_share = 0.5
    """How much of the picture, from its left, shows the source: 0 none of it, 1 all."""
    shows_region = False
    """Whether what may change is tinted, where the scene is splats and the edit is confined to a part of them."""

    def __init__(self, viewer: Viewer, trained: Model, copy: Model, source: Model):
        """Let `viewer` render `copy` in place of `trained`; the three models are of the same settings."""
        self.lock = threading.RLock()
        self._viewer, self._trained, self._source = viewer, trained, source
        self._copy: Any = copy
        self._copied_at = self._trimmed_at = -float("inf")
        self._pages: set[int] = set()
        for model in (copy, source):
            model.requires_grad_(False).eval()
            scene_of(model).begin_edit()
        self._render = copy.get_outputs_for_camera
        copy.get_outputs_for_camera = self._outputs
        viewer.get_model = lambda: copy
        viewer.train_lock = self.lock  # pyright: ignore[reportAttributeAccessIssue]
        self.refresh()

    @property
    def watched(self) -> bool:
        """Whether a page is open."""
        return bool(self._viewer.render_statemachines)

    def refresh(self) -> None:
        """Copy the scene as it is now; waits for a picture that is being made."""
        with self.lock:
            self._copy.load_state_dict(self._trained.state_dict())
            self._frozen = scene_of(self._trained).extra_state().get(FROZEN)
            self._copied_at = time.monotonic()

    @torch.no_grad()
    def surface_along(self, origin: Sequence[float], direction: Sequence[float]) -> Point:
        """The first surface of the scene along a ray, in scene units.

        Raises:
            UserError: there is none.
        """
        with self.lock:
            return surface_along(self._copy, torch.tensor(origin), torch.tensor(direction))

    def after_step(self) -> None:
        """Copy the scene if somebody watches, it is time, and no picture is being made."""
        self._viewer.last_move_time = 0  # nerfstudio would hold the edit while a camera moves
        self._viewer.train_util = 1 - VIEWER_SHARE
        self._clear_after_pages()
        if not self.watched or time.monotonic() < self._copied_at + SECONDS_BETWEEN_COPIES:
            return
        if self.lock.acquire(blocking=False):
            try:
                self.refresh()
            finally:
                self.lock.release()

    def _clear_after_pages(self) -> None:
        """Give back what pages that have left had taken, now and then."""
        pages = set(self._viewer.render_statemachines)
        if self._pages - pages and time.monotonic() > self._trimmed_at + SECONDS_BETWEEN_TRIMS:
            return_free_memory()
            self._trimmed_at = time.monotonic()
            self._pages = pages
        self._pages |= pages

    def _outputs(self, camera: Any, obb_box: Any = None) -> dict[str, torch.Tensor]:
        """The model's outputs, in `rgb` the source up to `source_share` of the width."""
        outputs = self._render(camera, obb_box)
        if self.shows_region and self._frozen is not None:
            free = render_values(self._copy, camera, (~self._frozen)[:, None].float()).clamp(0, 1)
            outputs["rgb"] = outputs["rgb"] + TINT_SHARE * free * (free.new_tensor(TINT) - outputs["rgb"])
        columns = round(self.source_share * outputs["rgb"].shape[1])
        if columns:
            scene_of(self._source).show_on(self._copy)
            of_source = self._source.get_outputs_for_camera(camera, obb_box)
            outputs["rgb"] = torch.cat([of_source["rgb"][:, :columns], outputs["rgb"][:, columns:]], dim=1)
            if columns < outputs["rgb"].shape[1]:
                outputs["rgb"][:, columns] = outputs["rgb"].new_tensor(DIVIDER)
            label(outputs["rgb"], columns)
        return outputs


def label(picture: Float[Tensor, "height width 3"], columns: int) -> None:
    """Write "source" and "edited" into the upper corners of a divided picture, RGB in [0, 1], where there is room.

    Args:
        columns: of the picture that show the source.
    """
    height, width = picture.shape[:2]
    for text, left, room in (("source", 0, columns), ("edited", columns + 1, width - columns - 1)):
        words = _words(text)
        tall, wide = words.shape
        if tall + 2 * MARGIN > height // 2 or wide + 2 * MARGIN > room:
            continue
        first = left + MARGIN if left == 0 else width - MARGIN - wide
        place = picture[MARGIN : MARGIN + tall, first : first + wide]
        ink = words.to(picture)[..., None]
        place.copy_(BACKING * (1 - ink) * place.new_tensor(DIVIDER) + (1 - BACKING) * (1 - ink) * place + ink)


@functools.cache
def _words(text: str) -> Float[Tensor, "height width"]:
    """White on black, in [0, 1], with a rim; as tall as any other."""
    font = ImageFont.load_default(size=14)
    image = Image.new("L", (round(font.getlength(text)) + 10, 20))
    ImageDraw.Draw(image).text((5, 10), text, 255, font, anchor="lm")
    return torch.from_numpy(np.array(image)).float() / 255


def begin_at(viewer: Viewer, camera: Cameras) -> None:
    """Let pages open at a camera of the dataset, rather than where viser's own begins, which often sees nothing."""
    pose = camera.camera_to_worlds[0].cpu().numpy()
    rotation = SO3.from_matrix(pose[:, :3]) @ SO3.from_x_radians(np.pi)
    vertical = 2 * np.arctan(float(camera.height[0]) / 2 / float(camera.fy[0]))

    @viewer.viser_server.on_client_connect
    def _(client: ClientHandle) -> None:
        with client.atomic():
            client.camera.position = pose[:, 3] * VISER_NERFSTUDIO_SCALE_RATIO
            client.camera.wxyz = rotation.wxyz
            client.camera.fov = float(vertical)
