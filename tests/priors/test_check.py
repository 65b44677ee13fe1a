"""Bad priors are refused in one sentence, at once, and before anything heavy is imported."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors import check
from pds_nerfstudio.priors.check import check_folder, check_prior, local_folder, prior_folder
from pds_nerfstudio.priors.families import needed_files
from pds_nerfstudio.priors.folder import check_safetensors
from pds_nerfstudio.priors.hub import MOVED

UNET = "unet/diffusion_pytorch_model.safetensors"
HUB_ID = "someone/some-model"


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A folder that a test may spoil."""
    return Path(shutil.copytree(folder, tmp_path / "prior"))


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """No test sees this machine's own Hugging Face cache, or its network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refusal(name: str) -> str:
    """The sentence with which `name` is refused, within a second."""
    start = time.perf_counter()
    with pytest.raises(UserError) as error:
        check_prior(name)
    assert time.perf_counter() - start < 1
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cached(folder: Path, cache: Path) -> Path:
    """`folder` as the hub client keeps a downloaded HUB_ID."""
    repository = cache / "models--someone--some-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return Path(shutil.copytree(folder, repository / "snapshots" / ("0" * 40)))


def test_a_good_folder_passes_and_so_does_its_home_relative_name(copy, monkeypatch):
    check_prior(str(copy))
    monkeypatch.setenv("HOME", str(copy.parent))
    check_prior("~/prior")


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        UNET,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_each_missing_file_is_named(copy, file):
    (copy / file).unlink()
    assert f"has no {file}: " in refusal(str(copy))


def test_a_folder_without_its_tokenizer_is_refused(copy):
    shutil.rmtree(copy / "tokenizer")
    assert "has no tokenizer/" in refusal(str(copy))


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "tokenizer/tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[]", b"\xff\xfe\x00"])
def test_unreadable_json_is_named(copy, file, content):
    (copy / file).write_bytes(content)
    assert f"{copy / file} is damaged" in refusal(str(copy))


@pytest.mark.parametrize("kept", [0, 5, 8, 100, -1])
def test_truncated_weights_are_named(copy, kept):
    weights = copy / UNET
    weights.write_bytes(weights.read_bytes()[:kept])
    message = refusal(str(copy))
    assert f"{weights} is damaged" in message
    assert "copy or download it again" in message


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 100,
        (3).to_bytes(8, "little") + b"[1]",
        (9).to_bytes(8, "little") + b'{"a": 1} ',
        (2).to_bytes(8, "little") + b"{}" + b"\0" * 5,
    ],
)
def test_files_that_are_no_safetensors_are_named(tmp_path, content):
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        check_safetensors(tmp_path / "weights")


def test_the_header_check_agrees_with_what_safetensors_writes(tmp_path):
    save_file({"a": torch.ones(3, 2), "b": torch.ones(0), "c": torch.ones(5).half()}, tmp_path / "weights", {"x": "y"})
    check_safetensors(tmp_path / "weights")


def test_a_git_lfs_pointer_is_recognised(copy):
    (copy / UNET).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refusal(str(copy))


@pytest.mark.parametrize(
    ("weights", "pickled"),
    [(UNET, "unet/diffusion_pytorch_model.bin"), ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin")],
)
def test_pickled_weights_are_refused_with_the_way_to_convert_them(copy, weights, pickled):
    (copy / weights).rename(copy / pickled)
    message = refusal(str(copy))
    assert pickled in message
    assert "safe_serialization=True" in message


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("unet/config.json", {"in_channels": 9}, "9 channels"),
        ("unet/config.json", {"cross_attention_dim": 1024}, "same model"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "1.x or 2.x"),
        ("unet/config.json", {"_class_name": "SD3Transformer2DModel"}, "1.x or 2.x"),
        ("scheduler/scheduler_config.json", {"prediction_type": "score"}, "prediction_type is one of"),
    ],
)
def test_parts_that_do_not_fit_are_refused(copy, file, changes, words):
    edit_json(copy / file, **changes)
    assert words in refusal(str(copy))


@pytest.mark.parametrize("name", ["", " ", "missing", "./missing", "/no/where", "a/b/c", "gpt2", "a..b/c", "C:\\prior"])
def test_what_is_neither_folder_nor_hub_id_says_so(name):
    message = refusal(name)
    assert all(living in message for living in MOVED.values())


def test_a_file_is_not_a_folder(copy):
    assert "is a file" in refusal(str(copy / "model_index.json"))


@pytest.mark.parametrize(("dead", "living"), MOVED.items())
def test_ids_that_left_the_hub_name_the_living_ones(dead, living):
    assert f"use {living}" in refusal(dead)
    assert living not in MOVED


def test_the_toybox_name_is_the_packages_own_folder(monkeypatch, copy, tmp_path):
    monkeypatch.setitem(check.FOLDERS, "toybox", copy)
    assert local_folder("toybox") == copy
    monkeypatch.setitem(check.FOLDERS, "toybox", tmp_path / "absent")
    assert "install pds_nerfstudio again" in refusal("toybox")


def test_a_hub_id_offline_names_the_ways_out():
    message = refusal(HUB_ID)
    assert "HF_HUB_OFFLINE" in message
    assert "local diffusers folder" in message


def test_an_unreachable_hub_is_told_from_an_unknown_id(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
        )
        assert "the hub cannot be reached" in refusal(HUB_ID)


@pytest.mark.parametrize("dead_or_alive", [HUB_ID, next(iter(MOVED))])
def test_a_complete_snapshot_in_the_cache_needs_no_network(folder, tmp_path, dead_or_alive):
    snapshot = cached(folder, tmp_path / "cache")
    owner, name = dead_or_alive.split("/")
    (tmp_path / "cache" / "models--someone--some-model").rename(tmp_path / "cache" / f"models--{owner}--{name}")
    found = local_folder(dead_or_alive)
    assert found is not None
    assert found.name == snapshot.name
    check_prior(dead_or_alive)


def test_an_interrupted_download_counts_as_none(folder, tmp_path):
    (cached(folder, tmp_path / "cache") / UNET).unlink()
    assert local_folder(HUB_ID) is None
    assert "HF_HUB_OFFLINE" in refusal(HUB_ID)


def test_only_the_needed_files_of_a_hub_listing_are_chosen():
    """A listing like that of Stable Diffusion 1.5: pickles, half precision, non-EMA and the safety checker stay out."""
    listing = {
        "model_index.json",
        "v1-5-pruned.ckpt",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
    }
    for part, weights in (
        ("text_encoder", "model"),
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
    ):
        listing |= {f"{part}/config.json"}
        listing |= {
            f"{part}/{weights}{end}" for end in (".safetensors", ".fp16.safetensors", ".non_ema.safetensors", ".bin")
        }
    chosen = needed_files(listing.__contains__, "listing")
    assert set(chosen) <= listing
    assert [file for file in chosen if not file.endswith((".json", ".txt"))] == [
        "text_encoder/model.safetensors",
        UNET,
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_a_download_asks_for_the_needed_files_and_the_result_is_checked(folder, tmp_path, monkeypatch):
    import huggingface_hub

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        """As the hub's, from `folder`."""
        for file in allow_patterns:
            (tmp_path / "got" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, tmp_path / "got" / file)
        return str(tmp_path / "got")

    listing = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    monkeypatch.setattr(check, "check_hub", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: [*listing, "safety_checker/model.safetensors"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert prior_folder(HUB_ID) == tmp_path / "got"
    assert not (tmp_path / "got" / "safety_checker").exists()


def test_a_failed_download_is_one_sentence(monkeypatch):
    import huggingface_hub

    def fail(name: str) -> list[str]:
        raise ConnectionError("the line\nwent dead")

    monkeypatch.setattr(check, "check_hub", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    with pytest.raises(UserError, match=r"^Downloading the prior someone/some-model failed: the line\. Run"):
        prior_folder(HUB_ID)


def test_missing_diffusers_is_named(monkeypatch, copy):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "pip install diffusers" in refusal(str(copy))


def test_broken_diffusers_is_named():
    program = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from pds_nerfstudio.errors import UserError\n"
        "try: import pds_nerfstudio.priors.load\n"
        "except UserError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install --upgrade diffusers" in result.stdout
    assert len(result.stdout.splitlines()) == 1


def test_half_precision_weights_stand_in_for_missing_full_ones(copy):
    (copy / UNET).rename(copy / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    check_folder(copy)


def test_checking_imports_neither_torch_nor_diffusers(folder):
    program = (
        "import sys; from pds_nerfstudio.priors.check import check_prior\n"
        "from pds_nerfstudio.errors import UserError\n"
        f"check_prior({str(folder)!r})\n"
        f"try: check_prior({HUB_ID!r}); raise SystemExit('passed')\n"
        "except UserError: pass\n"
        "print(*{'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "/nonexistent"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("size", [10**9, 0, -1, "64", 64.5, [64], True])
def test_a_width_of_latents_that_no_machine_holds_is_named(copy, size):
    edit_json(copy / "unet" / "config.json", sample_size=size)
    with pytest.raises(UserError, match="sample_size"):
        check_prior(str(copy))


@pytest.mark.parametrize("blocks", [None, 4, [], [4] * 100, "ab"])
def test_a_vae_without_levels_is_named(copy, blocks):
    edit_json(copy / "vae" / "config.json", block_out_channels=blocks)
    with pytest.raises(UserError, match="block_out_channels"):
        check_prior(str(copy))


@given(
    st.integers(0, 2**64 - 1) | st.integers(0, 40),
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "data_offsets", "__metadata__"]), inner),
    ),
    st.binary(max_size=20),
)
def test_any_safetensors_header_is_whole_or_refused_in_a_sentence(tmp_path_factory, length, header, data):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + json.dumps(header).encode() + data)
    with contextlib.suppress(UserError):
        check_safetensors(path)


