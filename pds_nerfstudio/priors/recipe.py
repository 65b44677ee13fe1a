"""Recipes: the settings with which a prior's edits come out well, in a file beside its weights.

    recipe.json ─► rules that fit method, family, what is asked and what there is ─► whatever nobody has named

The methods' own defaults are the papers', for Stable Diffusion and tens of thousands of steps. Another prior needs
others, and who trained it knows them best. A folder without a `recipe.json` gets one of `recipes/`:

    {"name": "…", "source": "where the values come from", "measured": true,
     "rules": [{"for": {"methods": ["pds-edit"], "family": "splatfacto", "asks": ["colour"], "budget": "quick"},
                "set": {"pipeline.objective.guidance_scale": 7.5}}]}

with any of the four conditions left out; of rules that set the same, the last one counts. Names are those of
`ns-train`'s flags, methods are without their -splat, and a family may be "2d": photographs alone (`pds preview`).
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any, Literal, get_args

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import read_json
from pds_nerfstudio.priors.check import local_folder, lora_folder
from pds_nerfstudio.priors.families import FLUX
from pds_nerfstudio.priors.folder import camera_layout, family_in, is_flow
from pds_nerfstudio.priors.folder import read_json as read_config
from pds_nerfstudio.prompts import Ask, guess_ask
from pds_nerfstudio.text import choices

FILE = "recipe.json"
COMMON, OF_VIEWS, OF_FLOWS, OF_FLUX = (
    Path(__file__).parent / "recipes" / f"{name}.json" for name in ("stable_diffusion", "multi_view", "flow", "flux")
)
"""The recipes of priors that have none of their own: the second of those that take cameras, the third of flows, and the
last of FLUX, which is told its guidance."""
NONE = "none"
Budget = Literal["quick", "quality", "low-vram"]
OPEN = ("max_num_iterations", "optimizers.", "pipeline.")
CLOSED = (
    *("_target", "src_prompt", "tgt_prompt", "prior", "lora", "embedding", "datamanager", "model", "masks", "replay"),
    "region",
    *("recipe", "followed", "seed", "base", "base_step", "base_checksum", "carry_source", "carried", "prior_device"),
)
"""A file beside somebody's weights sets how an edit goes: of what begins like `OPEN`, nothing that says of what it is
made, where it lies, or where it is computed."""
CHOICE = "pipeline.by"
OF_OBJECTIVE = (CHOICE, "pipeline.objective.", "pipeline.reconstruction", "pipeline.anneal")
"""The revising objective of Perturb-and-Revise, and what is chosen with it."""
CONDITIONS = {"methods": list, "family": str, "asks": list, "budget": str}
"""What a rule may depend on."""


@dataclass(frozen=True)
class Rule:
    """Settings, and when they apply."""

    settings: Mapping[str, Any]
    """By the dotted names of `ns-train`'s flags."""
    methods: tuple[str, ...] | None = None
    family: str | None = None
    asks: tuple[str, ...] | None = None
    budget: str | None = None

    def applies(self, method: str, family: str, ask: str | None, budgets: Container[str]) -> bool:
        """Whether every condition that it has holds."""
        return (
            (self.methods is None or method in self.methods)
            and self.family in (None, family)
            and (self.asks is None or ask in self.asks)
            and (self.budget is None or self.budget in budgets)
        )

    def settings_for(self, objective: str | None) -> Mapping[str, Any]:
        """What it sets where that objective was asked for: guidance that goes with another one does not."""
        if objective in (None, self.settings.get(CHOICE, objective)):
            return self.settings
        return {name: value for name, value in self.settings.items() if not name.startswith(OF_OBJECTIVE)}


@dataclass(frozen=True)
class Recipe:
    """A file's content."""

    name: str
    source: str
    """Where the values come from."""
    measured: bool
    """Whether edits by them were measured."""
    rules: tuple[Rule, ...]
    path: Path

    def settings(
        self,
        method: str,
        family: str,
        ask: Ask | None = None,
        budgets: Sequence[str] = (),
        objective: str | None = None,
    ) -> dict[str, Any]:
        """What it sets, by the dotted names of `ns-train`'s flags.

        Args:
            method: without its -splat.
            family: nerfacto, splatfacto or 2d.
            ask: what the prompts ask for; None where that is not known.
            budgets: what there is to spend.
            objective: the revising one that was asked for by name; None where the recipe may choose.
        """
        found: dict[str, Any] = {}
        for rule in self.rules:
            if rule.applies(method, family, ask, budgets):
                found |= rule.settings_for(objective)
        return found


@dataclass(frozen=True)
class Wanted:
    """What --pipeline.recipe asked for."""

    path: Path | None = None
    """A recipe other than the prior's."""
    ask: Ask | None = None
    budgets: tuple[str, ...] = ()
    none: bool = False


