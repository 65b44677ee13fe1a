"""A CLIP tokenizer whose byte pairs were learnt on toybox captions: every word of the toy world is one token."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from pds_nerfstudio.toybox.spec import all_specs

MAX_TOKENS = 24


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Toybox's tokenizer; see `learn_tokenizer`."""
    captions = {spec.prompt(c, f) for spec in all_specs() for c in (True, False) for f in (True, False)}
    return learn_tokenizer(captions, folder)


def learn_tokenizer(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Learns the byte pairs of captions, so that each of their words is one token.

    Writes `vocab.json` and `merges.txt` to `folder`; the same captions give the same files.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        end_of_word_suffix="</w>",
        special_tokens=[*sorted(letters), *(letter + "</w>" for letter in sorted(letters))],
        show_progress=False,
    )
    bpe.train_from_iterator(sorted(captions), trainer)
    learnt = json.loads(bpe.to_str())["model"]
    vocabulary = dict(sorted(learnt["vocab"].items(), key=lambda item: item[1]))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    merges = [" ".join(pair) for pair in learnt["merges"]]

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS)
