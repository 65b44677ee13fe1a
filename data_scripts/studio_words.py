"""What the studio prior and its judge are told of a scene."""

from itertools import product
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from pds_nerfstudio.studio.spec import all_specs
from pds_nerfstudio.toybox.tokenizer import learn_tokenizer

EVERY = list(all_specs())


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of studio is one token."""
    silences = list(product((True, False), repeat=3))
    return learn_tokenizer({spec.prompt(*said) for spec in EVERY for said in silences}, folder)


def random_caption(number: int) -> str:
    """Of the scene of that number: one in ten empty, one in eight without the material, every other without the room.

    Every other without the light.
    """
    empty, material, room, light = torch.rand(4).tolist()
    return "" if empty < 0.1 else EVERY[number].prompt(material > 0.125, room > 0.5, light > 0.5)
