"""Part of the way back to a random scene (Hong et al. 2024, Alg. 1): θ ← (1−η) θ_src + η θ₀, for both families.

A NeRF is perturbed whole: hash tables, density and colour networks, and the proposal networks, without which density
that forms elsewhere would never be sampled. What describes the photographs (poses, appearance embedding) stays.

Of splats, means and log-scales go towards a fresh draw of splatfacto's random initialisation for as many Gaussians:
positions uniform over the scene's own region, scales from the distances to the nearest three. Opacity and colour
have rates of their own (the paper's supplement perturbs mean and variance alone).

The trap: tiny-cuda-nn initialises every module from one constant seed, so that a newly built field is not a new draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel
from torch import Tensor

from pds_nerfstudio.objectives.perturb import interpolate
from pds_nerfstudio.scenes.hash_grid import entries_read
from pds_nerfstudio.scenes.hull import Hull, Region, box_of

OF_THE_PHOTOGRAPHS = ("camera_optimizer", "embedding_appearance")
"""Names of nerfacto's parameters that no perturbation touches."""
INITIAL_OPACITY = 0.1
"""Opacity of splatfacto's new Gaussians."""


@dataclass(frozen=True)
class Eta:
    """How far towards a fresh draw each part of a scene is moved, in [0, 1]; at 0 not at all."""

    geometry: float
    """A NeRF as a whole; of splats means and scales."""
    opacity: float = 0.0
    """Splats alone."""
    colour: float = 0.0
    """Splats alone."""

    def of_splats(self) -> dict[str, float]:
        """By parameter group."""
        geometry = {"means": self.geometry, "scales": self.geometry}
        return geometry | {"opacities": self.opacity, "features_dc": self.colour}


def nerf_parameters(model: NerfactoModel) -> dict[str, Tensor]:
    """The parameters of a nerfacto scene that are perturbed, by name."""
    names = ("field.", "proposal_networks.")
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(names) and not any(part in name for part in OF_THE_PHOTOGRAPHS)
    }


def tcnn_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules that are tiny-cuda-nn's."""
    return [module for module in model.modules() if hasattr(module, "native_tcnn_module")]


def redraw_tcnn(model: torch.nn.Module, seed: int) -> None:
    """Draw tiny-cuda-nn's parameters anew, each module from a seed of its own."""
    for i, module in enumerate(tcnn_modules(model)):
        native, parameters = module.native_tcnn_module, module.params
        assert isinstance(parameters, Tensor)
        parameters.data.copy_(native.initial_params(seed + i))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


@torch.no_grad()
def perturb_nerf(model: NerfactoModel, fresh: Model, eta: float, where: Region | None = None) -> float:
    """Interpolate `model` in place towards `fresh`, a scene newly built from the same settings.

    With a region, only the entries of hash tables that its points read are moved; the networks, which every point
    reads, stay. Raises ValueError for η outside [0, 1], and UserError where a field has no hash table.

    Returns:
        the share of the parameters' entries that were moved, in [0, 1].
    """
    if eta == 0:
        return 0.0
    other = dict(fresh.named_parameters())
    masks = None if where is None else entries_read(model, where)
    moved_entries = entries = 0
    for name, parameter in nerf_parameters(model).items():
        moved = interpolate(parameter, other[name].to(parameter), eta)
        entries += parameter.numel()
        if masks is None:
            parameter.copy_(moved)
            moved_entries += parameter.numel()
        elif name in masks:
            parameter.copy_(torch.where(masks[name], moved, parameter))
            moved_entries += int(masks[name].sum())
    return moved_entries / max(entries, 1)


def fresh_splats(
    means: Float[Tensor, "gaussians 3"], sh_degree: int, generator: torch.Generator, where: Region | None = None
) -> dict[str, Tensor]:
    """splatfacto's random initialisation for as many Gaussians, over the box that `means` fill, or over a hull.

    Drawn on the CPU, hence the same on every rank and machine.

    Returns:
        means, log-scales, opacity logits and colours (band 0 of the spherical harmonics, or logits at degree 0).
    """
    count = len(means)
    if isinstance(where, Hull):
        drawn = where.draw(count, means, generator)
    else:
        low, high = box_of(means)
        drawn = low + (high - low) * torch.rand(count, 3, generator=generator)
    rgb = torch.rand(count, 3, generator=generator)
    return {
        "means": drawn,
        "scales": spacing(drawn, drawn).log().repeat(1, 3),
        "opacities": torch.full((count, 1), INITIAL_OPACITY).logit(),
        "features_dc": RGB2SH(rgb) if sh_degree > 0 else rgb.logit(eps=1e-3),
    }


def spacing(points: Float[Tensor, "points 3"], among: Float[Tensor, "_ 3"]) -> Float[Tensor, "points 1"]:
    """The mean distance of each point, on the CPU, to the three nearest others among those, of which it is one."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = min(4, len(among))  # each is its own nearest
    distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(among.numpy()).kneighbors(points.numpy())
    return torch.from_numpy(distances[:, 1:]).float().mean(1, keepdim=True).clamp(min=1e-7)


@torch.no_grad()
def perturb_splats(
    model: SplatfactoModel, etas: Mapping[str, float], generator: torch.Generator, where: Region | None = None
) -> int:
    """Interpolate Gaussians of `model` in place towards a fresh draw, each group named in `etas` by its own η.

    Quaternions are brought back to unit length. Nothing at all changes where every η is 0.

    Args:
        etas: η in [0, 1] by parameter: means, scales, opacities, features_dc.
        where: perturb only the Gaussians in it, towards positions in it.

    Returns:
        how many Gaussians were perturbed.

    Raises:
        ValueError: an η outside [0, 1].
    """
    chosen = torch.arange(len(model.means)) if where is None else where.contains(model.means).nonzero()[:, 0].cpu()
    if len(chosen) < 2 or not any(etas.values()):
        return 0
    fresh = fresh_splats(model.means[chosen.to(model.means.device)], model.config.sh_degree, generator, where)
    for name, eta in etas.items():
        parameter = model.gauss_params[name]
        index = chosen.to(parameter.device)
        parameter[index] = interpolate(parameter[index], fresh[name].to(parameter), eta)
    quats = model.gauss_params["quats"]
    quats[chosen.to(quats.device)] = F.normalize(quats[chosen.to(quats.device)], dim=-1)
    return len(chosen)
