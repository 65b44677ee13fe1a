"""Part of the way back to a random scene (Hong et al. 2024, Alg. 1): θ ← (1−η) θ_src + η θ₀, for both families.

A NeRF is perturbed whole: hash tables, density and colour networks, and the proposal networks, without which density
that forms elsewhere would never be sampled. What describes the photographs (poses, appearance embedding) stays.

Of splats, means and log-scales go towards a fresh draw of splatfacto's random initialisation for as many Gaussians:
positions uniform over the scene's own region, scales from the distances to the nearest three. Opacity and colour
have rates of their own (the paper's supplement perturbs mean and variance alone).

The trap: tiny-cuda-nn initialises every module from one constant seed, so that a newly built field is not a new draw.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel
from torch import Tensor

from pds_nerfstudio.objectives.perturb import interpolate

OF_THE_PHOTOGRAPHS = ("camera_optimizer", "embedding_appearance")
"""Names of nerfacto's parameters that no perturbation touches."""
REGION = (0.01, 0.99)
"""The region of splats runs between these quantiles of their positions, so that a few strays do not decide it."""
INITIAL_OPACITY = 0.1
"""Opacity of splatfacto's new Gaussians."""


def nerf_parameters(model: NerfactoModel) -> dict[str, Tensor]:
    """The parameters of a nerfacto scene that are perturbed, by name."""
    names = ("field.", "proposal_networks.")
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(names) and not any(part in name for part in OF_THE_PHOTOGRAPHS)
    }


def redraw_tcnn(model: torch.nn.Module, seed: int) -> None:
    """Draw tiny-cuda-nn's parameters anew, each module from a seed of its own."""
    modules = [module for module in model.modules() if hasattr(module, "native_tcnn_module")]
    for i, module in enumerate(modules):
        native, parameters = module.native_tcnn_module, module.params
        assert isinstance(parameters, Tensor)
        parameters.data.copy_(native.initial_params(seed + i))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


@torch.no_grad()
def perturb_nerf(model: NerfactoModel, fresh: Model, eta: float) -> None:
    """Interpolate `model` in place towards `fresh`, a scene newly built from the same settings.

    Raises ValueError for η outside [0, 1].
    """
    other = dict(fresh.named_parameters())
    for name, parameter in nerf_parameters(model).items():
        parameter.copy_(interpolate(parameter, other[name].to(parameter), eta))


def fresh_splats(means: Float[Tensor, "gaussians 3"], sh_degree: int, generator: torch.Generator) -> dict[str, Tensor]:
    """splatfacto's random initialisation for as many Gaussians, over the region that `means` fill.

    Drawn on the CPU, hence the same on every rank and machine.

    Returns:
        means, log-scales, opacity logits and colours (band 0 of the spherical harmonics, or logits at degree 0).
    """
    from sklearn.neighbors import NearestNeighbors

    count = len(means)
    here = means.detach().cpu().double()
    low, high = (torch.from_numpy(_quantile(here, q)) for q in REGION)
    drawn = (low + (high - low) * torch.rand(count, 3, generator=generator, dtype=torch.float64)).float()
    neighbours = min(4, count)  # each is its own nearest
    distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(drawn.numpy()).kneighbors(drawn.numpy())
    spacing = torch.from_numpy(distances[:, 1:]).float().mean(1, keepdim=True).clamp(min=1e-7)
    rgb = torch.rand(count, 3, generator=generator)
    return {
        "means": drawn,
        "scales": spacing.log().repeat(1, 3),
        "opacities": torch.full((count, 1), INITIAL_OPACITY).logit(),
        "features_dc": RGB2SH(rgb) if sh_degree > 0 else rgb.logit(eps=1e-3),
    }


@torch.no_grad()
def perturb_splats(model: SplatfactoModel, etas: Mapping[str, float], generator: torch.Generator) -> None:
    """Interpolate the Gaussians of `model` in place towards a fresh draw, each group named in `etas` by its own η.

    Quaternions are brought back to unit length. Nothing at all changes where every η is 0.

    Args:
        etas: η in [0, 1] by parameter: means, scales, opacities, features_dc.

    Raises:
        ValueError: an η outside [0, 1].
    """
    fresh = fresh_splats(model.means, model.config.sh_degree, generator)
    for name, eta in etas.items():
        parameter = model.gauss_params[name]
        parameter.copy_(interpolate(parameter, fresh[name].to(parameter), eta))
    if any(etas.values()):
        quats = model.gauss_params["quats"]
        quats.copy_(torch.nn.functional.normalize(quats, dim=-1))


def _quantile(values: Tensor, q: float):
    import numpy as np

    return np.quantile(values.numpy(), q, axis=0)
