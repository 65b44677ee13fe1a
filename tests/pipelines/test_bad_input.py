"""Every mistake ends in one sentence that names the fix, before anything heavy, and leaves the source alone."""

import json
import shutil

import pytest

from pds_nerfstudio.scenes.source import fingerprint

from .conftest import PROMPTS

pytestmark = pytest.mark.slow

TOYBOX = ("--pipeline.prior", "toybox")


@pytest.fixture
def refused(ns_train, capfd, toy_splats):
    """`refused(method, …)`: the one sentence that `ns-train method …` ends with."""
    before = fingerprint(toy_splats.parent)

    def run(*args: object) -> str:
        with pytest.raises(SystemExit) as stop:
            ns_train(*args)
        captured = capfd.readouterr()
        assert stop.value.code not in (0, None)
        assert "Traceback" not in captured.out + captured.err
        sentences = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
        assert len(sentences) == 1
        assert fingerprint(toy_splats.parent) == before
        return sentences[0]

    return run


def test_without_a_run_to_edit(refused):
    assert "--load-dir" in refused("pds-edit-splat", *PROMPTS, *TOYBOX)


def test_an_edit_into_its_own_sources_folder(refused, ns_train, toy_splats, tmp_path):
    """`--load-dir` of an edit, and its own experiment and timestamp."""
    first = ns_train(
        *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--pipeline.resolution", 32),
        *("--max-num-iterations", 1, "--experiment-name", "mine", "--timestamp", "now"),
    )
    before = fingerprint(first.get_base_dir())
    place = ("--experiment-name", "mine", "--timestamp", "now", "--max-num-iterations", 3)
    assert "never changed" in refused("pds-edit-splat", "--load-dir", first.get_base_dir(), *place)
    assert fingerprint(first.get_base_dir()) == before


def test_a_base_run_that_is_given_as_the_whole_configuration(run_command, toy_splats):
    before = fingerprint(toy_splats.parent)
    done = run_command("ns-train", "pds-edit-splat", "--load-config", toy_splats, fails=True)
    assert "name the run to edit with --load-dir" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert fingerprint(toy_splats.parent) == before


def test_a_run_that_is_not_there(refused, tmp_path):
    assert "does not exist" in refused("pds-edit-splat", "--load-dir", tmp_path / "nowhere", *PROMPTS, *TOYBOX)


def test_splats_given_to_the_nerf_method_name_the_right_one(refused, toy_splats):
    assert "ns-train pds-edit-splat" in refused("pds-edit", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX)


def test_a_run_of_a_method_that_cannot_be_edited(refused, toy_splats, tmp_path):
    run = tmp_path / "other"
    shutil.copytree(toy_splats.parent, run)
    text = (run / "config.yml").read_text()
    text = text.replace(
        "pds_nerfstudio.scenes.splatfacto.SplatfactoSceneConfig", "nerfstudio.models.neus.NeuSModelConfig"
    )
    (run / "config.yml").write_text(text.replace("method_name: source-splatfacto", "method_name: neus"))
    assert "'neus', which cannot be edited" in refused("pds-edit-splat", "--load-dir", run, *PROMPTS, *TOYBOX)


@pytest.mark.parametrize(
    ("prompts", "fix"),
    [
        (("--pipeline.src-prompt", "a photo of a can"), "--pipeline.tgt-prompt"),
        (("--pipeline.tgt-prompt", "a photo of a can"), "--pipeline.src-prompt"),
        (("--pipeline.src-prompt", " ", "--pipeline.tgt-prompt", "a photo of a can"), "--pipeline.src-prompt"),
        (("--pipeline.src-prompt", "a can", "--pipeline.tgt-prompt", "a can"), "give two"),
        (("--prompt", "a cone", *PROMPTS), "give one of them"),
    ],
)
def test_prompts_that_are_missing_or_contradict_each_other(refused, toy_splats, prompts, fix):
    assert fix in refused("pds-edit-splat", "--load-dir", toy_splats.parent, *TOYBOX, *prompts)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--pipeline.views-per-step", 0),
        ("--pipeline.hold-details", -1.0),
        ("--pipeline.encoder", "no_such_encoder"),
    ],
)
def test_settings_of_a_steps_cost_that_cannot_work(refused, toy_splats, flag, value):
    sentence = refused("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, flag, value)
    assert flag in sentence
    assert str(value) in sentence


@pytest.mark.parametrize(("flag", "value"), [("--pipeline.rays-per-chunk", 1), ("--pipeline.backward-share", 0.0)])
def test_settings_of_a_nerfs_rays_that_cannot_work(refused, toy_nerf, flag, value):
    sentence = refused("pds-edit", "--load-dir", toy_nerf.parent, *PROMPTS, *TOYBOX, flag, value)
    assert f"{flag} is {value}" in sentence


def test_a_prior_folder_with_a_missing_file(refused, toy_splats, copied_prior):
    (copied_prior / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    sentence = refused("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, "--pipeline.prior", copied_prior)
    assert "unet" in sentence


def test_a_prior_folder_with_a_truncated_file(refused, toy_splats, copied_prior):
    weights = copied_prior / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    sentence = refused("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, "--pipeline.prior", copied_prior)
    assert "vae" in sentence


def test_a_hub_id_without_network(refused, toy_splats, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sentence = refused(
        "pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, "--pipeline.prior", "nobody/nothing"
    )
    assert "nobody/nothing" in sentence


def test_a_resolution_below_the_latent_stride(refused, toy_splats):
    sentence = refused("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--pipeline.resolution", 2)
    assert "latent stride of 4" in sentence


def test_a_dataset_that_has_moved(refused, toy_splats, tmp_path):
    sentence = refused(
        "pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--data", tmp_path / "gone"
    )
    assert "--data" in sentence


def test_an_unreadable_image_is_named(refused, toy_splats, toy_scene, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(toy_scene / "source", data)
    (data / "images" / "train_003.png").write_bytes(b"no picture")
    sentence = refused("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--data", data)
    assert "train_003.png" in sentence


def test_an_edit_of_splats_decodes_no_photograph_that_it_does_not_look_at(ns_train, toy_splats, toy_scene, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(toy_scene / "source", data)
    for path in (data / "images").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    steps = ("--max-num-iterations", 1, "--pipeline.resolution", 32)
    ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, *steps, "--data", data)


def test_an_edit_runs_with_fewer_photographs_than_its_base_run(ns_train, toy_nerf, toy_scene, tmp_path):
    """Splats and `source-nerfacto` keep nothing per photograph."""
    data = tmp_path / "data"
    shutil.copytree(toy_scene / "source", data)
    transforms = json.loads((data / "transforms.json").read_text())
    transforms["train_filenames"] = transforms["train_filenames"][:4]
    (data / "transforms.json").write_text(json.dumps(transforms))
    steps = ("--max-num-iterations", 2, "--pipeline.resolution", 32)
    ns_train("pds-edit", "--load-dir", toy_nerf.parent, *PROMPTS, *TOYBOX, *steps, "--data", data)


def test_refusals_load_no_diffusion_library(refused_lightly, toy_splats):
    code = (
        "from pds_nerfstudio.methods import METHODS\n"
        "config = METHODS['pds-edit-splat'].config\n"
        f"config.load_dir = Path({str(toy_splats.parent)!r})\n"
        "config.set_timestamp()"
    )
    refused_lightly(code, "diffusers", "transformers")