def shard(folder: Path, variant: str | None = None) -> None:
    """Write the U-Net's and the text encoder's weights again, in several files."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    for kind, part in ((UNet2DConditionModel, "unet"), (CLIPTextModel, "text_encoder")):
        network = kind.from_pretrained(folder / part)
        for path in (folder / part).glob("*.safetensors"):
            path.unlink()
        network.save_pretrained(folder / part, max_shard_size="20KB", variant=variant)
        assert len(list((folder / part).glob("*-of-*.safetensors"))) > 1


@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
def test_weights_in_several_files_are_the_same_prior(folder, copy, variant):
    from pds_nerfstudio.priors.load import load_prior

    shard(copy, variant)
    whole, sharded = (load_prior(str(path), "cpu") for path in (folder, copy))
    for part in ("unet", "text_encoder"):
        weights = getattr(whole, part).state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in getattr(sharded, part).state_dict().items())


def test_a_missing_file_of_several_is_named_and_their_list_may_name_nothing_else(copy):
    shard(copy)
    last = sorted((copy / "unet").glob("*-of-*.safetensors"))[-1]
    last.unlink()
    assert f"has no unet/{last.name}" in refusal(str(copy))
    index = copy / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for listed in ('{"a": "../elsewhere-1-of-1.safetensors"}', '{"a": ["b"]}', '{"a": "b-1-of-1.bin"}', "{}", "3"):
        index.write_text(f'{{"weight_map": {listed}}}')
        assert "has to list safetensors files beside it" in refusal(str(copy))


def test_of_a_hub_listing_all_files_of_a_list_of_weights_are_fetched(copy, monkeypatch):
    import huggingface_hub

    shard(copy)
    asked: list[str] = []
    listing = [str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()]
    others = ["unet/other-00001-of-00002.safetensors", "text_encoder/model.fp16-00001-of-00002.safetensors"]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: [*listing, *others])
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, allow_patterns: asked.extend(allow_patterns) or str(copy)
    )
    check.download(HUB_ID)
    assert {file for file in listing if "-of-" in file} < set(asked)
    assert not set(others) & set(asked)
