"""Laws of the prior that takes cameras, and the layouts of folders that it is read from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file, save_file

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.objectives.cameras import Viewpoints, without_framing
from pds_nerfstudio.priors.camera_unet import CAMERA_CONFIG, diffusers_config, diffusers_name
from pds_nerfstudio.priors.check import TOYBOX, check_folder
from pds_nerfstudio.priors.folder import camera_layout
from pds_nerfstudio.priors.footprint import count
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.multi_view import MultiViewPrior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

WEIGHTS = "diffusion_pytorch_model.safetensors"
ORIGINAL = {
    "_class_name": "MultiViewUNetModel",
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": 2,
    "attention_resolutions": [1, 2],
    "channel_mult": [1, 2, 2],
    "num_head_channels": 16,
    "transformer_depth": 1,
    "context_dim": 16,
    "camera_dim": 16,
}
"""A configuration as MVDream's own class writes it, at toy size."""


def with_unet(folder: Path, target: Path, unet: UNet2DConditionModel) -> Path:
    """A copy of a prior's folder with another U-Net."""
    shutil.copytree(folder, target)
    shutil.rmtree(target / "unet")
    unet.save_pretrained(target / "unet")
    return target


@pytest.fixture(scope="session")
def camera_folder(folder, tmp_path_factory) -> Path:
    """The tiny prior with a camera embedding that answers zeros with zeros, and aim and distance in its cameras."""
    torch.manual_seed(1)
    plain = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    unet = UNet2DConditionModel.from_config(dict(plain.config) | CAMERA_CONFIG)
    unet.load_state_dict(plain.state_dict(), strict=False)
    for layer in (unet.class_embedding.linear_1, unet.class_embedding.linear_2):
        torch.nn.init.zeros_(layer.bias)
    target = with_unet(folder, tmp_path_factory.mktemp("camera") / "prior", unet)
    (target / "camera.json").write_text('{"framing": true}')
    return target


@pytest.fixture
def views(camera_folder) -> MultiViewPrior:
    prior = load_prior(str(camera_folder), "cpu")
    assert isinstance(prior, MultiViewPrior)
    return prior


def cameras(count: int, together: int = 1, seed: int = 0) -> Viewpoints:
    matrices = torch.randn(count, 4, 4, generator=torch.Generator().manual_seed(seed))
    matrices[:, 3, 3] = 1
    return Viewpoints(matrices, together)


