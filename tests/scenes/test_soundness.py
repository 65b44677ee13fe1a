"""What is not finite is left out of splats, and refused anywhere else."""

from pathlib import Path

import pytest
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.soundness import sound

RUN = Path("run/step-000000009.ckpt")


def splats(count: int) -> dict[str, torch.Tensor]:
    shapes = {"means": (3,), "opacities": (1,), "features_rest": (0, 3)}
    return {f"_model.gauss_params.{name}": torch.rand(count, *shape) for name, shape in shapes.items()}


def test_a_whole_scene_passes_as_it_is():
    state = splats(5) | {"_model.camera_optimizer.pose_adjustment": torch.zeros(2, 6)}
    kept, left_out = sound(state, RUN)
    assert left_out == 0
    assert all(kept[name] is value for name, value in state.items())


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_gaussians_that_are_not_finite_are_left_out_with_all_that_is_theirs(broken):
    state = splats(5)
    state["_model.gauss_params.means"][1, 2] = broken
    state["_model.gauss_params.opacities"][3] = broken
    kept, left_out = sound(state, RUN)
    assert left_out == 2
    for name, value in state.items():
        assert torch.equal(kept[name], value[[0, 2, 4]])


def test_none_finite_and_none_at_all_are_told_apart():
    with pytest.raises(UserError, match="None of the 3 Gaussians"):
        sound({name: value * float("nan") for name, value in splats(3).items()}, RUN)
    with pytest.raises(UserError, match="no Gaussians"):
        sound(splats(0), RUN)


def test_a_network_that_is_not_finite_is_named():
    state = {"_model.field.mlp_head.layers.0.weight": torch.tensor([1.0, float("nan")])}
    with pytest.raises(UserError, match=r"mlp_head\.layers\.0\.weight"):
        sound(state, RUN)
