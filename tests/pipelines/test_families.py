"""The whole job with priors of the newer families: real classes of diffusers at toy size, in every kind of edit."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_priors import PROMPTS as TEXTS
from tiny_priors import write_flux, write_sana, write_sd3, write_sdxl

from pds_nerfstudio.cli.dreambooth import Dreambooth
from pds_nerfstudio.cli.preview import Preview
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.load import load_prior

pytestmark = pytest.mark.slow

SMALL = ("--pipeline.resolution", 32)
"""FLUX says nothing of its size, which is 1024 pixels of the true one."""
PROMPTS = ("--pipeline.src-prompt", TEXTS[0], "--pipeline.tgt-prompt", TEXTS[1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """By family."""
    place = tmp_path_factory.mktemp("families")
    writers = {"sdxl": write_sdxl, "sd3": write_sd3, "sana": write_sana, "flux": write_flux}
    return {name: write(place / name) for name, write in writers.items()}


@pytest.fixture(scope="module")
def photograph(tmp_path_factory) -> Path:
    """One of two in a folder."""
    folder = tmp_path_factory.mktemp("photographs")
    for colour in ("blue", "red"):
        Image.new("RGB", (40, 32), colour).save(folder / f"{colour}.png")
    return folder / "red.png"


@pytest.mark.parametrize(
    ("family", "method", "more"),
    [
        ("sdxl", "piva-edit-splat", ()),
        ("sdxl", "pnr-edit", ("--pipeline.edit-steps", 2, "--pipeline.refine-steps", 1)),
        ("sdxl", "sdedit-refine-splat", ()),
        ("sd3", "pds-edit-splat", ()),
        ("sd3", "vsd-edit", ()),
        ("sd3", "sdedit-refine", ()),
        ("sd3", "idu-edit-splat", ("--pipeline.editor", "inversion")),
        ("sana", "pds-edit-splat", ("--pipeline.recompute-encoder", True)),
        ("sana", "piva-edit", ()),
        ("sana", "sdedit-refine-splat", ()),
        ("flux", "sdedit-refine-splat", ("--pipeline.weights", "8bit", *SMALL)),
        ("flux", "sdedit-refine", ("--pipeline.weights", "4bit", *SMALL)),
    ],
)
def test_an_edit_runs_and_moves_the_scene(ns_train, toy_splats, toy_nerf, folders, family, method, more):
    run = (toy_splats if method.endswith("-splat") else toy_nerf).parent
    steps = () if method.startswith("pnr") else ("--max-num-iterations", 2)
    config = ns_train(method, "--load-dir", run, "--pipeline.prior", folders[family], *PROMPTS, *steps, *more)
    checkpoint = max((config.get_base_dir() / "nerfstudio_models").glob("*.ckpt"))
    before = torch.load(max((run / "nerfstudio_models").glob("*.ckpt")), weights_only=True)["pipeline"]
    after = torch.load(checkpoint, weights_only=True)["pipeline"]
    own = {name: value for name, value in after.items() if name in before and value.is_floating_point()}
    assert all(value.isfinite().all() for value in own.values())
    assert any(value.shape != before[name].shape or not value.equal(before[name]) for name, value in own.items())


@pytest.mark.parametrize("family", ["sdxl", "sd3", "sana"])
def test_a_photograph_is_edited_and_a_subject_learned(folders, photograph, tmp_path, family):
    prior = str(folders[family])
    Preview((photograph,), TEXTS[0], (TEXTS[1],), prior=prior, steps=2, out=tmp_path / "preview").run()
    assert (tmp_path / "preview").is_dir()
    small = {"resolution": 32, "rank": 2, "steps": 2, "class_images": 2, "empty_images": 1, "sample_steps": 1}
    Dreambooth(
        data=photograph.parent,
        out=tmp_path / "lora",
        prior=prior,
        instance_prompt="a photo of a sks ball",
        class_prompt="a photo of a ball",
        learning_rate=1e-2,
        sample_every=0,
        **small,
    ).run()
    before, after = load_prior(prior, "cpu"), load_prior(str(tmp_path / "lora"), "cpu")
    (name, old), *_ = ((n, p) for n, p in before.denoiser.named_parameters() if "to_q.weight" in n)
    assert not torch.equal(old, dict(after.denoiser.named_parameters())[name])


def test_flux_is_refused_by_what_distils_before_anything_is_loaded(ns_train, toy_splats, folders, photograph, tmp_path):
    given = ("--load-dir", toy_splats.parent, "--pipeline.prior", folders["flux"], *PROMPTS)
    with pytest.raises(SystemExit):
        ns_train("pds-edit-splat", *given)
    prior = str(folders["flux"])
    with pytest.raises(UserError, match="give it to sdedit-refine"):
        Preview((photograph,), TEXTS[0], (TEXTS[1],), prior=prior, out=tmp_path / "preview").run()
    with pytest.raises(UserError, match="give it to sdedit-refine"):
        Dreambooth(
            data=photograph.parent,
            out=tmp_path / "lora",
            prior=prior,
            instance_prompt="a photo of a sks ball",
            class_images=0,
        ).run()


@pytest.mark.parametrize("family", ["sdxl", "sd3", "sana"])
def test_what_a_family_does_not_offer_is_said_before_anything_is_loaded(
    ns_train, toy_splats, folders, photograph, tmp_path, family, capfd
):
    given = ("piva-edit-splat", "--load-dir", toy_splats.parent, "--pipeline.prior", folders[family], *PROMPTS)
    with pytest.raises(SystemExit):
        ns_train(*given, "--pipeline.control", "toybox")
    assert "no ControlNet is offered" in capfd.readouterr().err
    with pytest.raises(UserError, match="text encoders"):
        Dreambooth(
            data=photograph.parent,
            out=tmp_path / "lora",
            prior=str(folders[family]),
            instance_prompt="a photo of a sks ball",
            class_prompt="a photo of a ball",
            train_text_encoder=True,
        ).run()
