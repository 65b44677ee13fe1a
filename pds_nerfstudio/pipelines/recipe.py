"""An edit's settings by the recipe of its prior, where nobody has named them."""

from collections.abc import Container
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import BY_NAME
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.revise import ReviseConfig
from pds_nerfstudio.pipelines.settings_tree import change, part
from pds_nerfstudio.priors.recipe import CHOICE, read_recipe, read_wanted, recipe_of
from pds_nerfstudio.prompts import guess_ask
from pds_nerfstudio.scenes.families import family_of

STAGES = ("pipeline.edit_steps", "pipeline.refine_steps")
"""The steps of `pnr-edit`'s two stages."""


def follow(config: TrainerConfig, given: Container[str]) -> str:
    """Set what the recipe says and nobody has said otherwise, once; returns what was taken, in words.

    Args:
        config: of an edit, its prior and prompts known; changed in place.
        given: the settings that were named, by their dotted names.

    Raises:
        UserError: the recipe cannot be read, or sets what this method does not have.
    """
    pipeline = config.pipeline
    assert isinstance(pipeline, EditConfig)
    wanted = read_wanted(pipeline.run.recipe)
    if wanted.none or pipeline.run.followed:
        return ""
    recipe = recipe_of(pipeline.prior) if wanted.path is None else read_recipe(wanted.path)
    method = str(config.method_name).removesuffix("-splat")
    ask = wanted.ask or guess_ask(pipeline.src_prompt, pipeline.tgt_prompt)
    objective = getattr(pipeline, "by", None) if CHOICE in given else None
    found = recipe.settings(method, family_of(config) or "", ask, wanted.budgets, objective)
    taken = {name: value for name, value in found.items() if name not in given}
    if isinstance(pipeline, ReviseConfig):  # before what is set of the objective
        if (by := taken.get(CHOICE, pipeline.by)) not in tuple(BY_NAME):
            raise UserError(f"The recipe {recipe.path} sets {CHOICE} to {by!r}, which is no objective: mend it.")
        pipeline.by = by
        pipeline.choose_objective(given)
    for name, value in taken.items():
        try:
            change(config, name, _fitting(part(config, name), value))
        except (UserError, ValueError) as error:
            raise UserError(
                f"The recipe {recipe.path} sets {name} of {config.method_name}, which cannot be ({error}): mend it, or "
                "leave it out with --pipeline.recipe none."
            ) from error
    pipeline.run.followed = recipe.name
    absent = [word for word in wanted.budgets if all(rule.budget != word for rule in recipe.rules)]
    if absent:
        raise UserError(f"The recipe {recipe.path} has nothing for {absent[0]}: leave the word out.")
    if not taken:
        return ""
    asked = "" if ask is None else f", {ask}" + " as the prompts seem to ask" * (wanted.ask is None)
    how = "measured" if recipe.measured else "not measured"
    how += f", but not with {' '.join(wanted.budgets)}" * (recipe.measured and bool(wanted.budgets))
    shared = STAGES if "max_num_iterations" in given else ()  # by which that number is shared, and so replaces them
    values = ", ".join(f"{_short(name)} {value}" for name, value in taken.items() if name not in shared)
    return f"By the recipe {recipe.name} ({how}{asked}; --pipeline.recipe none for the method's own): {values}."


def _fitting(before: Any, value: Any) -> Any:
    """A value that can take the place of another: of its kind, unless either is None or "auto".

    Raises:
        UserError: it is of another kind.
    """
    kinds = [bool if isinstance(v, bool) else float if isinstance(v, int | float) else type(v) for v in (before, value)]
    if kinds[0] is not kinds[1] and not any(v is None or v == "auto" for v in (before, value)):
        raise UserError(f"{value!r} is of another kind than {before!r}")
    return float(value) if isinstance(before, float) and isinstance(value, int) else value


def _short(name: str) -> str:
    """A setting as it is printed, by its last name; of an optimiser also by its group of parameters."""
    parts = name.split(".")
    return f"{parts[1]} {parts[-1]}" if parts[0] == "optimizers" else parts[-1]
