"""A ControlNet beside the prior: only queries with a picture feel it, and a wrong one is refused unloaded."""

import json
import shutil

import pytest
import torch
from diffusers import ControlNetModel

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.images import depth_picture
from pds_nerfstudio.objectives import Edit, Piva, Query
from pds_nerfstudio.priors.control import check_control, load_control
from pds_nerfstudio.priors.learning import LearningPrior
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import render
from pds_nerfstudio.toybox.spec import SceneSpec


@pytest.fixture(scope="module")
def control(folder, tmp_path_factory):
    """A ControlNet for the tiny prior whose last layers, which begin at zero, say something."""
    unet = load_prior(str(folder), "cpu").unet
    torch.manual_seed(0)
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8))
    for block in (*network.controlnet_down_blocks, network.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.3)
    torch.nn.init.normal_(network.controlnet_cond_embedding.conv_out.weight, std=0.3)
    path = tmp_path_factory.mktemp("control") / "depth"
    network.save_pretrained(path)
    return path


def query(picture=None, adapter=None, guidance=1.0):
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    return Query(x, torch.tensor([300, 700]), "a red ball", guidance, adapter, picture)


def pictures(seed):
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


def test_only_queries_with_a_picture_are_asked_under_the_controlnet(folder, control):
    check_control(str(control), str(folder))
    prior = load_prior(str(folder), "cpu")
    plain = prior.predict_noise([query(guidance=7.5)])[0]
    with pytest.raises(ValueError, match="no ControlNet"):
        prior.predict_noise([query(pictures(0))])
    prior.controlnet = load_control(str(control), prior)
    assert torch.equal(prior.predict_noise([query(guidance=7.5)])[0], plain)
    prior.add_adapters(("source", "edited"), rank=4)
    unguided, near, far = prior.predict_noise([query(), query(pictures(0), "source"), query(pictures(1), "edited")])
    assert not torch.allclose(near, unguided)
    assert not torch.allclose(near, far)
    with pytest.raises(ValueError, match="give it to all"):
        prior.predict_noise([query(pictures(0), "source"), query(None, "source")])


def test_piva_shows_the_sources_depth_to_psi_and_the_renderings_to_phi(folder, control):
    prior = load_prior(str(folder), "cpu")
    prior.controlnet = load_control(str(control), prior)
    prior.add_adapters(("source", "edited"), rank=4)
    generator = torch.Generator().manual_seed(3)
    x0, other, eps = torch.randn(3, 1, 4, 6, 6, generator=generator)
    near, far = pictures(0)[:1], pictures(1)[:1]
    t = torch.tensor([400])

    def gradient(control_tgt, control_src):
        edit = Edit(x0, other, "a red ball", "a blue cube", t, t - 2, eps, eps, control_tgt, control_src)
        learning = LearningPrior.of_step(prior, Piva().adapters, edit)
        return Piva().gradient(learning, edit), learning.losses()

    base, losses = gradient(near, near)
    assert losses.keys() == {"source", "edited"}
    for changed, same in ((gradient(far, near), "source"), (gradient(near, far), "edited")):
        assert not torch.allclose(changed[0], base)
        torch.testing.assert_close(changed[1][same], losses[same])
    sum(losses.values()).backward()
    assert all(p.grad is None for p in prior.controlnet.parameters())
    assert any(p.grad is not None and p.grad.any() for p in prior.adapters.parameters("source"))


def test_what_is_no_fitting_controlnet_is_refused_in_one_sentence(folder, control, tmp_path):
    def refusal(path):
        with pytest.raises(UserError) as caught:
            check_control(str(path), str(folder))
        assert str(caught.value).count("\n") == 0
        return str(caught.value)

    assert "neither a folder nor a hub id" in refusal("nowhere")
    assert "UNet2DConditionModel, not a ControlNetModel" in refusal(folder / "unet")
    for content in (None, "{", "[1]", "[" * 100_000):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        assert "no readable config.json" in refusal(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(control, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 768}))
    assert "another U-Net (cross_attention_dim 768 instead of 16)" in refusal(copy)
    (copy / "config.json").write_text(json.dumps(config | {"conditioning_embedding_out_channels": [8, 8, 8, 8]}))
    assert "8 times and the prior's VAE 4 times" in refusal(copy)
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "diffusion_pytorch_model.safetensors").unlink()
    assert "only safetensors" in refusal(copy)


def test_toyboxs_controlnet_knows_depth():
    """Its prediction under the right depth is closer to the noise than under another scene's, or under none."""
    cameras = capture_cameras(4, 3)
    man, ball = (render(SceneSpec(shape, "red"), cameras, 64, 64) for shape in ("man", "ball"))
    check_control("toybox", "toybox")
    prior = load_prior("toybox", "cpu")
    prior.controlnet = load_control("toybox", prior)
    prior.add_adapters(("source",), rank=4)
    x0, t = prior.encode(man.image.movedim(-1, 1)), torch.full((4,), 600)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    x_t = prior.schedule.add_noise(x0, t, eps)
    depths = [depth_picture(views.depth[:, None], (views.depth[:, None] > 0).float()) for views in (man, ball)]
    answers = [
        prior.predict_noise([Query(x_t, t, "a photo of a red man", adapter="source", control=control)])[0]
        for control in (*depths, None)
    ]
    right, wrong, without = (float((answer - eps).square().mean()) for answer in answers)
    assert right < 0.8 * without
    assert right < 0.8 * wrong


def test_a_controlnet_that_was_not_here_before_is_compared_with_the_prior_that_is_loaded(folder, control, tmp_path):
    """As after a first download, which nothing could look at before."""
    copy = shutil.copytree(control, tmp_path / "other")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 1024}))
    with pytest.raises(UserError, match=r"made for another U-Net .cross_attention_dim 1024 instead of 16"):
        load_control(str(copy), load_prior(str(folder), "cpu"))
