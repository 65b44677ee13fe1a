"""What every command says about prompts that make no edit."""

import re
from typing import Any

from pds_nerfstudio.errors import UserError


def check_prompts(src_prompt: str, tgt_prompt: str, flags: str = "--", needs_source: bool = True) -> None:
    """Raise a UserError if a prompt is empty, or both are the same.

    Args:
        flags: what stands before "src-prompt" and "tgt-prompt" on the command line.
        needs_source: whether the source prompt means anything to the objective.
    """
    if not tgt_prompt.strip():
        raise UserError(f'The target prompt is empty: say what you want with {flags}tgt-prompt "a photo of …".')
    if not needs_source:
        return
    if not src_prompt.strip():
        raise UserError(f'The source prompt is empty: say what is there, {flags}src-prompt "a photo of …".')
    if src_prompt.strip() == tgt_prompt.strip():
        raise UserError("The source and the target prompt are the same, so nothing would change: give two.")
    if _folded(src_prompt) == _folded(tgt_prompt):
        raise UserError(
            "The source and the target prompt differ in capitals and spaces alone, which no prior reads, so nothing "
            "would change: give two."
        )


def require_read_differently(src_prompt: str, tgt_prompt: str, tokenizer: Any) -> None:
    """Raise UserError where a prior reads two prompts as one: they differ beyond its last token.

    Args:
        tokenizer: the prior's, which knows how many tokens it reads.
    """
    length = tokenizer.model_max_length
    read = [tokenizer(text, truncation=True, max_length=length).input_ids for text in (src_prompt, tgt_prompt)]
    if read[0] == read[1]:
        raise UserError(
            f"This prior reads the first {length} tokens of a prompt, and in these source and target prompt are the "
            "same: say what differs earlier, or shorten both."
        )


def unknown_words(prior: str, *prompts: str) -> str:
    """A sentence about words that a prior of a closed vocabulary does not know; empty where it knows them all."""
    if prior != "toybox":
        return ""
    from pds_nerfstudio.toybox.spec import words

    known = words()
    unknown = [word for prompt in prompts for word in re.findall(r"\w+", prompt.lower()) if word not in known]
    if not unknown:
        return ""
    return (
        f"The toybox prior does not know {', '.join(map(repr, dict.fromkeys(unknown)))} and will not draw what they "
        f"mean. It knows {', '.join(sorted(known))}."
    )


def _folded(prompt: str) -> str:
    return " ".join(prompt.split()).lower()
