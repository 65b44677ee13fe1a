"""What to type next: the lines with which commands and trainings end, each with a word on what it is for.

A line can be copied as it is: what it is for stands behind a # and means nothing to a shell.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pds_nerfstudio.children import is_a_stage
from pds_nerfstudio.files import from_json
from pds_nerfstudio.text import printable

LOADING = "nerfstudio is loading: the next line comes in some ten seconds, or more on a busy machine."
PROMPTS = ("--from", "what it shows", "--to", "what it should show")


@dataclass(frozen=True)
class NextStep:
    """A command, and what it is for."""

    command: tuple[str, ...]
    purpose: str

    def __str__(self) -> str:
        return f"{shlex.join(self.command)}   # {self.purpose}"


def step(purpose: str, *words: object) -> NextStep:
    """A command made of these words."""
    return NextStep(tuple(map(str, words)), purpose)


def say_next(console: Console, steps: Iterable[NextStep], title: str = "Next:") -> None:
    """Print the steps, one to a line; as a stage of another command, nothing."""
    if is_a_stage():
        return
    steps = list(steps)
    if steps:
        console.print(title, markup=False, highlight=False)
    for one in steps:
        console.print(f"  {printable(one)}", soft_wrap=True, markup=False, highlight=False)


def say_loading(console: Console) -> None:
    """Announce the import of nerfstudio, during which nothing is printed; as a stage of another command, nothing."""
    if not is_a_stage():
        console.print(LOADING, style="dim", highlight=False)


def after_reconstruction(folder: Path, data: Path | None = None) -> list[NextStep]:
    """What to do with a scene that can be edited.

    Args:
        folder: its run's.
        data: its dataset's, where that is known.
    """
    asked = PROMPTS if data is None else described_in(data.parent / "edit.json")
    return [
        step("look at it", "ns-viewer", "--load-config", folder / "config.yml"),
        step("try prompts on its photographs", "pds", "preview", folder, *asked),
        step("edit it from start to end", "pds", "edit", folder, *asked),
    ]


def reconstructing(scene: Path, settings: Iterable[object]) -> NextStep:
    """What reconstructs a scene that `pds toybox` or `pds studio` has written.

    Args:
        scene: its folder, after which its runs are named.
        settings: flags that its photographs need.
    """
    line = ("ns-train", "source-splatfacto", "--data", scene / "source", "--experiment-name", scene.name)
    return step("reconstruct it", *line, *settings)


def described_in(path: Path) -> tuple[str, ...]:
    """The prompts of a scene that `pds toybox` or `pds studio` has made, and the prior that knows it, as flags; of any
    other, words in their place."""
    try:
        described = from_json(path)
        asked = ("--from", described["source_prompt"], "--to", described["target_prompt"])
        asked += ("--prior", described["prior"]) if "prior" in described else ()
    except (OSError, ValueError, KeyError, TypeError):
        return PROMPTS
    return tuple(map(str, asked))


def after_edit(folder: Path, whole: Path | None = None) -> list[NextStep]:
    """What to do with an edited scene, and has not been done: to look at it first, to take it elsewhere last.

    Args:
        folder: its run's.
        whole: the folder of the `pds edit` that it is the result of.
    """
    given = folder if whole is None else whole
    films, numbers = given / "renders", given / "evaluation"
    return [
        step("walk around it", "ns-viewer", "--load-config", folder / "config.yml"),
        *([] if films.exists() else [step("film it before and after", "pds", "render", given)]),
        *([] if numbers.exists() else [step("measure it", "pds", "evaluate", given)]),
        step("splats or meshes for other programs", "pds", "render", given, "--export", "--paths", "--no-held-out"),
    ]


def resuming(method: str, folder: Path, is_edit: bool) -> NextStep:
    """What goes on with an interrupted training; a reconstruction needs its other flags again."""
    purpose = "go on" if is_edit else "go on, with the other flags as they were"
    return step(purpose, "ns-train", method, "--load-dir", folder if is_edit else folder / "nerfstudio_models")
