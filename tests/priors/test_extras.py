"""LoRAs of kohya's, diffusers' and peft's writing, and words of textual inversions, change a prior as they say."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.extras import check_extras, lora_file
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.words import add_word

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture
def matrices(prior):
    """A and B of rank 2 for one layer."""
    generator = torch.Generator().manual_seed(0)
    outwards, inwards = prior.unet.get_submodule(LAYER).weight.shape
    return torch.randn(2, inwards, generator=generator), torch.randn(outwards, 2, generator=generator)


def write(folder, matrices, kind: str, alpha: float = 1.0):
    """The same LoRA as each tool writes it; `alpha` over the rank of 2 is in the file."""
    down, up = matrices
    if kind == "kohya":
        name = "lora_unet_" + LAYER.replace(".", "_")
        state = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)}
        save_file(state, folder / "add_detail.safetensors")
        return folder / "add_detail.safetensors"
    if kind == "diffusers":
        state = {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up * (alpha / 2)}
        save_file(state, folder / "pytorch_lora_weights.safetensors")
        return folder
    state = {f"base_model.model.{LAYER}.lora_A.weight": down, f"base_model.model.{LAYER}.lora_B.weight": up}
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": alpha}))
    return folder


@pytest.mark.parametrize("kind", ["kohya", "diffusers", "peft"])
def test_loras_are_added_with_their_weights(folder, prior, matrices, tmp_path, kind):
    path = write(tmp_path, matrices, kind)
    changed = load_prior(str(folder), "cpu", loras=[f"{path}:0.5", str(path)])
    down, up = matrices
    expected = prior.unet.get_submodule(LAYER).weight + (0.5 + 1) * (1 / 2) * up @ down
    torch.testing.assert_close(changed.unet.get_submodule(LAYER).weight, expected, atol=1e-5, rtol=1e-5)
    untouched = LAYER.replace("to_k", "to_v")
    assert torch.equal(changed.unet.get_submodule(untouched).weight, prior.unet.get_submodule(untouched).weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_lora_added_to_half_precision_is_off_by_no_more_than_that(folder, matrices, tmp_path, dtype):
    path = write(tmp_path, matrices, "diffusers")
    half, whole = (load_prior(str(folder), "cpu", d, loras=[f"{path}:0.5"]) for d in (dtype, torch.float32))
    found, wanted = (p.unet.get_submodule(LAYER).weight.float() for p in (half, whole))
    torch.testing.assert_close(found, wanted, atol=4 * torch.finfo(dtype).eps, rtol=2 * torch.finfo(dtype).eps)


def test_a_lora_of_diffusers_before_0_24_is_one_by_its_header_and_added(folder, prior, matrices, tmp_path):
    block = LAYER.removesuffix(".to_k")
    down, up = matrices
    names = (f"unet.{block}.processor.to_k_lora.{side}.weight" for side in ("down", "up"))
    save_file(dict(zip(names, (down, up), strict=True)), tmp_path / "old.safetensors")
    check_extras([str(tmp_path / "old.safetensors")], [], 16)
    changed = load_prior(str(folder), "cpu", loras=[str(tmp_path / "old.safetensors")])
    expected = prior.unet.get_submodule(LAYER).weight + up @ down
    torch.testing.assert_close(changed.unet.get_submodule(LAYER).weight, expected, atol=1e-5, rtol=1e-5)


def test_a_lora_whose_strength_is_in_its_header_is_added_with_that(folder, prior, matrices, tmp_path):
    """As diffusers' training scripts write it."""
    told = {"r": 2, "lora_alpha": 1, "target_modules": ["attn2.to_k"], "peft_type": "LORA"}
    down, up = matrices
    state = {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in told.items()})}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors", header)
    changed = load_prior(str(folder), "cpu", loras=[str(tmp_path)])
    expected = prior.unet.get_submodule(LAYER).weight + (1 / 2) * up @ down
    torch.testing.assert_close(changed.unet.get_submodule(LAYER).weight, expected, atol=1e-5, rtol=1e-5)