def read_wanted(words: Sequence[str], flag: str = "--pipeline.recipe") -> Wanted:
    """What the words of --pipeline.recipe mean.

    Args:
        flag: what a command calls it.

    Raises:
        UserError: they contradict each other, or one is neither known nor a file.
    """
    words = [part for word in words for part in ([word] if Path(word).exists() else word.split(",")) if part]
    if NONE in words:
        if len(words) > 1:
            raise UserError(f"{flag} none takes nothing from any recipe: leave the other words out.")
        return Wanted(none=True)
    asks: list[Any] = [word for word in words if word in get_args(Ask)]
    budgets = tuple(word for word in words if word in get_args(Budget))
    paths = [Path(word).expanduser() for word in words if word not in asks and word not in budgets]
    if len(set(asks)) > 1 or len(paths) > 1:
        raise UserError(f"{flag} {' '.join(words)}: give one kind of edit and one file at most.")
    if paths and not paths[0].exists():
        known = NONE, *get_args(Ask), *get_args(Budget)
        raise UserError(f"{flag} {paths[0]} is no file: {choices(str(paths[0]), known, 'give one, or a word of')}")
    path = paths[0] / FILE if paths and paths[0].is_dir() else (paths or [None])[0]
    return Wanted(path, asks[0] if asks else None, budgets)


def recipe_of(prior: str) -> Recipe:
    """The recipe that lies in a prior's folder; of a LoRA in its own or in that of the prior it changes."""
    folder = local_folder(prior)
    own = (place / FILE for place in (lora_folder(prior), folder) if place is not None)
    return read_recipe(next(filter(Path.is_file, own), _common(folder)))


def _common(folder: Path | None) -> Path:
    """The recipe for a folder without its own."""
    if folder is None:
        return COMMON
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if family_in(folder) is FLUX:
        return OF_FLUX
    if scheduler.is_file() and is_flow(read_config(scheduler)):
        return OF_FLOWS
    has_cameras = (folder / "unet" / "config.json").is_file() and camera_layout(folder) is not None
    return OF_VIEWS if has_cameras else COMMON


def read_recipe(path: Path) -> Recipe:
    """A recipe's file.

    Raises:
        UserError: it cannot be read, or has something else than what the head of this module describes.
    """
    remedy = "mend it, or leave it out with --pipeline.recipe none"
    content = read_json(path, dict, "The recipe", remedy)
    kinds = {"name": str, "source": str, "measured": bool, "rules": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    if wrong or content.keys() - kinds.keys():
        name = (wrong or sorted(content.keys() - kinds.keys()))[0]
        raise UserError(f"The recipe {path} is damaged ({name!r} is missing, unknown or of another type): {remedy}.")
    rules = []
    for number, entry in enumerate(content["rules"], start=1):
        rule = _read_rule(entry)
        if rule is None:
            raise UserError(
                f"The recipe {path} is damaged (rule {number} is not of the form "
                f'{{"for": {{{", ".join(CONDITIONS)}}}, "set": {{…}}}}): {remedy}.'
            )
        if closed := next(filterfalse(_may_be_set, rule.settings), None):
            raise UserError(f"The recipe {path} sets {closed}, which is for the command line alone: {remedy}.")
        rules.append(rule)
    return Recipe(content["name"], content["source"], content["measured"], tuple(rules), path)


def _read_rule(entry: Any) -> Rule | None:
    """None for what is no rule."""
    if not isinstance(entry, dict) or not entry.keys() <= {"for", "set"}:
        return None
    where, settings = entry.get("for", {}), entry.get("set")
    if not isinstance(where, dict) or not isinstance(settings, dict):
        return None
    if any(not isinstance(value, CONDITIONS.get(name, ())) for name, value in where.items()):
        return None
    conditions: Any = _with_tuples(where)
    return Rule(_with_tuples(settings), **conditions)


def _may_be_set(name: str) -> bool:
    return name.startswith(OPEN) and name.removeprefix("pipeline.").partition(".")[0] not in CLOSED


def _with_tuples(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The same with tuples for JSON's lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}


def editor_settings(prior: str, editor: str, prompts: tuple[str, str]) -> dict[str, Any]:
    """What the recipe of a prior says about an objective, or SDEdit ("sdedit"), that edits photographs alone."""
    ask = guess_ask(*prompts)
    if editor == "sdedit":
        found, of_editor = recipe_of(prior).settings("sdedit-refine", "2d", ask), "pipeline."
    else:
        found, of_editor = recipe_of(prior).settings(f"{editor}-edit", "2d", ask), "pipeline.objective."
    return _of(found, of_editor)


def revising(prior: str, family: str, prompts: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """The objective by which `pnr-edit` revises a scene of that family by the recipe of a prior, and its settings."""
    found = recipe_of(prior).settings("pnr-edit", family, guess_ask(*prompts))
    return found.get(CHOICE, "pds"), _of(found, "pipeline.objective.")


def _of(found: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The settings of a group itself, by their last names."""
    named = {name.removeprefix(group): value for name, value in found.items() if name.startswith(group)}
    return {name: value for name, value in named.items() if "." not in name}
