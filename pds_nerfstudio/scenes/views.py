"""Training (and evaluation) views of a run: cameras and photographs, whichever datamanager keeps them.

splatfacto's datamanager undistorts its images and moves the intrinsics along; nerfacto's keeps them distorted and casts
distorted rays. Both hand out a camera that fits its image, at any working size, and that knows which view it is.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.dataset import unreadable
from pds_nerfstudio.scenes.hull import Region

CAMERA_INDEX = "cam_idx"
"""The key of `Cameras.metadata` under which nerfstudio's splats look up their row of the camera optimiser."""


SIZE = "size"
"""The key under which a view's camera carries its height and width as numbers: the host need not ask a GPU for them."""


@dataclass(frozen=True)
class Views:
    """Cameras with their images. Make one with `train_views` or `eval_views`."""

    cameras: Cameras
    """All cameras of the split, at the size of their images."""
    read: Callable[[int], Tensor]
    """Image of a view, `[H W 3]` or `[H W 4]`, as bytes or RGB in [0, 1]."""
    names: tuple[str, ...]
    """File names of the images, in the order of the cameras."""
    in_training: bool
    """Whether these views have rows in the camera optimiser and the appearance embedding: training views have."""
    photographed: bool = True
    """Whether there are images of them."""
    within: Region | None = None
    """What of the scene they show, before a plain background; None for all of it."""
    _sent: dict[tuple, Cameras] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Cameras that were sent to a device."""

    def __len__(self) -> int:
        return len(self.cameras)

    def at(self, index: int) -> tuple["Views", int]:
        """The set that a view is of, and its number there; see `Joined`."""
        return self, index

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of view `index` in the dataset, in pixels."""
        return int(self.cameras.height[index]), int(self.cameras.width[index])

    def camera(self, index: int, height: int, width: int, device: torch.device | str | None = None) -> Cameras:
        """The camera of view `index` for a rendering of `height` x `width` pixels, batch size 1.

        Both axes are scaled on their own, so that the rendering shows exactly what the photograph shows. A training
        view's index travels along in the metadata; nerfstudio's own slices forget it and get row 0.

        Args:
            device: where its tensors are wanted, by default where the dataset's are; each view is sent there once.
        """
        if device is not None:
            key = index, height, width, str(device)
            if key not in self._sent:
                self._sent[key] = self.camera(index, height, width).to(device)
            camera = copy.copy(self._sent[key])
            camera.metadata = dict(camera.metadata or {})
            return camera
        camera = self._scaled(slice(index, index + 1), [(height, width)])
        camera.metadata = dict(camera.metadata or {}) | {SIZE: (height, width)}
        if self.in_training:
            camera.metadata[CAMERA_INDEX] = index
        return camera

    def rays(
        self,
        indices: Int64[Tensor, " views"],
        sizes: Sequence[tuple[int, int]],
        places: Float[Tensor, "views rays 2"],
    ) -> RayBundle:
        """Rays of several views, in one bundle that knows which view each belongs to.

        Args:
            sizes: (height, width) in pixels at which each view is shown.
            places: of each ray in its view: (y, x) in pixels, 0.5 in the middle of the first.
        """
        cameras = self._scaled(indices.to(self.cameras.device), sizes)
        of_ray = torch.arange(len(indices)).repeat_interleave(places.shape[1])[:, None]
        rays = cameras.generate_rays(of_ray.to(cameras.device), coords=places.flatten(0, 1).to(cameras.device))
        rays.camera_indices = indices.to(cameras.device)[of_ray]
        return rays

    def _scaled(self, which: slice | Tensor, sizes: Sequence[tuple[int, int]]) -> Cameras:
        cameras = copy.copy(self.cameras[which])
        height, width = torch.tensor(sizes).to(cameras.height).split(1, dim=-1)
        scale_y, scale_x = height / cameras.height, width / cameras.width
        cameras.fx, cameras.cx = cameras.fx * scale_x, cameras.cx * scale_x
        cameras.fy, cameras.cy = cameras.fy * scale_y, cameras.cy * scale_y
        cameras.height, cameras.width = height, width
        return cameras

    def image(
        self, index: int, height: int, width: int, background: Float[Tensor, "3"] | None = None
    ) -> Float[Tensor, "1 3 height width"]:
        """The photograph of view `index` at `height` x `width` pixels, RGB in [0, 1], on the device of the datamanager.

        Transparent pixels show `background` (RGB in [0, 1], black by default).

        Raises:
            UserError: where the image file cannot be read.
        """
        try:
            image = self.read(index)
        except OSError as error:
            raise UserError(f"image {self.names[index]} of the dataset cannot be read: {error}.") from error
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        if image.shape[-1] == 4:
            below = image.new_zeros(3) if background is None else background.to(image)
            image = image[..., :3] * image[..., 3:] + below * (1 - image[..., 3:])
        image = image.movedim(-1, 0)[None]
        return F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


