"""Words that a prior learns from files: textual inversions (Gal et al. 2022), a vector or several for each.

The trap: a word of several vectors is as many tokens, so what a prompt says of it is rewritten before it is read
(`StableDiffusionPrior.token_ids`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken

from pds_nerfstudio.errors import UserError

if TYPE_CHECKING:
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior


@torch.no_grad()
def add_word(prior: "StableDiffusionPrior", file: Path) -> str:
    """Let prompts hold a textual inversion (Gal et al. 2022) under its file's name, which is returned.

    Raises:
        UserError: its vectors do not fit the text encoder, or prompts know the word already.
    """
    (vectors, *_) = load_file(file).values()
    vectors, name = torch.atleast_2d(vectors), file.stem
    table = prior.text_encoder.get_input_embeddings().weight
    if vectors.shape[1] != table.shape[1]:
        raise UserError(
            f"The textual inversion {file} has {vectors.shape[1]} numbers and the prior's words {table.shape[1]}: "
            "give one for the prior's own kind."
        )
    tokens = [name, *(f"{name}_{i}" for i in range(1, len(vectors)))]
    if any(token in prior.tokenizer.get_vocab() for token in tokens):
        raise UserError(f"The prior knows the word {name} already: give {file} another name.")
    prior.tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    prior.text_encoder.resize_token_embeddings(len(prior.tokenizer), mean_resizing=False)
    ids = prior.tokenizer.convert_tokens_to_ids(tokens)
    table = prior.text_encoder.get_input_embeddings().weight
    table[ids] = vectors.to(table)
    prior.text_encoder.requires_grad_(False)
    prior.words[name] = " ".join(tokens)
    prior.forget_texts()
    return name
