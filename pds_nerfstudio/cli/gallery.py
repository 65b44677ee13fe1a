"""`pds gallery`: many edits of one run, side by side on one page."""

import hashlib
import os
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.cli.edit import METHODS
from pds_nerfstudio.cli.render import FilmPath
from pds_nerfstudio.cli.running import Running, refuse_failures
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import file_name, from_json, require_writable, write_whole
from pds_nerfstudio.next_steps import say_loading, say_next, step
from pds_nerfstudio.prompts import check_prompts, unknown_words
from pds_nerfstudio.ranges import Steps, check_ranges
from pds_nerfstudio.runs import BY_CLOCK, Run, require_run
from pds_nerfstudio.text import choices, in_rich, printable

if TYPE_CHECKING:
    from pds_nerfstudio.evaluation.cells import Cell

PAGE, RECORDS = "gallery.html", "gallery.json"
ONLY_PAGE = "--only-page"
REFINES = "sdedit-refine"
NEED_NO_SOURCE = ("sds-edit",)
ROOM = 16 << 20
"""Bytes that a gallery takes at least."""


@dataclass
class Gallery:
    """Edit one run with several prompts, methods and seeds, and show all results on one page.

    The page is a single file with films that have a before/after slider, stills, numbers, settings, and the line that
    repeats each edit. Finished edits are kept: run the same line again to continue, or add prompts, methods or seeds.
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the run to edit: a reconstruction, or an edit to be edited further. It is never written to."""
    tgt_prompt: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(aliases=("--to",))] = ()
    """What the scene should show. Repeat the flag for each edit: --to "a photo of …" --to "a photo of …"."""
    src_prompt: Annotated[str, tyro.conf.arg(aliases=("--from",))] = ""
    """What the scene shows now. SDS does not need it."""
    methods: tuple[str, ...] = ("pnr-edit",)
    """Methods, named without -splat: pnr-edit, pds-edit, dds-edit … Write a method's settings in brackets:
    'pds-edit[pipeline.objective.guidance_scale=30]'. In a chain, 'pnr-edit+sdedit-refine', the second method starts
    from the result of the first."""
    seeds: Annotated[int, Ge(1), Le(1000)] = 1
    """Number of seeds. Every edit is made once with each of the seeds 0, 1, 2 and so on."""
    prior: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A hub id, a local diffusers folder, a LoRA's folder, "toybox" or "studio"."""
    edit_steps: Steps | None = None
    """Steps of the edits; by default the methods' own."""
    out: Path | None = None
    """Folder for all results; by default one in outputs/gallery, named after the run."""
    running: Annotated[Running, tyro.conf.arg(name="")] = field(default_factory=Running)
    path: FilmPath = "interpolated"
    """Camera path of the films: the training views in order, a smooth path through some of them, or one turn around the
    subject."""
    frames: Annotated[int, Ge(2), Le(100_000)] = 60
    """Frames of each film."""
    fps: Annotated[int, Ge(1), Le(240)] = 20
    """Frames per second."""
    resolution: Annotated[int, Ge(2), Le(8192)] | None = 512
    """Shorter side of films and stills, in pixels. Stills, and films of NeRFs, are no larger than the photographs."""
    export: bool = True
    """Also write splats as .ply files, and link to them from the page."""
    clip: str = "auto"
    """The CLIP model to measure with: a folder in transformers' layout, a hub id in the local cache, "toybox",
    "studio", or "auto", which chooses as `pds evaluate` does."""
    only_page: bool = False
    """Run no edits; only rebuild the page from finished ones."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Make the edits that are missing, then write the page and gallery.json."""
        run = self._check()
        self.running.require_cluster()
        out = (self.out or _folder_of(run)).resolve()
        require_writable(out, room=ROOM)
        console = Console(soft_wrap=True, highlight=False)
        if warning := unknown_words(self.prior, self.src_prompt, *self.tgt_prompt):
            console.print(f"[yellow]{in_rich(warning)}")
        say_loading(console)
        cells = self._cells(run, out, console)
        mine = [] if self.only_page else self.running.share_of(cells)
        from pds_nerfstudio.evaluation.summary import sentence

        failures = self.running.run(mine, console, sentence)
        if not self.running.is_shard:
            self._write(cells, out, console)
        refuse_failures(failures, len(mine))
        self._say_next(cells, console)

    def _check(self) -> Run:
        """The run, if this line can work as far as arguments and files tell.

        Raises:
            UserError: it cannot.
        """
        if not self.tgt_prompt:
            raise UserError('No target prompt is given: say what you want with --to "a photo of …".')
        if not self.methods:
            raise UserError(f"--methods names none: choose among {', '.join(METHODS)}.")
        for what, given in (("--to", self.tgt_prompt), ("--methods", self.methods)):
            if twice := next((value for value in given if given.count(value) > 1), None):
                raise UserError(f"{what} {twice!r} is given twice: leave one out.")
        from pds_nerfstudio.evaluation.rows import read_chain

        chains = {method: [link.method for link in read_chain(method)] for method in self.methods}
        for names in chains.values():
            for number, name in enumerate(names):
                known = (*METHODS, REFINES) if number else METHODS
                if name not in known:
                    raise UserError(f"There is no method {name!r}: {choices(name, known)}")
        needs_source = any(name not in NEED_NO_SOURCE for names in chains.values() for name in names)
        for prompt in self.tgt_prompt:
            check_prompts(self.src_prompt, prompt, needs_source=needs_source)
        run = require_run(self.run_folder, called="RUN")
        if run.data is None or not run.data.exists():
            raise UserError(f"The dataset {run.data} of {run.folder} is not there: put it back, or beside the run.")
        if run.is_edit and run.prompts[0] == self.src_prompt and run.prompts[1] in self.tgt_prompt:
            method = run.method.removesuffix("-splat")
            if method in (names[0] for names in chains.values()):
                raise UserError(
                    f"RUN {run.folder} is itself the edit by {method} to {run.prompts[1]!r}, which would be resumed: "
                    "give the run that it began with, or other prompts."
                )
        from pds_nerfstudio.priors.check import check_prior

        check_prior(self.prior)
        return run

    def _cells(self, run: Run, out: Path, console: Console) -> "list[Cell]":
        """Every edit, and that those which are there already are of this run and these settings."""
        from pds_nerfstudio.evaluation import cells as engine
        from pds_nerfstudio.evaluation.gallery import Look, OwnRun, OwnSettings, edits_of, look_again
        from pds_nerfstudio.evaluation.suite import Suite
        from pds_nerfstudio.scenes.source import find_run, load_source_state

        source = find_run(run.config_path, called="RUN")
        load_source_state(source)  # a checkpoint that is damaged is found before anything is made
        look = Look(self.path, self.frames, self.fps, self.resolution, self.export, self.clip)
        settings = OwnSettings(
            edit_steps=self.edit_steps, prior=self.prior, run=str(run.config_path.resolve()), step=run.last
        )
        benchmark = OwnRun(source.family, settings, look)
        suite = Suite("gallery", edits_of(self.src_prompt, self.tgt_prompt, out))
        cells = engine.plan_cells(suite, self.methods, benchmark, self.seeds, out)
        engine.check_records(cells)
        if not self.only_page and (again := look_again(cells, look)):
            console.print(f"{again:d} edits were filmed in another way, and are filmed and measured again.")
        return cells

    def _write(self, cells: "list[Cell]", out: Path, console: Console) -> None:
        from pds_nerfstudio.evaluation.gallery import made_by
        from pds_nerfstudio.evaluation.gallery_page import page
        from pds_nerfstudio.evaluation.records import read_raw_record, write_json

        done = [cell for cell in cells if cell.record_file.exists()]
        if not done:
            return
        line = shlex.join(_line_without())
        title = f"“{self.src_prompt}”" if self.src_prompt else str(self.run_folder)
        write_json(out / RECORDS, [read_raw_record(c.record_file) | {"run": str(made_by(c))} for c in done])
        write_whole(out / PAGE, page(cells, f"Edits of {title}", line, out))
        console.print(f"{in_rich(out / PAGE)}  [dim]to look at or to send to somebody")
        console.print(printable(out / RECORDS), markup=False)

    def _say_next(self, cells: "list[Cell]", console: Console) -> None:
        done = next((cell for cell in cells if cell.record_file.exists()), None)
        if done is None and self.only_page:
            raise UserError("No edit of this gallery has ended, so there is no page: leave --only-page out.")
        if self.running.is_shard or done is None:
            say_next(console, [step("when all shards have ended: the page", *_line_without("--shard"), ONLY_PAGE)])
            return
        from pds_nerfstudio.evaluation.gallery import made_by

        folder = made_by(done)
        say_next(
            console,
            [
                step("walk around an edit", "ns-viewer", "--load-config", folder / "config.yml"),
                step("find the runs of the others", "pds", "runs", done.out / "cells"),
                step("one seed more", *_line_without("--seeds"), "--seeds", self.seeds + 1),
            ],
        )


