"""The studio prior's training, end to end at tiny settings: shards of noise, a few steps of every stage."""

import csv
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel

sys.path.append(str(Path(__file__).parents[2] / "data_scripts"))

import studio_unet
import view_training
from long_training import NEVER, LongTraining, Pace
from studio_photographs import IMAGE_SIZE, Photographs, jpeg
from studio_start import begin_as
from studio_views import held_out_specs, training_specs
from studio_words import EVERY, build_tokenizer, random_caption
from toybox_networks import text_config, token_ids
from train_studio_prior import Settings, main
from training_loop import Run, train
from transformers import CLIPTextModel
from view_groups import VIEWS, quadruples

from pds_nerfstudio.evaluation.metrics import ClipScorer
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.priors.check import STUDIO
from pds_nerfstudio.priors.folder import trained_size
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.studio.spec import is_held_out, words
from pds_nerfstudio.toybox.render import toybox_matrices
from pds_nerfstudio.toybox.tokenizer import learn_tokenizer

GROUPS = 2
TINY = {"checkpoint_every": 2, "valid_every": 2, "device": "cpu", "learning_rate": 1e-3}


def smooth_pictures(count: int, seed: int) -> torch.Tensor:
    """Pictures [count H W 3] of a few soft blobs."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=True)
    return fine.clamp(0, 1).movedim(1, -1)


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    for seed, name in enumerate(("views_0000.pt", "views_0001.pt", "valid.pt")):
        poses = quadruples(GROUPS, torch.Generator().manual_seed(seed))
        shard = {
            "jpegs": [jpeg(picture) for picture in smooth_pictures(GROUPS * VIEWS, seed)],
            "cameras": toybox_matrices(poses).unflatten(0, (GROUPS, VIEWS)),
            "specs": torch.arange(GROUPS) + 10 * seed,
            "seeds": torch.arange(GROUPS),
        }
        torch.save(shard, folder / name)
    return folder


@pytest.fixture(scope="module")
def trained(views, tmp_path_factory):
    """A folder in which every stage went two steps, and two more with a rate that falls to zero."""
    folder = tmp_path_factory.mktemp("prior")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view_training, "VALID_GROUPS", 16)
        patch.setattr(studio_unet, "SHEET_STEPS", 2)
        common = {"folder": folder, "views": views, "steps": 2, "finish": 2, **TINY}
        main(Settings(stage="vae", vae_channels=(8, 8, 16, 16), vae_latents=6, vae_pictures=2, **common))
        main(Settings(stage="unet", singles=1, groups=1, **common))
        main(Settings(stage="clip", clip_pictures=4, **common))
    return folder


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_shards_give_back_their_pictures_cameras_and_scenes(views):
    found = Photographs.load(views)
    assert found.images.shape == (2 * GROUPS, VIEWS, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert found.specs.tolist() == [0, 1, 10, 11]
    assert found.shards == 2
    first = smooth_pictures(GROUPS * VIEWS, 0)[VIEWS]
    error = found.images[1, 0].movedim(0, -1) / 255 - first
    assert float(error.square().mean()) < 1e-4


def test_scenes_of_shards_are_never_an_edits_and_four_share_a_room():
    shards = [training_specs(number, torch.Generator().manual_seed(number)) for number in range(3)]
    drawn = [spec for shard in shards for spec in shard]
    assert not any(is_held_out(spec) for spec in drawn)
    assert Counter(spec.seed for spec in drawn) == dict.fromkeys(range(1, 10), 4)
    assert len({(spec.seed, spec.room, spec.light) for spec in drawn}) == 9


def test_held_out_photographs_are_of_the_edits_scenes_with_other_seeds():
    specs = held_out_specs()
    assert all(is_held_out(spec) for spec in specs)
    assert {replace(spec, seed=0) for spec in specs} == {spec for spec in EVERY if is_held_out(spec)}
    assert min(spec.seed for spec in specs) > 10_000


def test_where_there_is_no_shard_the_script_that_makes_them_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"studio_views\.py"):
        Photographs.load(tmp_path)


def test_every_word_of_studio_is_one_token_and_no_caption_is_cut(tmp_path):
    tokenizer = build_tokenizer(tmp_path)
    assert all(len(tokenizer(word).input_ids) == 3 for word in words())
    longest = max((spec.prompt() for spec in EVERY), key=lambda caption: len(caption.split()))
    assert len(tokenizer(longest).input_ids) <= tokenizer.model_max_length


def test_a_training_that_begins_as_the_package_hears_the_words_that_the_package_knew(tmp_path):
    packaged = load_prior("studio", "cpu")
    tokenizer = learn_tokenizer([*(spec.prompt() for spec in EVERY), "a photo of an elephant"], tmp_path)
    text = CLIPTextModel(text_config(tokenizer, studio_unet.TEXT_WIDTH, studio_unet.TEXT_LAYERS)).eval()
    begin_as(text, packaged.text_encoder, tokenizer, STUDIO / "tokenizer")
    captions = [EVERY[100].prompt(), ""]
    heard = text(token_ids(tokenizer, captions, "cpu"))[0]
    for caption, own in zip(captions, heard, strict=True):
        assert torch.allclose(own, packaged.embed(caption).float(), atol=1e-4)


def test_captions_are_true_and_sometimes_empty():
    torch.manual_seed(0)
    spec = EVERY[100]
    drawn = {random_caption(100) for _ in range(200)}
    said = [spec.prompt(m, r, light) for m in (True, False) for r in (True, False) for light in (True, False)]
    assert drawn == {"", *said}


def test_every_stage_goes_on_from_its_steps_to_its_finish(trained):
    for stage in ("vae", "unet", "clip"):
        steps = [int(row["step"]) for row in curve(trained / f"{stage}_training")]
        assert sorted(set(steps)) == [0, 2, 4]


def test_a_loss_that_is_not_finite_is_refused_before_anything_is_saved(tmp_path):
    module = torch.nn.Linear(1, 1)
    training = LongTraining("module", tmp_path, module, Pace(steps=2, **TINY))
    with pytest.raises(FloatingPointError, match="nan at step 2; lower the learning rate"):
        training.run(lambda: module(torch.ones(1)).sum() * torch.nan, lambda seconds: None)
    assert not list(tmp_path.iterdir())


def test_the_vae_comes_closer_to_pictures_it_never_saw(trained):
    start, *_, end = (float(row["psnr"]) for row in curve(trained / "vae_training"))
    assert end > start


def test_the_prior_that_is_written_takes_a_group_of_cameras(trained):
    prior = load_prior(str(trained / "prior"), "cpu")
    assert trained_size(trained / "prior") == IMAGE_SIZE
    assert "_name_or_path" not in (trained / "prior" / "vae" / "config.json").read_text()
    cameras = Viewpoints(toybox_matrices(quadruples(1, torch.Generator())), VIEWS)
    generator = torch.Generator().manual_seed(0)
    samples = prior.sample([EVERY[0].prompt()] * VIEWS, IMAGE_SIZE, IMAGE_SIZE, 2, 2.0, generator, cameras)
    assert samples.shape == (VIEWS, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert bool(samples.isfinite().all())


def test_the_written_unet_is_the_average_of_the_trained_one(trained):
    saved = torch.load(trained / "unet_training" / "finish.pt", weights_only=True)
    frozen = [f"unet.class_embedding.{layer}.bias" for layer in ("linear_1", "linear_2")]
    names = [name for name in saved["modules"] if name not in frozen]
    average = dict(zip(names, saved["ema"]["shadow_params"], strict=True))
    written = load_prior(str(trained / "prior"), "cpu").unet.state_dict()["conv_out.weight"].float()
    assert torch.allclose(written, average["unet.conv_out.weight"], atol=2e-5)
    assert not torch.allclose(written, saved["modules"]["unet.conv_out.weight"], atol=2e-5)


def test_the_judge_that_is_written_tells_captions_apart(trained):
    scorer = ClipScorer.load(trained / "clip")
    likeness = scorer.similarity(torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE), [EVERY[0].prompt(), EVERY[-1].prompt()])
    assert likeness.shape == (2, 2)
    assert float((likeness[:, 0] - likeness[:, 1]).abs().min()) > 0


class Slope(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.ones(1))


def go(folder: Path, note: Callable[[LongTraining], None] = lambda training: None, **changes: int) -> LongTraining:
    """Train a single number towards 0, with a checkpoint and a note at every step."""
    slope = Slope()
    training = LongTraining("slope", folder, slope, Pace(checkpoint_every=1, valid_every=1, device="cpu", **changes))
    training.run(lambda: slope.value.square().sum(), lambda seconds: note(training))
    return training


def test_a_stopped_training_goes_on_where_it_stood_and_its_finish_leaves_it_alone(tmp_path):
    first, second = go(tmp_path, steps=2), go(tmp_path, steps=3)
    assert (first.step, second.step) == (2, 3)
    assert second.modules.value.item() < first.modules.value.item() < 1
    rates = []
    finished = go(tmp_path, lambda training: rates.append(training.optimizer.param_groups[0]["lr"]), finish=4)
    assert (finished.step, finished.finish_from) == (7, 3)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0] / 2
    assert LongTraining("slope", tmp_path, Slope(), Pace(steps=NEVER)).step == 3


def test_a_finish_begins_anew_once_the_training_has_gone_on(tmp_path, capsys):
    go(tmp_path, steps=2)
    assert go(tmp_path, finish=2).step == go(tmp_path, finish=2).step == 4
    assert "finishing from there" not in capsys.readouterr().out
    further = go(tmp_path, steps=5)
    finished = go(tmp_path, finish=2)
    assert (finished.step, finished.finish_from) == (7, 5)
    assert finished.modules.value.item() < further.modules.value.item()
    assert "began at step 2, the training is at 5: finishing from there" in capsys.readouterr().out


@pytest.mark.parametrize("is_in_curve", [False, True])
def test_a_note_that_was_interrupted_is_made_up_for_with_one_line_in_the_curve(tmp_path, is_in_curve):
    def note(training: LongTraining) -> None:
        training.add_to_curve(["step"], [[training.step], [training.step]])

    def interrupted(training: LongTraining) -> None:
        if training.step < 2:
            note(training)
            return
        if is_in_curve:
            note(training)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, interrupted, steps=2)
    noted = []

    def again(training: LongTraining) -> None:
        noted.append(training.step)
        note(training)

    for _ in range(2):
        go(tmp_path, again, steps=2)
    assert noted == [2]
    assert [row["step"] for row in curve(tmp_path)] == ["0", "0", "1", "1", "2", "2"]


def test_a_checkpoint_that_does_not_say_what_was_noted_resumes(tmp_path):
    go(tmp_path, steps=2)
    saved = torch.load(tmp_path / "training.pt", weights_only=True)
    del saved["noted"]
    torch.save(saved, tmp_path / "training.pt")
    noted = []
    assert go(tmp_path, lambda training: noted.append(training.step), steps=3).step == 3
    assert noted == [3]


def test_a_training_resumes_on_another_device_with_adams_step_counts_on_the_cpu(tmp_path):
    go(tmp_path, steps=1)
    training = LongTraining("slope", tmp_path, Slope().to("meta"), Pace(device="meta"))
    (state,) = training.optimizer.state.values()
    assert training.ema.shadow_params[0].device.type == state["exp_avg"].device.type == "meta"
    assert state["step"].device.type == "cpu"


def test_a_stage_resumes_from_a_checkpoint_of_another_device(tmp_path, monkeypatch):
    def stage(steps: int) -> EMAModel:
        slope = Slope()
        ema = EMAModel(slope.parameters())
        run = Run(out=tmp_path, checkpoint_every=1, device="cpu")
        train("slope", run, slope, lambda: slope.value.square().sum(), steps, 1e-3, ema)
        return ema

    with monkeypatch.context() as gpu:
        gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        stage(1)
    assert stage(2).optimization_step == 2