def query(count: int = 8, together: int = 4, guidance_scale: float = 3.0, seed: int = 0) -> Query:
    """Groups of views, each group at a t of its own."""
    noisy = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    t = torch.arange(100, 1000, 900 // (count // together))[: count // together].repeat_interleave(together)
    return Query(noisy, t, "a red ball", guidance_scale, cameras=cameras(count, together, seed))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_views_of_a_group_couple_and_groups_do_not(views):
    asked = query()
    changed = asked.noisy_latents.clone()
    changed[1] += 1
    before, after = views.predict_noise([asked, replace(asked, noisy_latents=changed)])
    moved = (after - before).abs().amax((1, 2, 3))
    assert (moved[:4] > 1e-5).all()
    close(after[4:], before[4:])


def test_a_view_by_itself_depends_on_no_other(views):
    asked = query(8, 1)
    changed = asked.noisy_latents.clone()
    changed[1] += 1
    before, after = views.predict_noise([asked, replace(asked, noisy_latents=changed)])
    moved = (after - before).abs().amax((1, 2, 3))
    assert moved[1] > 1e-3
    close(after[[0, 2, 3, 4, 5, 6, 7]], before[[0, 2, 3, 4, 5, 6, 7]])


def test_without_cameras_it_is_the_single_view_prior_to_the_last_bit(views, prior):
    asked = replace(query(4, 1), cameras=None)
    assert torch.equal(views.predict_noise([asked])[0], prior.predict_noise([asked])[0])


def test_the_camera_reaches_the_prediction(views):
    asked = query(2, 1)
    (here,), (there,) = (views.predict_noise([replace(asked, cameras=cameras(2, 1, seed))]) for seed in (0, 5))
    assert (here - there).abs().amax((1, 2, 3)).min() > 1e-4


def test_permuting_the_views_permutes_the_prediction(views):
    asked, order = query(4, 4), [2, 0, 3, 1]
    permuted = replace(
        asked, noisy_latents=asked.noisy_latents[order], cameras=Viewpoints(asked.cameras.matrices[order], 4)
    )
    close(views.predict_noise([permuted])[0], views.predict_noise([asked])[0][order])


def test_batch_equals_singles(views):
    """Groups of four, pairs, single views with and without cameras, guided and not, in one batch."""
    queries = [query(8, 4), query(4, 2, 1.0, 1), query(3, 1, 7.5, 2), replace(query(2, 1, 2.0, 3), cameras=None)]
    for asked, together in zip(queries, views.predict_noise(queries), strict=True):
        size = 1 if asked.cameras is None else asked.cameras.together
        for i in range(0, len(asked.t), size):
            rows = slice(i, i + size)
            seen = None if asked.cameras is None else Viewpoints(asked.cameras.matrices[rows], size)
            single = replace(asked, noisy_latents=asked.noisy_latents[rows], t=asked.t[rows], cameras=seen)
            close(views.predict_noise([single])[0], together[rows])


def test_views_of_a_group_at_different_t_are_refused(views):
    asked = query(4, 4)
    with pytest.raises(ValueError, match="different t"):
        views.predict_noise([replace(asked, t=torch.tensor([1, 1, 1, 2]))])


def test_one_camera_for_each_sample(views):
    with pytest.raises(ValueError, match="4 cameras for 2 samples"):
        views.predict_noise([replace(query(2, 1), cameras=cameras(4))])
    with pytest.raises(ValueError, match="groups of 4"):
        cameras(6, 4)


def test_a_prior_without_cameras_refuses_them(prior):
    with pytest.raises(ValueError, match="takes none"):
        prior.predict_noise([query(2, 1)])


def test_aim_and_distance_reach_only_a_prior_that_was_trained_with_them(views):
    asked = query(2, 1)
    centred = replace(asked, cameras=Viewpoints(without_framing(asked.cameras.matrices)))
    seen, straight = views.predict_noise([asked, centred])
    assert (seen - straight).abs().max() > 1e-5
    views.framing = False
    seen, straight = views.predict_noise([asked, centred])
    assert torch.equal(seen, straight)


def test_four_views_are_sampled_together(views):
    """With the noise of the first view alone changed, all four pictures differ."""
    prompts, seen = ["a red ball"] * 4, cameras(4, 4)
    picture = views.sample(prompts, 16, 16, 3, 2.0, torch.Generator().manual_seed(0), seen)
    apart = views.sample(prompts, 16, 16, 3, 2.0, torch.Generator().manual_seed(0), Viewpoints(seen.matrices))
    assert picture.shape == (4, 3, 16, 16)
    assert (picture - apart).abs().amax((1, 2, 3)).min() > 1e-6


def test_saving_and_loading_keeps_predictions_and_framing(views, tmp_path):
    views.save(tmp_path / "saved")
    again = load_prior(str(tmp_path / "saved"), "cpu")
    assert again.framing
    assert camera_layout(tmp_path / "saved") == "projection"
    assert torch.equal(again.predict_noise([query()])[0], views.predict_noise([query()])[0])


def test_a_camera_embedding_beside_a_stock_unet_is_the_same_prior(views, folder, camera_folder, tmp_path):
    """MVDream in diffusers' names; the folder without its camera is an ordinary pipeline still."""
    target = shutil.copytree(folder, tmp_path / "parts")
    (target / "camera_proj").mkdir()
    (target / "camera_proj" / "config.json").write_text(json.dumps({"in_channels": 16, "camera_embed_dim": 32}))
    weights = load_file(camera_folder / "unet" / WEIGHTS)
    prefix = "class_embedding."
    embedding = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    save_file(embedding, target / "camera_proj" / WEIGHTS)
    (target / "camera.json").write_text('{"framing": true}')
    again = load_prior(str(target), "cpu")
    assert isinstance(again, MultiViewPrior)
    assert torch.equal(again.predict_noise([query()])[0], views.predict_noise([query()])[0])
    pipeline = StableDiffusionPipeline.from_pretrained(target, safety_checker=None)
    assert pipeline("a red ball", 16, 16, num_inference_steps=5, output_type="pt").images.shape == (1, 3, 16, 16)


def original_names() -> dict[str, str]:
    """Every parameter of `ORIGINAL` by its original name, and diffusers' name of it: by walking both networks."""
    resnet = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    }
    blocks = {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
    for i in (0, 2):
        blocks[f"time_embed.{i}"] = f"time_embedding.linear_{1 + i // 2}"
        blocks[f"camera_embed.{i}"] = f"class_embedding.linear_{1 + i // 2}"
    attentions, resnets = {"middle_block.1": "mid_block.attentions.0"}, {}
    resnets |= {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
    levels, layers = len(ORIGINAL["channel_mult"]), ORIGINAL["num_res_blocks"]
    attends = [2**level in ORIGINAL["attention_resolutions"] for level in range(levels)]
    number = 1
    for level in range(levels):
        for layer in range(layers):
            resnets[f"input_blocks.{number}.0"] = f"down_blocks.{level}.resnets.{layer}"
            if attends[level]:
                attentions[f"input_blocks.{number}.1"] = f"down_blocks.{level}.attentions.{layer}"
            number += 1
        if level < levels - 1:
            blocks[f"input_blocks.{number}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            number += 1
    number = 0
    for up, level in enumerate(reversed(range(levels))):
        for layer in range(layers + 1):
            resnets[f"output_blocks.{number}.0"] = f"up_blocks.{up}.resnets.{layer}"
            if attends[level]:
                attentions[f"output_blocks.{number}.1"] = f"up_blocks.{up}.attentions.{layer}"
            if level and layer == layers:
                part = 2 if attends[level] else 1
                blocks[f"output_blocks.{number}.{part}.conv"] = f"up_blocks.{up}.upsamplers.0.conv"
            number += 1
    backwards = {new: old for old, new in (blocks | attentions).items()}
    backwards |= {
        f"{new}.{part_new}": f"{old}.{part_old}"
        for old, new in resnets.items()
        for part_old, part_new in resnet.items()
    }
    unet = UNet2DConditionModel.from_config(diffusers_config(ORIGINAL))
    names = {}
    for name in unet.state_dict():
        new = max((new for new in backwards if name.startswith(new + ".")), key=len)
        names[backwards[new] + name[len(new) :]] = name
    return names


def test_original_names_are_mapped_as_by_a_walk_through_the_network_and_by_diffusers_own_converter():
    names = original_names()
    for old, new in names.items():
        assert diffusers_name(old, ORIGINAL["num_res_blocks"]) == new
    marked = {f"model.diffusion_model.{old}": new for old, new in names.items() if not old.startswith("camera_embed")}
    converted = convert_ldm_unet_checkpoint(marked, {"layers_per_block": ORIGINAL["num_res_blocks"]})
    assert converted == {new: new for new in marked.values()}


@pytest.fixture(scope="session")
def original_folder(folder, tmp_path_factory) -> tuple[Path, UNet2DConditionModel]:
    """A folder in MVDream's original names, in half precision, and the network that it holds."""
    torch.manual_seed(2)
    unet = UNet2DConditionModel.from_config(diffusers_config(ORIGINAL)).half()
    target = shutil.copytree(folder, tmp_path_factory.mktemp("original") / "prior")
    (target / "unet" / "config.json").write_text(json.dumps(ORIGINAL))
    state = unet.state_dict()
    save_file({old: state[new] for old, new in original_names().items()}, target / "unet" / WEIGHTS)
    return target, unet


def test_a_folder_in_original_names_gives_the_network_that_it_holds(original_folder):
    folder, expected = original_folder
    prior = load_prior(str(folder), "cpu")
    assert isinstance(prior, MultiViewPrior)
    assert not prior.framing
    state = prior.unet.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert all(torch.equal(state[name], value.float()) for name, value in expected.state_dict().items())
    assert [block.num_attention_heads for block in prior.unet.down_blocks[:2]] == [2, 4]
    assert prior.unet.config.sample_size == ORIGINAL["image_size"]  # the size at which it is shown views
    (answer,) = prior.predict_noise([query()])
    assert answer.isfinite().all()


@pytest.mark.parametrize("layout", ["projection", "camera_proj", "original"])
def test_memory_is_counted_to_the_byte_in_every_layout(camera_folder, original_folder, layout):
    folder = {"projection": camera_folder, "camera_proj": TOYBOX, "original": original_folder[0]}[layout]
    prior = load_prior(str(folder), "cpu")
    networks = (prior.vae, prior.unet, prior.text_encoder)
    held = sum(value.nbytes for network in networks for value in network.parameters())
    assert count(folder, 64, 64, dtype=torch.float32, vae_dtype=torch.float32).weights == held


def test_folders_that_do_not_fit_are_refused_in_a_sentence(original_folder, camera_folder, tmp_path):
    folder = shutil.copytree(original_folder[0], tmp_path / "imagedream")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(ORIGINAL | {"ip_dim": 16}))
    with pytest.raises(UserError, match="ImageDream"):
        check_folder(folder)
    config.write_text(json.dumps(ORIGINAL | {"context_dim": 1024}))
    with pytest.raises(UserError, match="text features of 1024"):
        check_folder(folder)
    config.write_text(json.dumps(ORIGINAL | {"num_res_blocks": 1}))
    with pytest.raises(UserError, match="must come from the same model"):
        load_prior(str(folder), "cpu")
    labelled = shutil.copytree(camera_folder, tmp_path / "labelled")
    config = labelled / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"projection_class_embeddings_input_dim": 7}))
    with pytest.raises(UserError, match="of no family that is known"):
        check_folder(labelled)


def test_adapters_learn_under_cameras(views):
    """The adapters of VSD and Piva sit in the same attention, joint or not."""
    views.add_adapters(("edited",), rank=2)
    asked = replace(query(4, 4, 1.0), adapter="edited")
    (answer,) = views.predict_with_graph([asked])
    answer.square().mean().backward()
    assert any(matrix.grad is not None and matrix.grad.abs().max() > 0 for matrix in views.adapters.parameters())
    close(answer.detach(), views.predict_noise([replace(asked, adapter=None)])[0])


def test_a_row_seen_from_anywhere_is_a_row_without_a_camera(views, prior):
    """What trainings that call the U-Net themselves, such as DreamBooth's, are given."""
    asked = replace(query(2, 1, 1.0), cameras=None)
    texts = views.embed(asked.prompt).expand(2, -1, -1)
    with torch.no_grad():
        output = views.unet(asked.noisy_latents, asked.t, texts, **views.without_cameras(2)).sample
    assert torch.equal(output, views.predict_noise([asked])[0])
    assert prior.without_cameras(2) == {}


def test_it_is_a_stable_diffusion_prior(views):
    assert isinstance(views, StableDiffusionPrior)
