"""A source prompt by a captioning model that lies here: which one is taken, and what becomes of what it says."""

import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.caption import as_prompt, find_captioner, propose_caption

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "red", "can", "on", "the", "floor"]


@pytest.fixture(scope="session")
def captioner(tmp_path_factory):
    """A BLIP of random weights that knows a dozen words, in its own format."""
    folder = tmp_path_factory.mktemp("captioner")
    vocabulary = folder / "words.txt"
    vocabulary.write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(str(vocabulary))
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    ends = {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    vision = small | {"image_size": 32, "patch_size": 16}
    config = BlipConfig(text_config=small | text | ends, vision_config=vision, projection_dim=16)
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder, safe_serialization=True)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_a_model_in_transformers_own_format_is_loaded_and_asked(captioner, tmp_path):
    for i, colour in enumerate(("red", "blue", "white")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{i}.png")
    assert find_captioner(str(captioner)) == captioner
    said = propose_caption(captioner, sorted(tmp_path.glob("*.png")))
    assert said == "" or said.startswith(("a photo of ", "a "))
    assert said == propose_caption(captioner, sorted(tmp_path.glob("*.png")))


def test_what_is_no_model_is_one_sentence(captioner, tmp_path):
    assert find_captioner("auto") is None  # there is none on this machine
    for name in ("nowhere", str(tmp_path), "no such/thing/here"):
        with pytest.raises(UserError, match="no captioning model"):
            find_captioner(name)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be loaded"):
        propose_caption(tmp_path, [])
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"picture\.png cannot be read"):
        propose_caption(captioner, [tmp_path / "picture.png"])


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [
        ("A man standing in a field.", "a photo of a man standing in a field"),
        ("a photo of  a fox", "a photo of a fox"),
        ("A picture of a can", "A picture of a can"),
        ("", ""),
    ],
)
def test_a_caption_becomes_a_prompt(caption, prompt):
    assert as_prompt(caption) == prompt