def test_pefts_stabilised_strength_is_divided_by_the_root_of_the_rank(folder, prior, matrices, tmp_path):
    path, (down, up) = write(tmp_path, matrices, "peft"), matrices
    (path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 1, "use_rslora": True}))
    changed = load_prior(str(folder), "cpu", loras=[str(path)])
    expected = prior.unet.get_submodule(LAYER).weight + 2**-0.5 * up @ down
    torch.testing.assert_close(changed.unet.get_submodule(LAYER).weight, expected, atol=1e-5, rtol=1e-5)
    (path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 1, "alpha_pattern": {"to_k": 4}}))
    with pytest.raises(UserError, match="layers of other ranks or strengths"):
        load_prior(str(folder), "cpu", loras=[str(path)])


def test_a_dora_is_refused_and_not_added_without_its_magnitudes(folder, matrices, tmp_path):
    path, name = write(tmp_path, matrices, "kohya"), "lora_unet_" + LAYER.replace(".", "_")
    save_file(load_file(path) | {f"{name}.dora_scale": torch.ones(1, 16)}, path)
    with pytest.raises(UserError, match="is a DoRA"):
        check_extras([str(path)], [], 16)
    with pytest.raises(UserError, match="is a DoRA"):
        load_prior(str(folder), "cpu", loras=[str(path)])


@pytest.mark.parametrize("told", ["{", "[1]", '{"r": 0}', '{"r": []}', "[" * 100_000])
def test_settings_of_a_lora_that_say_nothing_are_refused_in_one_sentence(folder, matrices, tmp_path, told):
    path = write(tmp_path, matrices, "peft")
    (path / "adapter_config.json").write_text(told)
    with pytest.raises(UserError, match=r"adapter_config\.json|cannot be added to its prior"):
        load_prior(str(folder), "cpu", loras=[str(path)])


@pytest.mark.parametrize("kind", ["kohya", "peft"])
def test_what_fits_is_told_by_the_header(matrices, tmp_path, kind):
    path = write(tmp_path, matrices, kind)
    check_extras([str(path)], [], 16)
    check_extras([str(path)], [], None)
    with pytest.raises(UserError, match="text features of 16 numbers and the prior has 768"):
        check_extras([str(path)], [], 768)


def test_a_word_of_several_vectors_is_read_where_prompts_hold_it(folder, prior, tmp_path):
    vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    save_file({"emb_params": vectors}, tmp_path / "MyBall.safetensors")
    check_extras([], [tmp_path / "MyBall.safetensors"], 16)
    learned = load_prior(str(folder), "cpu", embeddings=[tmp_path / "MyBall.safetensors"])
    ids = learned.token_ids("a MyBall")[0]
    table = learned.text_encoder.get_input_embeddings().weight
    torch.testing.assert_close(table[ids[2:4]], vectors)
    torch.testing.assert_close(learned.embed("a ball"), prior.embed("a ball"))
    assert not torch.equal(learned.embed("a MyBall"), learned.embed("a ball"))
    with pytest.raises(UserError, match="knows the word MyBall already"):
        add_word(learned, tmp_path / "MyBall.safetensors")


def test_a_lora_of_other_layers_is_refused(folder, tmp_path):
    state = {f"unet.elsewhere.{side}.weight": torch.zeros(2, 2) for side in ("lora_A", "lora_B")}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"The LoRA .*other\.safetensors"):
        load_prior(str(folder), "cpu", loras=[str(tmp_path / "other.safetensors")])


def test_names_and_weights_that_are_wrong_are_named(tmp_path):
    for named, said in (
        (tmp_path / "no.safetensors", "does not exist"),
        (tmp_path, "holds 0 .safetensors"),
    ):
        with pytest.raises(UserError, match=said):
            lora_file(f"{named}:0.8")
    save_file({"emb_params": torch.zeros(1, 768)}, tmp_path / "a.safetensors")
    assert lora_file(f"{tmp_path / 'a.safetensors'}:0.25").weight == 0.25
    assert lora_file(str(tmp_path / "a.safetensors")).weight == 1
    with pytest.raises(UserError, match="the weight nan"):
        lora_file(f"{tmp_path / 'a.safetensors'}:nan")
    with pytest.raises(UserError, match="is no LoRA"):
        check_extras([str(tmp_path / "a.safetensors")], [], None)
    save_file({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}, tmp_path / "xl.safetensors")
    with pytest.raises(UserError, match="Stable Diffusion XL"):
        check_extras([], [tmp_path / "xl.safetensors"], 768)
