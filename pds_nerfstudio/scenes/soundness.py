"""Is a scene whole? Values that are not finite, or none at all, have a name of their own before an edit begins."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pds_nerfstudio.errors import UserError

GAUSSIANS = "_model.gauss_params."
"""Prefix of splatfacto's parameters in a pipeline's state dict; in each of them, one row is one Gaussian."""

OF_GAUSSIANS = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
"""Those parameters."""


def under_present_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A pipeline's state dict as a checkpoint holds it, under the names that one process of today's nerfstudio gives.

    Parallel runs put `module.` before each name; splatfacto's oldest checkpoints have its parameters without
    `gauss_params.`.
    """
    old = {f"_model.{name}": f"{GAUSSIANS}{name}" for name in OF_GAUSSIANS}
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    return {old.get(name, name): value for name, value in plain.items()}


def sound(state: Mapping[str, Tensor], checkpoint: Path) -> tuple[dict[str, Tensor], int]:
    """A pipeline's state dict without the Gaussians that hold NaN or infinity.

    Returns:
        the state dict, its tensors the same ones where nothing is left out; and the number of Gaussians left out.

    Raises:
        UserError: there are no Gaussians, none of them is finite, or something else is not finite.
    """
    gaussians = {name: value for name, value in state.items() if name.startswith(GAUSSIANS)}
    rest = {name: value for name, value in state.items() if name not in gaussians}
    for name, value in rest.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(
                f"{checkpoint} holds values that are not finite, in {name}: choose an earlier checkpoint with "
                "--load-step, or make the run again."
            )
    if not gaussians:
        return rest, 0
    count = len(next(iter(gaussians.values())))
    if not count:
        raise UserError(f"{checkpoint} holds no Gaussians: make the run again, from photographs or points it can see.")
    if any(len(value) != count for value in gaussians.values()):
        return dict(state), 0  # which its model refuses by name
    whole = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in gaussians.values() if value.numel()])
    kept = whole.all(dim=0)
    left_out = count - int(kept.sum())
    if left_out == count:
        raise UserError(
            f"None of the {count} Gaussians in {checkpoint} is finite: choose an earlier checkpoint with --load-step, "
            "or make the run again."
        )
    if left_out:
        gaussians = {name: value[kept] for name, value in gaussians.items()}
    return rest | gaussians, left_out
