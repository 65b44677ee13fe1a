"""Where a training of studio's networks may begin: as the packaged ones, word by word."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from pds_nerfstudio.priors.check import STUDIO

JUDGE = STUDIO.with_name("clip")
TOKENS = "token_embedding.weight"
"""How the weights of a text encoder's tokens end."""


@torch.no_grad()
def begin_as(module: nn.Module, packaged: nn.Module, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Give a network with a text encoder the weights of another whose tokenizer is in FOLDER.

    Words that both know keep their embeddings, whatever their numbers; the others stay as they are.
    """
    before = CLIPTokenizer.from_pretrained(folder).get_vocab()
    now = tokenizer.get_vocab()
    shared = [(number, before[word]) for word, number in now.items() if word in before]
    to, of = (torch.tensor(numbers) for numbers in zip(*shared, strict=True))
    own = module.state_dict()

    def taken(name: str, value: Tensor) -> Tensor:
        if not name.endswith(TOKENS):
            return value
        rows = own[name].clone()
        rows[to] = value[of].to(rows)
        return rows

    module.load_state_dict({name: taken(name, value.float()) for name, value in packaged.state_dict().items()})
