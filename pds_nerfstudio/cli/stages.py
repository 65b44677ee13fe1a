"""The stages of `pds edit`: one command each, whether it is finished, and what goes on with one that was interrupted.

    OUT/edit/METHOD/run              what the stage makes
    OUT/edit/METHOD/run.1, run.2 …   the same up to where it was interrupted: the next one begins with its checkpoint

A training says itself how far it is: by its own checkpoint and its own settings, whatever `edit.json` says.
"""

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.flags import refuse_mistyped, unknown_flags
from pds_nerfstudio.next_steps import LOADING
from pds_nerfstudio.runs import require_run

MAY_BE_GIVEN = ("viewer.quit-on-train-completion",)
"""What `pds edit` sets in a stage, and a user may set otherwise: the viewer then waits for Ctrl-C."""


@dataclass(frozen=True)
class Stage:
    """One command, and where its result is."""

    name: str
    command: tuple[str, ...]
    result: Path
    """What is there when it has ended: a file or a folder; of a training, its run."""
    trains: bool = False
    """Whether it is `ns-train`."""

    @property
    def line(self) -> str:
        """The command as it can be typed."""
        return shlex.join(self.command)

    @property
    def parts(self) -> list[Path]:
        """What was interrupted of it, the latest last."""
        numbered = {int(n): path for path in self.result.parent.glob("run.*") if (n := path.suffix[1:]).isdigit()}
        return [numbered[number] for number in sorted(numbered)] if self.trains else []

    @property
    def leads_on(self) -> bool:
        """Whether there is a checkpoint of it that would be lost if it began anew."""
        return self.trains and (progress(self.result) is not None or bool(self.parts))

    def has_result(self) -> bool:
        """Whether it has made what the next one needs."""
        if not self.trains:
            return self.result.exists()
        done = progress(self.result)
        return done is not None and done[0] >= done[1]

    def links_below(self, folder: Path) -> list[Path]:
        """What of its places in `folder` is a link, which leads elsewhere."""
        inside = self.result.relative_to(folder)
        places = [folder / part for part in (inside, *inside.parents) if part != Path()] + self.parts
        return [place for place in places if place.is_symlink()]

    def next_command(self) -> tuple[str, ...]:
        """What runs it now: its command, or what goes on from its last checkpoint, for which it makes room."""
        if not self.trains:
            return self.command
        if self.result.exists():
            if progress(self.result) is None:
                shutil.rmtree(self.result)
            else:
                last = self.parts[-1] if self.parts else self.result.with_suffix(".0")
                self.result.rename(last.with_suffix(f".{int(last.suffix[1:]) + 1}"))
        return self.resuming_command(self.parts[-1]) if self.parts else self.command

    def resuming_command(self, part: Path) -> tuple[str, ...]:
        """What goes on with an interrupted training. Its settings are those of its run, which may have been changed
        in the viewer since; of the command only what belongs to the machine is named again."""
        from pds_nerfstudio.pipelines.command_line import of_the_machine

        program, method, *arguments = self.command
        return program, method, "--load-dir", str(part), *of_the_machine(arguments)

    def opens_a_page(self) -> bool:
        """Whether the viewer shows it while it runs."""
        if not self.trains:
            return False
        shown = "viewer"  # every method's own
        for word, value in zip(self.command, (*self.command[1:], ""), strict=True):
            if word.partition("=")[0] == "--vis":
                shown = word.partition("=")[2] or value
        return "viewer" in shown


def progress(run: Path) -> tuple[int, int] | None:
    """How many steps a training has in its last checkpoint, and how many it is to have; None without a checkpoint.

    Raises:
        UserError: its settings cannot be read.
    """
    if not any(run.glob("*/step-*.ckpt")):
        return None
    found = require_run(run, called="The stage's run")
    return found.steps_done, found.steps


def words_of(flag: str, text: str) -> list[str]:
    """The arguments in one string, split as a shell splits them.

    Raises:
        UserError: a quote is open.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{flag} {text!r} cannot be split into arguments ({error}): close its quotes.") from error


def refuse_unknown(stage: Stage, flag: str, words: Sequence[str]) -> None:
    """Refuse flags that a stage's command does not have, and values that it cannot read, before any stage runs: the
    last one may begin after hours.

    Args:
        flag: by which the words were given.
        words: what was given for this stage, with which its command ends.

    Raises:
        UserError: a flag is mistyped or unknown, or the command has it already, or a value cannot be read.
    """
    if not words:
        return
    own = set(unknown_flags(stage.command[: -len(words)], MAY_BE_GIVEN))
    if twice := [word for word in unknown_flags(words, ()) if word.replace("_", "-") in own]:
        raise UserError(f"{flag} holds {twice[0]}, which pds edit sets itself: leave it out (pds edit --help).")
    try:
        _read(stage, flag, words)
    except SystemExit as error:
        raise UserError(
            f"{flag} holds what {stage.command[1]} cannot read, for the reason above: correct it."
        ) from error


def _read(stage: Stage, flag: str, words: Sequence[str]) -> None:
    """Read a stage's command as it will read it itself.

    Raises:
        UserError: a flag is mistyped or unknown, or a value out of its range.
        SystemExit: a value cannot be read, which has been said.
    """
    program, name, *_ = stage.command
    if program == "pds":
        from pds_nerfstudio.cli import command_of

        command_of(stage.command[1:])
        return
    print(f"{flag} is read first. {LOADING}", file=sys.__stderr__)
    from nerfstudio.configs.method_configs import all_methods

    from pds_nerfstudio.pipelines.command_line import flag_names, flags_with_datasets, parsed
    from pds_nerfstudio.pipelines.settings_tree import check_settings
    from pds_nerfstudio.ranges import require_steps

    config = all_methods[name]
    known = flag_names(config)
    if unknown_flags(words, known):  # perhaps a dataset's, for whose names the whole parser is built
        known |= flags_with_datasets(config)
    refuse_mistyped(words, f"{program} {name}", lambda: known)
    told: Any = parsed(config, words, f"{program} {name}")
    require_steps(told)
    check_settings(told.pipeline)
    told.pipeline.region.check()
    told.pipeline.view.check()
