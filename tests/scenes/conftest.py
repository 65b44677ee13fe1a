"""Tiny scenes of the real classes, and a tiny dataset in nerfstudio's format."""

import json
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components import encodings, mlp
from PIL import Image

from pds_nerfstudio.scenes.nerfacto import NerfactoSceneConfig
from pds_nerfstudio.scenes.splatfacto import SplatfactoSceneConfig

from . import tiny_cuda_nn

HEIGHT, WIDTH, VIEWS = 20, 16, 4


def look_at_origin(angle: float) -> torch.Tensor:
    """Camera-to-world matrix `[3 4]` (x right, y up, z backwards) on a circle of radius 2 at height 0.5."""
    position = torch.tensor([2 * np.cos(angle), 2 * np.sin(angle), 0.5], dtype=torch.float32)
    backwards = position / position.norm()
    right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), backwards)
    right = right / right.norm()
    return torch.stack([right, torch.linalg.cross(backwards, right), backwards, position], dim=-1)


def write_dataset(folder: Path, *, channels: int = 3, distortion: float = 0.0) -> Path:
    """Four views of noise, as a nerfstudio dataset."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    frames = []
    for i in range(VIEWS):
        pixels = random.integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{i:02d}.png")
        matrix = torch.cat([look_at_origin(1.3 * i), torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
        frames.append({"file_path": f"images/{i:02d}.png", "transform_matrix": matrix.tolist()})
    intrinsics = {"fl_x": 18.0, "fl_y": 19.0, "cx": 7.5, "cy": 10.5, "w": WIDTH, "h": HEIGHT, "k1": distortion}
    (folder / "transforms.json").write_text(json.dumps(intrinsics | {"frames": frames}))
    return folder


@pytest.fixture
def make_dataset(tmp_path):
    """Write a dataset of four 16 x 20 views: `make_dataset(channels=3, distortion=0.0)`."""
    return lambda **options: write_dataset(tmp_path / "data", **options)


@pytest.fixture
def native(monkeypatch):
    """tiny-cuda-nn, as the stand-in for it that nerfstudio's modules then use."""
    for module in (encodings, mlp):
        monkeypatch.setattr(module, "tcnn", tiny_cuda_nn, raising=False)
        monkeypatch.setattr(module, "TCNN_EXISTS", True)
    monkeypatch.setattr(tiny_cuda_nn.Context, "alive", WeakSet())  # without those of other tests
    return tiny_cuda_nn


@pytest.fixture
def camera():
    """Camera of view 0 of the ring, 5 x 7 pixels, with the given view index in its metadata: `camera(index=None)`."""

    def build(index: int | None = None, height: int = 7, width: int = 5) -> Cameras:
        return Cameras(
            look_at_origin(0.0)[None],
            *(torch.tensor([[value]]) for value in (1.1 * width, 1.2 * height, width / 2, height / 2)),
            torch.tensor([[width]]),
            torch.tensor([[height]]),
            metadata={} if index is None else {"cam_idx": index},
        )

    return build


@pytest.fixture
def nerfacto():
    """A nerfacto of a few hundred parameters, with pose optimisation and appearance embedding, away from its zeros."""

    def build(**changes):
        torch.manual_seed(0)
        proposal = {"hidden_dim": 8, "log2_hashmap_size": 8, "num_levels": 2, "max_res": 32, "use_linear": False}
        settings = {
            "implementation": "torch",
            "num_levels": 4,
            "log2_hashmap_size": 8,
            "num_proposal_samples_per_ray": (16, 12),
            "num_nerf_samples_per_ray": 8,
            "proposal_net_args_list": [proposal, proposal],
            "camera_optimizer": CameraOptimizerConfig(mode="SO3xR3"),
        }
        config = NerfactoSceneConfig(**(settings | changes))
        model = config.setup(scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=VIEWS)
        for name, parameter in model.named_parameters():
            if "hash_table" in name:
                torch.nn.init.normal_(parameter)
            if "pose_adjustment" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        return model

    return build


@pytest.fixture
def splats():
    """A splatfacto of sixty coloured Gaussians around the origin."""

    def build(number: int = 60, seed: int = 0, **changes):
        torch.manual_seed(seed)
        points = (torch.randn(number, 3) * 0.3, torch.randint(0, 256, (number, 3), dtype=torch.uint8))
        return SplatfactoSceneConfig(**changes).setup(
            scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=VIEWS, seed_points=points
        )

    return build
