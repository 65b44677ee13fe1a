"""The second edition's training, a few steps of it on made-up latents."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[2] / "data_scripts"))

import view_training
from toybox_data import trace_random_views
from train_toybox_views import Settings, main
from view_groups import VIEWS, quadruples

from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.render import toybox_matrices

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(view_training, "VALID_GROUPS", 16)
    for name in ("views_0000.pt", "valid.pt"):
        poses = quadruples(3, torch.Generator().manual_seed(0))
        shard = {
            "latents": torch.randn(3, VIEWS, 4, 16, 16).half(),
            "cameras": toybox_matrices(poses).unflatten(0, (3, VIEWS)),
            "specs": torch.arange(3),
        }
        torch.save(shard, tmp_path / name)
    return tmp_path


def test_it_begins_as_the_packaged_prior_to_the_bit(folder):
    main(Settings(folder=folder, steps=0, device="cpu"))
    for part in ("unet", "camera_proj"):
        packaged, written = (load_file(place / part / WEIGHTS) for place in (TOYBOX, folder / "prior"))
        assert packaged.keys() == written.keys()
        assert all(torch.equal(packaged[name], written[name]) for name in packaged)
    config = load_prior(str(folder / "prior"), "cpu").unet.config
    packaged_config = load_prior("toybox", "cpu").unet.config
    assert {k: v for k, v in config.items() if k[0] != "_"} == {k: v for k, v in packaged_config.items() if k[0] != "_"}


@pytest.mark.parametrize("flow", [False, True])
def test_steps_move_it_and_the_same_command_goes_on(folder, flow):
    few = {"folder": folder, "singles": 1, "groups": 1, "device": "cpu", "checkpoint_every": 1, "valid_every": 2}
    main(Settings(steps=1, flow=flow, **few))
    main(Settings(steps=2, flow=flow, **few))
    made = folder / "flow" if flow else folder
    written = load_file(made / "prior" / "unet" / WEIGHTS)
    packaged = load_file(TOYBOX / "unet" / WEIGHTS)
    assert not torch.equal(written["conv_out.weight"], packaged["conv_out.weight"])
    assert (made / "curve.csv").read_text().splitlines()[-1].startswith("2,")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_validation_leaves_the_gpus_generator_as_it_was():
    def draw(singles, groups):
        torch.randn(1, device="cuda")
        raise InterruptedError

    before = torch.cuda.get_rng_state()
    with pytest.raises(InterruptedError):
        view_training.validate(None, SimpleNamespace(device="cuda", draw=draw), None)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_tracing_leaves_the_number_of_threads_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trace_random_views("ball", False, 1, seed=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