@dataclass(frozen=True)
class Joined:
    """Several sets of views, numbered through."""

    parts: tuple[Views, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def names(self) -> tuple[str, ...]:
        """Of all of them."""
        return tuple(name for part in self.parts for name in part.names)

    def at(self, index: int) -> tuple[Views, int]:
        """The set that view `index` is of, and its number there."""
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(f"There are {len(self)} views.")

    def size(self, index: int) -> tuple[int, int]:
        """See `Views.size`."""
        part, number = self.at(index)
        return part.size(number)

    def camera(self, index: int, height: int, width: int, device: torch.device | str | None = None) -> Cameras:
        """See `Views.camera`."""
        part, number = self.at(index)
        return part.camera(number, height, width, device)

    def image(
        self, index: int, height: int, width: int, background: Float[Tensor, "3"] | None = None
    ) -> Float[Tensor, "1 3 height width"]:
        """See `Views.image`."""
        part, number = self.at(index)
        return part.image(number, height, width, background)


def train_views(datamanager: Any) -> Views:
    """The training views of any nerfstudio datamanager."""
    return _views(datamanager, "train")


def eval_views(datamanager: Any) -> Views:
    """The held-out views of any nerfstudio datamanager."""
    return _views(datamanager, "eval")


def _views(datamanager: Any, split: str) -> Views:
    dataset = getattr(datamanager, f"{split}_dataset")
    names = tuple(str(name) for name in dataset.image_filenames)
    if hasattr(type(datamanager), f"cached_{split}"):
        if not _are_plain_pinholes(dataset.cameras):
            # Undistorting, at first access, also corrects the dataset's cameras: it has to come before they are taken.
            _cached(datamanager, split)
        cameras = copy.copy(dataset.cameras)  # fisheyes and distorted in name alone, once they are undistorted
        cameras.camera_type = torch.full_like(cameras.camera_type, CameraType.PERSPECTIVE.value)
        cameras.distortion_params = None
        return Views(cameras, lambda index: _cached(datamanager, split)[index]["image"], names, split == "train")
    return Views(dataset.cameras, lambda index: dataset.get_data(index)["image"], names, split == "train")


def _are_plain_pinholes(cameras: Cameras) -> bool:
    """Whether nerfstudio has nothing to undistort: it then leaves cameras and images as they are."""
    distorted = cameras.distortion_params is not None and bool(cameras.distortion_params.any())
    return not distorted and bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all())


def _cached(datamanager: Any, split: str) -> Any:
    """What a splats' datamanager keeps of each image of a split, decoded at first access.

    Raises:
        UserError: an image cannot be read.
    """
    try:
        return getattr(datamanager, f"cached_{split}")
    except (OSError, SyntaxError) as error:
        paths = [Path(name) for name in getattr(datamanager, f"{split}_dataset").image_filenames]
        raise UserError(unreadable(paths) or f"an image of the dataset cannot be read: {error}.") from error
