"""Gaussians between files and scenes: what every format of splats holds, and the moves between their coordinates.

The trap in moving them from one frame into another: colours depend on the direction of view, so a rotation of the scene
rotates the spherical harmonics too.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from gsplat.cuda._torch_impl import _eval_sh_bases_fast, _quat_to_rotmat
from jaxtyping import Float, Integer
from nerfstudio.models.splatfacto import SH2RGB
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.splatfacto import SATURATED

OPAQUE = 12.0
"""Logit that stands for an infinite one: opaque to 6e-6, and still with a gradient."""
THIN = math.log(100)
"""How much thinner than its smaller side a Gaussian without thickness is made, as a logarithm."""
MOST_DEGREE = 4
"""The highest degree of spherical harmonics that gsplat knows."""
C0 = 0.28209479177387814
"""The spherical harmonic of degree 0: colour is 0.5 + C0 · f_dc where there is no other."""


@dataclass(frozen=True)
class Splats:
    """Gaussians as splatfacto keeps them."""

    means: Float[Tensor, "gaussians 3"]
    quats: Float[Tensor, "gaussians 4"]
    """Rotation as a quaternion, real part first; of any length but zero."""
    scales: Float[Tensor, "gaussians 3"]
    """Logarithms of the standard deviations."""
    opacities: Float[Tensor, "gaussians 1"]
    """Logits."""
    harmonics: Float[Tensor, "gaussians bases 3"]
    """Coefficients of the spherical harmonics, (L+1)² of them; colour is 0.5 plus their sum."""
    of_spz: bool = False
    """Whether they come from a .spz, whose axes not every tool turns."""
    antialiased: bool = False
    """Whether they were made for gsplat's `rasterize_mode` "antialiased", as far as their file tells."""

    @property
    def sh_degree(self) -> int:
        """L."""
        return math.isqrt(self.harmonics.shape[1]) - 1

    def state_dict(self) -> dict[str, Tensor]:
        """As splatfacto's `gauss_params`; at degree 0 it keeps colours as logits."""
        first = self.harmonics[:, 0]
        return {
            "means": self.means,
            "quats": self.quats,
            "scales": self.scales,
            "opacities": self.opacities,
            "features_dc": first if self.sh_degree else SH2RGB(first).logit(eps=SATURATED),
            "features_rest": self.harmonics[:, 1:].contiguous(),
        }

    def moved(self, transform: Float[Tensor, "3 4"], scale: float) -> "Splats":
        """The same Gaussians at scale · (M x + b), transform = [M | b] with M orthogonal, which may mirror."""
        turn = transform[:, :3]
        mirror = torch.det(turn).sign()
        axes = turn @ _quat_to_rotmat(self.quats)
        axes = torch.cat([axes[..., :2], mirror * axes[..., 2:]], dim=-1)  # a Gaussian is its own mirror image
        return Splats(
            scale * (self.means @ turn.T + transform[:, 3]),
            quaternions(axes),
            self.scales + math.log(scale),
            self.opacities,
            torch.einsum("ij,gjc->gic", _turned_harmonics(turn, self.harmonics.shape[1]), self.harmonics),
            self.of_spz,
            self.antialiased,
        )


def whole(
    path: Path,
    means: Float[np.ndarray, "gaussians 3"],
    quats: Float[np.ndarray, "gaussians 4"],
    scales: Float[np.ndarray, "gaussians axes"],
    opacities: Float[np.ndarray, "gaussians 1"],
    harmonics: Float[np.ndarray, "gaussians bases 3"],
    of_spz: bool = False,
    antialiased: bool = False,
) -> tuple[Splats, int]:
    """What a file holds as `Splats`, and how many Gaussians are left out because they are not finite.

    An infinite logit is an opaque Gaussian or an invisible one. One with two scales, or a scale of zero, is a flat one,
    as of 2D Gaussian splatting, and is made thin. A quaternion of length zero is no rotation.

    Args:
        path: the file, for the messages.

    Raises:
        UserError: there are no Gaussians, or none is finite.
    """
    if not len(means):
        raise UserError(f"{path} holds no Gaussians: export it again.")
    quats = np.where((quats == 0).all(axis=1, keepdims=True), np.array([1, 0, 0, 0], np.float32), quats)
    opacities = np.clip(opacities, *_infinite_only(opacities))
    values = [means, quats, _with_thickness(scales), opacities, harmonics.reshape(len(means), -1)]
    finite = np.logical_and.reduce([np.isfinite(value).all(axis=1) for value in values])
    if not finite.any():
        raise UserError(f"{path} holds no Gaussian with finite values: export it again.")
    kept = [torch.from_numpy(np.ascontiguousarray(value[finite], dtype=np.float32)) for value in values]
    kept[-1] = kept[-1].reshape(-1, *harmonics.shape[1:])
    return Splats(*kept, of_spz=of_spz, antialiased=antialiased), int((~finite).sum())


def logits(opacities: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Of opacities in [0, 1]; of 0 and 1 they are infinite."""
    with np.errstate(divide="ignore"):
        return np.log(opacities) - np.log1p(-opacities)


def with_largest(
    others: Float[np.ndarray, "gaussians 3"], which: Integer[np.ndarray, " gaussians"]
) -> Float[np.ndarray, "gaussians 4"]:
    """Quaternions of length 1 of which a file gives all components in order but the largest, which is not negative.

    Args:
        which: the place of the largest, 0 to 3.
    """
    largest = np.sqrt(np.clip(1 - (others**2).sum(axis=1), 0, None))
    quats = np.empty((len(others), 4), np.float32)
    for place in range(4):
        rows = which == place
        quats[rows] = np.insert(others[rows], place, largest[rows], axis=1)
    return quats


def _infinite_only(values: np.ndarray) -> tuple[float, float]:
    """Bounds that an infinite value is clipped to, and no finite one."""
    finite = values[np.isfinite(values)]
    return float(finite.min(initial=-OPAQUE)), float(finite.max(initial=OPAQUE))


def _with_thickness(scales: np.ndarray) -> np.ndarray:
    """Three log-scales for each Gaussian; a missing one, or one of a length of 0, is made thin."""
    if scales.shape[1] == 2:
        scales = np.concatenate([scales, np.full_like(scales[:, :1], -np.inf)], axis=1)
    smallest = np.where(np.isneginf(scales), np.inf, scales).min(axis=1, keepdims=True)
    return np.where(np.isneginf(scales), smallest - np.float32(THIN), scales)


def quaternions(matrices: Float[Tensor, "gaussians 3 3"]) -> Float[Tensor, "gaussians 4"]:
    """Of rotations, real part first."""
    from scipy.spatial.transform import Rotation

    xyzw = torch.from_numpy(Rotation.from_matrix(matrices.double().numpy()).as_quat())
    return torch.cat([xyzw[:, 3:], xyzw[:, :3]], dim=-1).to(matrices.dtype)


def _turned_harmonics(turn: Float[Tensor, "3 3"], bases: int) -> Float[Tensor, "bases bases"]:
    """D with Y(turn d)·(D c) = Y(d)·c for every direction d, solved for over more directions than there are bases."""
    directions = torch.randn(20 * bases, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = F.normalize(directions, dim=-1)
    turned = _eval_sh_bases_fast(bases, directions @ turn.T.double())
    return torch.linalg.lstsq(turned, _eval_sh_bases_fast(bases, directions)).solution.to(turn.dtype)
