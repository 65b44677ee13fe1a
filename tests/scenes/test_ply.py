"""Gaussians from a .ply: read as written, and looking the same after a move of the scene and its camera."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from nerfstudio.models.splatfacto import RGB2SH

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.formats.ply import read_ply
from pds_nerfstudio.scenes.formats.ply_file import write_table
from pds_nerfstudio.scenes.frame import unlikely

TURN = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3))).Q
TURN = TURN * torch.det(TURN).sign()
MIRROR = TURN @ torch.diag(torch.tensor([1.0, -1.0, 1.0]))


def write(path, model, *, comment: str = "", without: tuple[str, ...] = ()) -> None:
    """A model's Gaussians in the layout of Kerbl et al., written independently of nerfstudio's exporter."""
    values = {name: parameter.detach().numpy() for name, parameter in model.gauss_params.items()}
    first = values["features_dc"] if model.config.sh_degree else RGB2SH(1 / (1 + np.exp(-values["features_dc"])))
    columns = dict(zip("xyz", values["means"].T, strict=True))
    columns |= {f"f_dc_{i}": column for i, column in enumerate(first.T)}
    for channel in range(3):
        for band in range(bands := values["features_rest"].shape[1]):
            columns[f"f_rest_{channel * bands + band}"] = values["features_rest"][:, band, channel]
    columns["opacity"] = values["opacities"][:, 0]
    columns |= {f"scale_{i}": column for i, column in enumerate(values["scales"].T)}
    columns |= {f"rot_{i}": column for i, column in enumerate(values["quats"].T)}
    columns = {name: column for name, column in columns.items() if name not in without}
    vertices = np.empty(len(values["means"]), dtype=[(name, "f4") for name in columns])
    for name, column in columns.items():
        vertices[name] = column
    write_table(path, vertices, [comment] if comment else [])


@pytest.fixture
def written(splats, tmp_path):
    """`written(degree, **options)`: a model with view-dependent colours, and its file."""

    def build(degree: int, **options):
        model = splats(40, sh_degree=degree)
        for name, std in (("features_rest", 0.3), ("quats", 1.0)):
            torch.nn.init.normal_(model.gauss_params[name], std=std)
        write(tmp_path / "splats.ply", model, **options)
        return model, tmp_path / "splats.ply"

    return build


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_a_file_is_read_as_it_was_written(written, degree):
    model, path = written(degree)
    read, broken = read_ply(path)
    assert (read.sh_degree, broken) == (degree, 0)
    for name, value in read.state_dict().items():
        torch.testing.assert_close(value, model.gauss_params[name].detach(), atol=1e-5, rtol=1e-5)


def test_gaussians_that_are_not_finite_are_left_out(written):
    model, path = written(1)
    model.gauss_params["scales"].data[[3, 7], 1] = torch.tensor([float("nan"), float("inf")])
    write(path, model)
    read, broken = read_ply(path)
    assert (len(read.means), broken) == (38, 2)


def test_opaque_gaussians_of_converters_are_kept_and_no_finite_logit_is_clipped(written):
    model, path = written(1)
    opacities = model.gauss_params["opacities"].data
    opacities[:3, 0] = torch.tensor([torch.inf, -torch.inf, 20.0])
    write(path, model)
    read, broken = read_ply(path)
    assert broken == 0
    assert read.opacities[:3, 0].sigmoid().tolist() == pytest.approx([1, 0, 1], abs=1e-5)
    assert read.opacities[2] == 20
    assert torch.equal(read.opacities[3:], opacities[3:])


@pytest.mark.parametrize("how", ["two scales", "a scale of zero"])
def test_flat_gaussians_are_made_thin(written, how):
    model, path = written(1)
    scales = model.gauss_params["scales"].data
    scales[:, 2] = -torch.inf
    write(path, model, without=("scale_2",) if how == "two scales" else ())
    read, broken = read_ply(path)
    assert broken == 0
    assert torch.equal(read.scales[:, :2], scales[:, :2])
    torch.testing.assert_close(read.scales[:, 2].exp(), 0.01 * scales[:, :2].amin(dim=1).exp())


@pytest.mark.parametrize("turn", [TURN, MIRROR], ids=["turned", "mirrored"])
@pytest.mark.parametrize("degree", [0, 2])
def test_a_moved_scene_looks_the_same_from_the_moved_camera(written, splats, camera, degree, turn):
    model, path = written(degree)
    transform, scale = torch.cat([turn, torch.tensor([[0.3], [-1.0], [0.5]])], dim=-1), 1.7
    moved = splats(40, sh_degree=degree)
    gaussians = read_ply(path)[0].moved(transform, scale).state_dict()
    moved.load_state_dict({f"gauss_params.{name}": value for name, value in gaussians.items()}, strict=False)
    model.step = 30_000
    here = camera(height=24, width=24)
    there = copy.copy(here)
    pose = here.camera_to_worlds[0]
    rotation, position = turn @ pose[:, :3], scale * (turn @ pose[:, 3:] + transform[:, 3:])
    flip = torch.det(turn) < 0
    if flip:  # a camera cannot be mirrored: it looks from the mirrored place, and its picture is mirrored
        rotation = rotation * torch.tensor([-1.0, 1.0, 1.0])
    there.camera_to_worlds = torch.cat([rotation, position], dim=-1)[None]
    with torch.no_grad():
        expected, image = (render(m.eval(), c).image for m, c in ((model, here), (moved, there)))
    assert expected.std() > 0.05
    torch.testing.assert_close(image.flip(-1) if flip else image, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("without", "message"),
    [(("opacity",), "no opacity"), (("f_dc_1",), "no f_dc_1"), (("f_rest_4",), "whole set of f_rest")],
)
def test_a_file_without_what_splats_need_says_what_is_missing(written, without, message):
    _, path = written(1, without=without)
    with pytest.raises(UserError, match=message):
        read_ply(path)


def test_what_is_no_ply_is_refused(tmp_path):
    (tmp_path / "a.ply").write_text("solid cube\n")
    for path in (tmp_path / "a.ply", tmp_path / "nowhere.ply"):
        with pytest.raises(UserError, match="cannot be read"):
            read_ply(path)


def test_scales_follow_the_scene(written):
    _, path = written(0)
    splats, _ = read_ply(path)
    moved = splats.moved(torch.eye(4)[:3], 2.0)
    torch.testing.assert_close(moved.scales, splats.scales + math.log(2))


def test_values_that_are_no_logarithms_or_logits_are_noticed(written):
    splats = read_ply(written(0)[1])[0]
    assert unlikely(splats) == ""
    assert "lengths" in unlikely(dataclasses.replace(splats, scales=splats.scales.exp()))
    assert "logits" in unlikely(dataclasses.replace(splats, opacities=splats.opacities.sigmoid()))
