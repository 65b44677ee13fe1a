"""What every command says about prompts that make no edit."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, Literal, NamedTuple

from pds_nerfstudio.children import is_a_stage
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import from_json
from pds_nerfstudio.priors.families import WORLDS

Ask = Literal["colour", "addition", "shape", "style", "object"]
"""What an edit can ask for, after the kinds of Le et al. 2024, section 4."""
LONGEST_WORDS = 48
"""Bytes of a prompt's words in the name of a run's folder."""
COLOUR = re.compile(
    "red|orange|yellow|green|cyan|blue|purple|violet|pink|magenta|brown|beige|black|white|gr[ae]y|golden|silver"
    "|turquoise|crimson|scarlet|teal"
    # and what things are made of
    "|wooden|marble|metal|brushed|polished|steel|brass|bronze|copper|chrome|ceramic|glazed|porcelain|clay|stone|granite"
    "|glass|plastic|leather"
)
"""What a thing looks like that remains what it is."""
STYLE = re.compile(
    r"\b(in the style of|(oil|watercolou?r|pencil|charcoal) (painting|drawing|sketch)|(painting|sketch|cartoon) of)\b"
)
NO_UNET = (
    "Cross-attention is read in U-Nets, and this prior is a transformer: find the words with --pipeline.region-by "
    "difference."
)
ADDED = re.compile(r"(wearing|holding|carrying|beside|next to|with (an?|the|some|two|three)) \w")
"""How what is added is said behind a prompt. "with his arms raised" adds nothing."""


def check_prompts(src_prompt: str, tgt_prompt: str, flags: str = "--", needs_source: bool = True) -> None:
    """Raise a UserError if a prompt is empty, or both are the same.

    Args:
        flags: what stands before "src-prompt" and "tgt-prompt" on the command line.
        needs_source: whether the source prompt means anything to the objective.
    """
    source, target = ("--from", "--to") if flags == "--" else (f"{flags}src-prompt", f"{flags}tgt-prompt")
    for flag, prompt in ((source, src_prompt), (target, tgt_prompt)):
        if not prompt.isascii() and any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise UserError(f"The prompt of {flag} is not in UTF-8: type it again in a terminal that is.")
    if not tgt_prompt.strip():
        raise UserError(f'The target prompt is empty: say what you want with {target} "a photo of …".')
    if not needs_source:
        return
    if not src_prompt.strip():
        raise UserError(f'The source prompt is empty: say what is there, {source} "a photo of …".')
    if src_prompt.strip() == tgt_prompt.strip():
        raise UserError("The source and the target prompt are the same, so nothing would change: give two.")
    if _folded(src_prompt) == _folded(tgt_prompt):
        raise UserError(
            "The source and the target prompt differ in capitals and spaces alone, which no prior reads, so nothing "
            "would change: give two."
        )


def require_read_differently(src_prompt: str, tgt_prompt: str, readers: Sequence[tuple[Any, int]]) -> None:
    """Raise UserError where a prior reads two prompts as one: they differ beyond its last token.

    Args:
        readers: the prior's tokenizers, and how many tokens of each are read.
    """
    for tokenizer, length in readers:
        source, target = (tokenizer(p, truncation=True, max_length=length).input_ids for p in (src_prompt, tgt_prompt))
        if source != target:
            return
    length = max(length for _, length in readers)
    raise UserError(
        f"This prior reads the first {length} tokens of a prompt, and in these source and target prompt are the same: "
        "say what differs earlier, or shorten both."
    )


def unknown_words(prior: str, *prompts: str) -> str:
    """A sentence about words that a prior of a closed vocabulary does not know; empty where it knows them all, and in a
    stage of another command, which has said it."""
    unknown = [] if is_a_stage() else _unknown(prior, *prompts)
    if not unknown:
        return ""
    *before, last = map(repr, dict.fromkeys(unknown))
    listed = f"{', '.join(before)} or {last}" if before else last
    known = ", ".join(sorted(_vocabulary(prior)))
    return f"The {WORLDS[prior]} prior does not know {listed}, and will not draw what that means. It knows {known}."


def require_known(prior: str, words: str, flag: str) -> None:
    """Raise UserError where a prior of a closed vocabulary knows none of the words that name a region."""
    asked = re.findall(r"\w+", words)
    if asked and len(_unknown(prior, words)) == len(asked):
        known = ", ".join(sorted(_vocabulary(prior)))
        raise UserError(f"{flag} {words!r}: the {WORLDS[prior]} prior knows none of these words. It knows {known}.")


def _unknown(prior: str, *prompts: str) -> list[str]:
    if prior not in WORLDS:
        return []
    known = _vocabulary(prior)
    return [word for prompt in prompts for word in re.findall(r"\w+", prompt.lower()) if word not in known]


def _vocabulary(prior: str) -> frozenset[str]:
    """What a prior of this package can be told: words of its world that are one token to it."""
    if WORLDS[prior] == "studio":
        from pds_nerfstudio.studio.spec import words
    else:
        from pds_nerfstudio.toybox.spec import words
    from pds_nerfstudio.priors.check import FOLDERS

    tokens = from_json(FOLDERS[prior] / "tokenizer" / "vocab.json")
    return frozenset(word for word in words() if f"{word}</w>" in tokens)


def guess_ask(src_prompt: str, tgt_prompt: str) -> Ask | None:
    """What two prompts ask for, where their words leave little doubt; None elsewhere.

    A style is named; an addition is said behind or inside the source's prompt; for a colour, as what a material counts
    too, only its words change.
    """
    source, target = _words(src_prompt), _words(tgt_prompt)
    if STYLE.search(" ".join(target)) and not STYLE.search(" ".join(source)):
        return "style"
    if not source or source == target:
        return None
    same = [a == b for a, b in zip(source, target, strict=False)]
    if all(_is_of_colours(*words) for words in differing(source, target)):
        return "colour"
    if len(source) == len(target):
        return None
    behind = len(source) - len(common_end(source, target))
    added = len(target) - len(source)
    if added > 0 and all(same[:behind]) and ADDED.match(" ".join(target[behind : behind + added])):
        return "addition"
    return None


def differing(source: list[str], target: list[str]) -> list[tuple[list[str], list[str]]]:
    """The runs of words in which two lists differ: what each has there."""
    changes = SequenceMatcher(a=source, b=target, autojunk=False).get_opcodes()
    return [(source[a:b], target[c:d]) for kind, a, b, c, d in changes if kind != "equal"]


def _is_of_colours(before: list[str], after: list[str]) -> bool:
    """Whether both name some, or the article alone goes with what follows it."""
    if {*before, *after} == {"a", "an"}:
        return True
    named = [[word for word in words if word not in ("a", "an")] for words in (before, after)]
    return all(words and all(map(COLOUR.fullmatch, words)) for words in named)


def common_end(source: list[str], target: list[str]) -> list[str]:
    """The longest list of words that both end with."""
    shared: list[str] = []
    for a, b in zip(reversed(source), reversed(target), strict=False):
        if a != b:
            break
        shared.insert(0, a)
    return shared


def folder_words(src_prompt: str, tgt_prompt: str) -> str:
    """What the target prompt says from where it leaves the source prompt on, as part of a folder's name.

    "a photo of a man" and "a photo of a man raising his arms" give "raising-his-arms". At most `LONGEST_WORDS` bytes,
    whole words; empty for prompts without a word.
    """
    source, target = _words(src_prompt), _words(tgt_prompt)
    begin = next((i for i, word in enumerate(target) if i >= len(source) or word != source[i]), len(target))
    if begin == len(target):  # it only leaves something out
        begin = 3 if target[:3] in (["a", "photo", "of"], ["a", "drawing", "of"]) else 0
    kept = target[begin:]
    if kept and kept[0] in ("a", "an", "the"):
        kept = kept[1:]
    while kept and len("-".join(kept).encode()) > LONGEST_WORDS:
        kept = kept[:-1]
    return "-".join(kept)


def _words(prompt: str) -> list[str]:
    return re.findall(r"\w+", prompt.lower())


def _folded(prompt: str) -> str:
    return " ".join(prompt.split()).lower()


class Sought(NamedTuple):
    """Words that are looked for, in a prompt that has them."""

    prompt: str
    """A prompt with the words."""
    words: str
    """The words as the prompt has them, without an article."""

    @property
    def without(self) -> str:
        """The prompt without the words."""
        return " ".join(_whole(self.words).sub(" ", self.prompt, count=1).split())


def sought(words: str, prompt: str) -> Sought:
    """Words in `prompt` where it has them, else by themselves. "the ball" is looked for as "ball"."""
    words = " ".join(words.split())
    core = re.sub(r"^(the|an?) ", "", words, flags=re.IGNORECASE)
    if match := _whole(core).search(prompt):
        return Sought(prompt, match[0])
    return Sought(core, core)


def _whole(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE)