def _folder_of(run: Run) -> Path:
    """Where its gallery goes. Runs that are not named by the clock may share their names, and are told apart by where
    they are, unless a gallery of this one is there without that. Raises UserError where its experiment has no name for
    a file."""
    folder, galleries = run.folder.resolve(), Path("outputs/gallery")
    try:
        plain = galleries / f"{file_name(run.config.get('experiment_name'))}-{folder.name}"
    except ValueError as error:
        raise UserError(f"{run.config_path} gives its gallery no name ({error}): say where with --out.") from error
    if BY_CLOCK.match(folder.name) or _is_of(plain, run):
        return plain
    return plain.with_name(f"{plain.name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]}")


def _is_of(gallery: Path, run: Run) -> bool:
    """Whether a gallery's edits are of this run."""
    with suppress(OSError, ValueError, KeyError, TypeError, StopIteration):
        return from_json(next(gallery.glob("cells/*/record.json")))["settings"]["run"] == str(run.config_path.resolve())
    return False


def _line_without(*flags: str) -> list[str]:
    """This command as it was typed, without --only-page, and without some flags and their values."""
    words, left = ["pds"], sys.argv[1:]
    while left:
        word = left.pop(0)
        flag = word.partition("=")[0].replace("_", "-")
        if flag in flags:
            if "=" not in word and left and not left[0].startswith("--"):
                left.pop(0)
        elif flag != ONLY_PAGE:  # which takes no value: what follows may be the run
            words.append(word)
    return words
