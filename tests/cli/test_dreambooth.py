"""`pds dreambooth`: refusals, what is kept, interruption and continuation, and its results as priors."""

import json
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from processes import started, wait_for_files

from pds_nerfstudio.cli.dreambooth import Dreambooth
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.pictures import read_images
from pds_nerfstudio.priors.check import TOYBOX, check_prior
from pds_nerfstudio.priors.dreambooth_pictures import Framing
from pds_nerfstudio.priors.dreambooth_settings import CARD, CHECKPOINT, CLASS_IMAGES
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.recipe import recipe_of

INSTANCE, CLASS = "a photo of a sks can", "a photo of a can"
SMALL = {
    "instance_prompt": INSTANCE,
    "class_prompt": CLASS,
    "prior": "toybox",
    "resolution": 32,
    "rank": 2,
    "learning_rate": 1e-2,
    "class_images": 2,
    "empty_images": 1,
    "steps": 2,
    "sample_steps": 1,
    "sample_every": 0,
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A folder of three pictures."""
    folder = tmp_path_factory.mktemp("photographs")
    for i, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 32), colour).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory) -> Path:
    """A LoRA of two steps. Read-only."""
    return train(photographs, tmp_path_factory.mktemp("lora") / "out")


def train(data: Path, out: Path, **changes) -> Path:
    Dreambooth(data=data, out=out, **(SMALL | changes)).run()
    return out


def prediction(prior, prompt: str = INSTANCE) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return prior.predict_noise([Query(x, torch.tensor([400]), prompt)])[0]


def learned(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "training/checkpoint.pt", weights_only=True)["weights"]


@contextmanager
def files_of_at_most(size: int):
    """As on a full disk, a file that grows beyond `size` bytes cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"instance_prompt": " "}, "instance prompt is empty"),
        ({"class_prompt": ""}, "class prompt is empty"),
        ({"class_prompt": INSTANCE}, "class prompt is the instance prompt"),
        ({"steps": 0}, "--steps is 0"),
        ({"rank": 0}, "--rank is 0"),
        ({"class_images": -1}, "--class-images is -1"),
        ({"prior": "nowhere"}, "nowhere"),
        ({"data": None}, "--load-config"),
        ({"data": Path("gone")}, "gone does not exist"),
        ({"data": "empty"}, "no images"),
        ({"data": "one"}, "one photograph"),
        ({"out": "full"}, "is not empty"),
    ],
)
def test_what_cannot_work_is_one_sentence(photographs, tmp_path, changes, sentence):
    for name in ("empty", "one", "full"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "image.png")
    (tmp_path / "full" / "thesis.tex").touch()
    changes = {k: tmp_path / v if v in ("empty", "one", "full") else v for k, v in changes.items()}
    with pytest.raises(UserError, match=sentence) as error:
        Dreambooth(**({"data": photographs, "out": tmp_path / "out"} | SMALL | changes)).run()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_8_bit_adam_names_the_package_it_lacks(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("pds_nerfstudio.priors.dreambooth_settings.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        train(photographs, tmp_path / "out", adam_8bit=True)


def test_refusals_load_no_diffusion_library(refused_lightly):
    code = (
        "from pds_nerfstudio.cli.dreambooth import Dreambooth\n"
        "Dreambooth('a sks can', 'a can', prior='toybox', data=Path('gone')).run()"
    )
    refused_lightly(code, "torch", "diffusers", "transformers", "nerfstudio")


def test_an_instance_prompt_without_the_rare_word_is_warned_of(photographs, tmp_path, capsys):
    train(photographs, tmp_path / "out", steps=1, class_images=0, instance_prompt="a photo of a red can")
    assert "“sks” is not in the instance prompt" in capsys.readouterr().out.replace("\n", " ")


def test_class_images_are_the_same_after_an_interruption(photographs, tmp_path):
    drawn = {}
    for name in ("whole", "interrupted"):
        folder = train(photographs, tmp_path / name, steps=1, class_images=3) / CLASS_IMAGES
        if name == "interrupted":
            for i in (1, 2):
                (folder / f"000{i}.png").unlink()
            (tmp_path / name / CARD).unlink()
            (tmp_path / name / CHECKPOINT).unlink()
            train(photographs, tmp_path / name, steps=1, class_images=3)
        drawn[name] = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    assert drawn["whole"] == drawn["interrupted"]
    assert len(set(drawn["whole"])) == 3


def test_photographs_of_another_shape_are_cropped_to_the_centre_of_the_commonest(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, size in zip(paths, [(40, 32), (80, 64), (32, 64), (96, 32)], strict=True):
        image = Image.new("RGB", size, "red")
        image.paste("blue", (size[0] // 2 - 4, size[1] // 2 - 4, size[0] // 2 + 4, size[1] // 2 + 4))
        image.save(path)
    framing = Framing.of(paths, 32, 4)
    images = framing.pictures(paths)
    assert (tuple(images.shape), framing.cropped) == ((4, 3, 32, 40), 2)
    assert (images[:, 2, 15:17, 19:21] > 0.9).all()


def test_a_lora_is_the_prior_that_was_trained(photographs, trained, tmp_path):
    check_prior(str(trained))
    prior, base = load_prior(str(trained), "cpu"), load_prior("toybox", "cpu")
    assert not torch.allclose(prediction(prior), prediction(base), atol=1e-3)
    assert prior.unet.state_dict().keys() == base.unet.state_dict().keys()

    pipeline = StableDiffusionPipeline.from_pretrained(TOYBOX, safety_checker=None)
    pipeline.load_lora_weights(trained)
    base.unet = pipeline.unet
    torch.testing.assert_close(prediction(prior), prediction(base), rtol=1e-3, atol=1e-4)

    weights = learned(trained)
    down, up = (
        weights[f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_{x}.default.weight"] for x in "AB"
    )
    change = (
        prior.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
        - load_prior("toybox", "cpu").unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
    )
    torch.testing.assert_close(change, up @ down, atol=1e-6, rtol=1e-4)


def test_a_prior_with_a_lora_takes_the_adapters_of_an_edit(trained):
    prior = load_prior(str(trained), "cpu")
    before = prediction(prior)
    prior.add_adapters(("edited",), rank=2)
    torch.testing.assert_close(prediction(prior), before)


def test_all_layers_and_the_text_encoder_come_back_as_they_were_trained(photographs, tmp_path):
    out = train(photographs, tmp_path / "out", layers="all", train_text_encoder=True, recompute=True)
    weights = learned(out)
    assert any(name.startswith("text_encoder.") for name in weights)
    prior, base = load_prior(str(out), "cpu"), load_prior("toybox", "cpu")
    assert not torch.allclose(prior.embed(INSTANCE), base.embed(INSTANCE), atol=1e-3)
    for part in ("unet", "text_encoder"):
        was, now = (dict(getattr(each, part).named_parameters()) for each in (base, prior))
        ups = [name for name in weights if name.startswith(f"{part}.") and ".lora_B." in name]
        assert ups
        for name in ups:
            up, down = weights[name], weights[name.replace(".lora_B.", ".lora_A.")]
            inside = name.removeprefix(f"{part}.").split(".lora_B.")[0] + ".weight"
            change = torch.einsum("or,r...->o...", up.flatten(1), down)
            torch.testing.assert_close(now[inside] - was[inside], change, atol=1e-5, rtol=1e-3)


def test_all_weights_make_a_diffusers_folder(photographs, tmp_path):
    out = train(photographs, tmp_path / "out", train="full", learning_rate=1e-3)
    check_prior(str(out))
    prior = load_prior(str(out), "cpu")
    for name, value in learned(out).items():
        torch.testing.assert_close(prior.unet.state_dict()[name.removeprefix("unet.")], value)
    assert not torch.allclose(prediction(prior), prediction(load_prior("toybox", "cpu")), atol=1e-3)
    StableDiffusionPipeline.from_pretrained(out)
    assert (out / "recipe.json").read_text() == recipe_of("toybox").path.read_text()


def test_the_card_tells_prompts_settings_and_versions(trained):
    card = (trained / "README.md").read_text()
    for text in ("base_model: toybox", INSTANCE, CLASS, "| rank | 2 |", "| learning rate | 0.01 |", version("torch")):
        assert text in card


def test_a_training_in_two_parts_is_one_training(photographs, trained, tmp_path, capsys):
    out = train(photographs, tmp_path / "out", steps=1)
    drawn = {path: path.stat().st_mtime_ns for path in (out / "training").glob("*_images/*.png")}
    assert len(drawn) == 3
    train(photographs, out, steps=2)
    assert "from step 1" in capsys.readouterr().out
    assert drawn == {path: path.stat().st_mtime_ns for path in (out / "training").glob("*_images/*.png")}
    whole, parts = learned(trained), learned(out)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_finished_training_is_left_as_it_is_and_never_shortened(photographs, tmp_path):
    out = train(photographs, tmp_path / "out")
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.suffix != ".json"}
    train(photographs, out)
    assert written == {path: path.stat().st_mtime_ns for path in written}
    with pytest.raises(UserError, match="has had 2 steps already"):
        train(photographs, out, steps=1)


def test_other_settings_do_not_continue_a_training(photographs, trained):
    with pytest.raises(UserError, match="another class prompt, seed"):
        train(photographs, trained, class_prompt="a photo of a cone", seed=1)


def test_without_space_the_last_checkpoint_stays_and_the_same_command_continues(photographs, trained, tmp_path):
    out = train(photographs, tmp_path / "out", steps=1)
    with (
        files_of_at_most(50_000),
        pytest.raises(UserError, match=r"free some space there .* continues from step 1") as error,
    ):
        train(photographs, out)
    assert "\n" not in str(error.value)
    assert not list(out.rglob(".partial*"))
    train(photographs, out)
    assert all(torch.equal(value, learned(out)[name]) for name, value in learned(trained).items())


@pytest.mark.parametrize("damage", ["cut", "evil", "list", "no step", "other weights", "other optimizer"])
def test_a_damaged_checkpoint_is_named_with_a_way_on(photographs, trained, tmp_path, damage):
    out, mark = tmp_path / "out", tmp_path / "mark"
    shutil.copytree(trained, out)
    path = out / "training/checkpoint.pt"
    state = torch.load(path, weights_only=True)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:1000])
        case "evil":
            torch.save(state | {"step": Evil(mark)}, path)
        case "list":
            torch.save([state], path)
        case "no step":
            torch.save({name: value for name, value in state.items() if name != "step"}, path)
        case "other weights":
            torch.save(state | {"weights": {"a": torch.zeros(1)}}, path)
        case "other optimizer":
            torch.save(state | {"optimizer": {"state": 3}}, path)
    with pytest.raises(UserError, match=r"checkpoint\.pt (is damaged|does not fit).*remove checkpoint\.pt to begin"):
        train(photographs, out, steps=5)
    assert not mark.exists()


class Evil:
    """What a pickle may hold."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_a_lora_must_name_a_whole_prior(trained, tmp_path):
    other = tmp_path / "lora"
    other.mkdir()
    (other / "pytorch_lora_weights.safetensors").write_bytes(
        (trained / "pytorch_lora_weights.safetensors").read_bytes()
    )
    with pytest.raises(UserError, match=r"does not say which prior.*lora\.json"):
        check_prior(str(other))
    (other / "lora.json").write_text(json.dumps({"base": str(trained)}))
    with pytest.raises(UserError, match="changes another LoRA"):
        check_prior(str(other))
    (other / "lora.json").write_text(json.dumps({"base": "toybox"}))
    check_prior(str(other))
    with (other / "pytorch_lora_weights.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="damaged"):
        check_prior(str(other))


def test_low_rank_changes_are_not_trained_on_top_of_others(photographs, trained, tmp_path):
    with pytest.raises(UserError, match="is a LoRA"):
        train(photographs, tmp_path / "out", prior=str(trained))


def test_sample_sheets_show_the_prompts_every_few_steps(photographs, tmp_path):
    out = train(
        photographs, tmp_path / "out", sample_every=1, class_images=0, validation_prompt="a photo of a sks cone"
    )
    sheets = sorted(path.name for path in (out / "training/samples").iterdir())
    assert sheets == ["step_000001.png", "step_000002.png"]
    assert read_images([out / "training/samples" / sheets[0]]).shape[-2] > 4 * 128  # photographs and three prompts


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_checkpoint(photographs, tmp_path):
    out = tmp_path / "out"
    arguments = {name: value for name, value in SMALL.items() if name != "steps"}
    words = [word for name, value in arguments.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [
        sys.executable,
        "-c",
        "from pds_nerfstudio.cli import main; main()",
        "dreambooth",
        "--data",
        str(photographs),
        "--out",
        str(out),
    ]
    with started([*command, *words, "--save-every", "1", "--steps", "100000"], stdout=subprocess.DEVNULL) as process:
        wait_for_files(process, out, "training/checkpoint.pt")
    assert not (out / "pytorch_lora_weights.safetensors").exists()
    done = torch.load(out / "training/checkpoint.pt", weights_only=True)["step"]
    train(photographs, out, steps=done + 1)
    check_prior(str(out))


@pytest.mark.slow
def test_an_edit_takes_a_lora_as_its_prior(run_here, trained, toy_splats, tmp_path):
    run_here(
        *("ns-train", "pds-edit-splat", "--load-dir", toy_splats.parent / "nerfstudio_models"),
        *("--pipeline.prior", trained, "--pipeline.resolution", 32),
        *("--pipeline.src-prompt", INSTANCE, "--pipeline.tgt-prompt", INSTANCE + " wearing a hat"),
        *("--output-dir", tmp_path, "--vis", "tensorboard", "--max-num-iterations", 2),
        *("--viewer.quit-on-train-completion", "True"),
    )
    assert list(tmp_path.rglob("step-*.ckpt"))
