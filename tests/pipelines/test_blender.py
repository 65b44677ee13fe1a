"""An object with a transparent background, in NeRF-synthetic's layout: reconstructed and edited through nerfstudio's
blender-data, from the folder that data_scripts/make_noe_scene.py writes."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from PIL import Image

from pds_nerfstudio.pipelines import source_views
from pds_nerfstudio.pipelines.source_views import SourceViews
from pds_nerfstudio.scenes.source import find_run, load_source_state
from pds_nerfstudio.scenes.views import Joined, Views
from pds_nerfstudio.toybox.render import FIELD_OF_VIEW, orbit_cameras, render
from pds_nerfstudio.toybox.spec import SceneSpec

from .conftest import PROMPTS
from .test_edit import TOYBOX, scene_of


@pytest.fixture
def noe(script):
    return script("make_noe_scene")


@pytest.mark.slow
def test_an_object_in_blenders_layout_is_reconstructed_and_edited(ns_train, noe, tmp_path):
    azimuths = torch.arange(8) * math.pi / 4
    for split, shift in (("train", 0.0), ("val", 0.1), ("test", 0.2)):
        cameras = orbit_cameras(azimuths + shift, torch.full((8,), 0.4))
        shown = render(SceneSpec("can", "red"), cameras, 32, 32)
        poses = [np.vstack([camera, [0, 0, 0, 1]]) for camera in cameras.numpy()]
        for path, image, mask in zip(
            noe.write_split(tmp_path / "can", split, poses, FIELD_OF_VIEW), shown.image, shown.mask, strict=True
        ):
            pixels = (255 * torch.cat([image, mask[..., None]], dim=-1)).round().byte().numpy()
            Image.fromarray(pixels, "RGBA").save(path)
    source = ns_train(
        *("source-splatfacto", "--max-num-iterations", 5, "--pipeline.model.num-random", 300),
        *("--pipeline.model.random-scale", 1.0, "blender-data", "--data", tmp_path / "can"),
    )
    before = load_source_state(find_run(source.get_base_dir()))["_model.gauss_params.means"]
    edit = (*PROMPTS, *TOYBOX, "--max-num-iterations", 3, "--pipeline.source-images", "photograph")
    edited = ns_train("pds-edit-splat", "--load-dir", source.get_base_dir() / "nerfstudio_models", *edit)
    assert edited.pipeline.datamanager.dataparser.data == tmp_path / "can"
    after = scene_of(edited)["_model.gauss_params.means"]
    assert after.isfinite().all()
    assert not torch.equal(after, before)


def test_transparent_photographs_stand_in_for_renderings_on_the_scenes_background():
    camera = Cameras(torch.eye(4)[None, :3], 8.0, 8.0, 4.0, 4.0, 8, 8)
    views = Joined((Views(camera, lambda _: torch.zeros(8, 8, 4), ("a.png",), in_training=True),))
    prior: Any = SimpleNamespace(controlnet=None, encode=lambda image: image)
    red = torch.tensor([1.0, 0.0, 0.0])
    sources = SourceViews(lambda: pytest.fail("no scene is needed"), True, "cpu", lambda: red)
    image = sources.view(prior, views, 0, 8, 8).image
    assert torch.equal(image.float(), red[None, :, None, None].expand(1, 3, 8, 8))


def test_latents_of_a_large_capture_wait_in_main_memory(monkeypatch):
    """And are handed out where the scene is, as all others."""
    camera = Cameras(torch.eye(4)[None, :3].repeat(3, 1, 1), 8.0, 8.0, 4.0, 4.0, 8, 8)
    views = Joined((Views(camera, lambda _: torch.ones(8, 8, 3), ("a.png",) * 3, in_training=True),))
    prior: Any = SimpleNamespace(controlnet=None, encode=lambda image: image)
    latent = 3 * 8 * 8 * 4
    for room, kept_on in ((3 * latent, "meta"), (3 * latent - 1, "cpu")):
        monkeypatch.setattr(source_views, "ON_DEVICE", room)
        sources = SourceViews(lambda: pytest.fail("no scene is needed"), True, "meta", lambda: torch.zeros(3))
        monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape))
        assert sources.view(prior, views, 1, 8, 8).latent.device.type == "meta"
        assert sources.made[1].latent.device.type == kept_on
        monkeypatch.undo()


def test_an_object_is_centred_and_its_longest_side_is_two(noe):
    points = np.random.default_rng(0).uniform([3, -1, 0], [9, 1, 2], (1000, 3))
    centre, scale = noe.normalisation(points)
    box = scale * (points - centre)
    np.testing.assert_allclose(box.max(0), -box.min(0), atol=1e-12)
    assert (box.max(0) - box.min(0)).max() == pytest.approx(2)


def test_cameras_are_the_papers(noe):
    train, test = np.array(noe.hemisphere_cameras()), np.array(noe.circle_cameras())
    assert (len(train), len(test)) == (100, 120)
    for cameras in (train, test):
        position, back = cameras[:, :3, 3], cameras[:, :3, 2]
        np.testing.assert_allclose(np.linalg.norm(position, axis=1), 4)
        np.testing.assert_allclose(back, position / 4, atol=1e-12)  # they look at the origin
        np.testing.assert_allclose(np.linalg.det(cameras[:, :3, :3]), 1)
        assert (cameras[:, 2, 1] > 0).all()  # upright
        assert (position[:, 2] > 0).all()
    np.testing.assert_allclose(test[:, 2, 3], 4 * np.sin(np.radians(15)))
    # On a uniform hemisphere heights are uniform: mean 2, half of them above it.
    assert abs(train[:, 2, 3].mean() - 2) < 0.35
