"""Edits of one run of a user's: what `pds gallery` runs as cells, and what of each it keeps to be looked at.

    OUT/scenes/PATH/before.mp4        the scene that all edits begin with, along one path of cameras
    OUT/cells/EDIT.METHOD.SEED/       one edit: its run, after.mp4 on the same path, stills, splat.ply, and its record

There is no known answer; edits are measured as `pds evaluate` measures them. How films look is no part of what an edit
is: with another look, edits are filmed and measured again, and not made again.
"""

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from nerfstudio.models.base_model import Model

from pds_nerfstudio.evaluation.before_after import Pair, load_pair, load_run, plan_pair
from pds_nerfstudio.evaluation.benchmark import Edit
from pds_nerfstudio.evaluation.capture import STEPS_PER_SAVE, Capture, CaptureComparison, CaptureSettings
from pds_nerfstudio.evaluation.cells import EDITED, Cell
from pds_nerfstudio.evaluation.measure import Judges, load_judges, measure
from pds_nerfstudio.evaluation.records import kept_value, write_json
from pds_nerfstudio.evaluation.renders import export, film_alone
from pds_nerfstudio.evaluation.rows import of_family
from pds_nerfstudio.evaluation.trial import edit_config, train
from pds_nerfstudio.files import distinct_names, read_json
from pds_nerfstudio.pictures import save_image
from pds_nerfstudio.pipelines.command_line import Given
from pds_nerfstudio.pipelines.settings_tree import changed
from pds_nerfstudio.prompts import folder_words, guess_ask
from pds_nerfstudio.scenes.paths import CameraPath, camera_path, evenly
from pds_nerfstudio.scenes.shots import shown_camera
from pds_nerfstudio.scenes.views import Views, train_views

BEFORE, AFTER, STILLS, SPLATS = "before.mp4", "after.mp4", "stills", "splat.ply"
LOOK = "look.json"
"""In a cell's folder: how it was filmed, and what it was judged by."""
KEPT = EDITED, "record.json"
"""In a cell's folder: what says which prompt it is of."""
BEHIND = re.compile(r"(\w{3,}ing|and|at|behind|beside|by|in|near|next|of|on|under|with|without)\b")
"""How words begin that are said behind a source's prompt; others take the place of its last ones."""
MOST_STILLS = 6
MEASURED_FRAMES = 24
"""Of the path on which neighbouring frames are compared, as of `pds evaluate`."""


@dataclass(frozen=True)
class OwnEdit:
    """A target prompt for the user's run."""

    name: str
    source_prompt: str
    target_prompt: str

    @property
    def kind(self) -> str:
        """What is asked for, where the words tell."""
        return guess_ask(self.source_prompt, self.target_prompt) or "edit"


@dataclass(frozen=True)
class OwnSettings(CaptureSettings):
    """What makes an edit; another run, or another step of it, makes other edits."""

    run: str = ""
    """The `config.yml` of the run."""
    step: int = 0
    """Of its checkpoint."""


@dataclass(frozen=True)
class Look:
    """How edits are filmed and measured."""

    path: CameraPath = "interpolated"
    frames: int = 60
    fps: int = 20
    resolution: int | None = 512
    """Shorter side in pixels; of NeRFs and of what is measured, where the photographs are not smaller."""
    export: bool = True
    """Whether the Gaussians of splats are written as a .ply."""
    clip: str = "auto"

    @property
    def name(self) -> str:
        """What the folder of the film of the source is called."""
        return f"{self.path}-{self.frames}x{self.fps}-{self.resolution}"

    def film(self, scene: Model, views: Views, path: Path) -> None:
        """Film a scene along this look's path through the training views."""
        first, times = shown_camera(views, 0, self.resolution, scene)
        cameras = camera_path(views, self.path, self.frames, int(first.height), int(first.width))
        film_alone(scene, cameras, path, self.fps, times)


@dataclass(frozen=True, eq=False)
class OwnComparison(CaptureComparison):
    """An edit beside its source, with what else is kept of it."""

    pair: Pair
    judges: Judges


@dataclass(frozen=True)
class OwnRun(Capture):
    """A run of the user's, which is only read."""

    anchors: ClassVar = ()
    look: Look = field(default_factory=Look)

    def check(self, edits: Sequence[OwnEdit]) -> None:
        """Edits of one run have names of their own already; see `edits_of`."""

    def shared(self, edit: Edit, seed: int) -> str:
        return self.look.name

    def made_of(self, edit: Edit, seed: int) -> dict[str, Any]:
        return {"family": self.family, "run": self.settings.run, "step": self.settings.step}

    def describe(self, edit: Edit) -> dict[str, Any]:
        return super().describe(edit) | {"target": edit.target_prompt}

    def prepare(self, edit: Edit, folder: Path, seed: int) -> Path:
        source = Path(self.settings.run)
        pipeline = load_run(source, self.settings.step)
        self.look.film(pipeline.model, train_views(pipeline.datamanager), folder / BEFORE)
        return source

    def edit(self, method: str, changes: Mapping[str, Any], source: Path, edit: Edit, out: Path, seed: int) -> Path:
        given = self.given(method, edit, seed) | dict(changes)
        config: Any = changed(edit_config(of_family(method, self.family), source, edit, out, seed), given)
        config.steps_per_save = STEPS_PER_SAVE
        config.given = Given(set(given))  # as `ns-train` has it by a line of `lines_of`
        return train(config)

    def given(self, method: str, edit: Edit, seed: int) -> dict[str, Any]:
        """What one method is told, by the names of `ns-train`'s flags; refinements have steps of their own."""
        named = {
            "pipeline.src_prompt": edit.source_prompt,
            "pipeline.tgt_prompt": edit.target_prompt,
            "pipeline.prior": self.settings.prior,
            "pipeline.seed": seed,
        }
        if self.settings.edit_steps is not None and not method.endswith("-refine"):
            named["max_num_iterations"] = self.settings.edit_steps
        return named

    def compare(self, edit: Edit, scenes: Path, source: Path, edited: Path) -> OwnComparison:
        pair = load_pair(plan_pair(edited, source=source))
        judges = load_judges(self.look.clip, [self.settings.prior])
        prompts = edit.source_prompt, edit.target_prompt
        measured = measure(pair, judges, prompts, MEASURED_FRAMES, self.look.resolution)
        return OwnComparison(edit, measured, pair, judges)

    def keep(self, comparison: OwnComparison, folder: Path) -> None:
        super().keep(comparison, folder)
        pair, measured = comparison.pair, comparison.measured
        self.look.film(pair.after, pair.training, folder / AFTER)
        names = distinct_names(pair.held_out.names)
        stills = {names[measured.shown[i]]: i for i in evenly(len(measured.shown), MOST_STILLS)}
        for name, i in stills.items():
            for side, shots in (("before", measured.before), ("after", measured.after)):
                save_image(shots[i].image, folder / STILLS / side / f"{name}.png")
        if self.look.export and self.family == "splatfacto":
            run = pair.plan.run
            export(run.config_path, self.family, folder, SPLATS, data=run.data)
        judges = comparison.judges
        judged = {"clip": judges.clip_name, "distance": judges.distance_name, "over": measured.over}
        write_json(folder / LOOK, {"look": asdict(self.look), "stills": list(stills), **judged})


def edits_of(src_prompt: str, tgt_prompts: Iterable[str], out: Path | None = None) -> tuple[OwnEdit, ...]:
    """An edit for each target prompt, named by the words that it adds, whatever other prompts there are. Where the
    prompt cannot be read back from those words, a number that is its own is added.

    Args:
        out: a gallery that may be there; its edits keep the names that they have.
    """
    return tuple(OwnEdit(_name(src_prompt, prompt, out), src_prompt, prompt) for prompt in tgt_prompts)


def _name(src_prompt: str, prompt: str, out: Path | None) -> str:
    words = folder_words(src_prompt, prompt)
    plain = words or "edit"
    numbered = f"{plain}-{hashlib.sha256(prompt.encode(errors='surrogateescape')).hexdigest()[:6]}"
    if there := _targets(out, plain):
        return plain if there == {prompt} else numbered
    return plain if words and _read_back(src_prompt, words) == prompt and not _targets(out, numbered) else numbered


def _targets(out: Path | None, name: str) -> set[Any]:
    """Target prompts of a gallery's edits of one name."""
    files = [] if out is None else [f for file in KEPT for f in out.glob(f"cells/{name}.*/{file}")]
    remedy = "remove it, and run the same line again"
    return {read_json(file, dict, "The record", remedy).get("target") for file in files}


def _read_back(src_prompt: str, words: str) -> str:
    """The one prompt of which `folder_words` lose nothing: the words behind the source's, or in place of its last."""
    source, added = re.findall(r"\w+", src_prompt), words.split("-")
    if BEHIND.match(words):
        return " ".join([*source, *added])
    begin = max(len(source) - len(added), 3 if source[1:3] in (["photo", "of"], ["drawing", "of"]) else 0)
    begin += source[begin : begin + 1] in (["a"], ["an"], ["the"])
    return " ".join([*source[:begin], *added])


def look_again(cells: Iterable[Cell], look: Look) -> int:
    """Let cells that were filmed or measured in another way count as not done; how many there are. Their edits stay."""
    found = 0
    for cell in cells:
        if cell.record_file.exists() and _look_of(cell) != asdict(look):
            cell.record_file.unlink(missing_ok=True)  # by another shard, perhaps
            found += 1
    return found


def _look_of(cell: Cell) -> Any:
    file = cell.folder / LOOK
    remedy = f"remove {cell.record_file}, and run the same line again"
    return read_json(file, dict, "The record", remedy).get("look") if file.exists() else None


def made_by(cell: Cell) -> Path:
    """The folder of the run that a cell's edit is.

    Raises:
        UserError: its record is damaged.
    """
    return Path(kept_value(cell.folder / EDITED, "made", dict).get("scene", "")).parent


def lines_of(cell: Cell) -> list[str]:
    """The `ns-train` lines that make a cell's edit again, one for each link of its row."""
    benchmark = cell.benchmark
    assert isinstance(benchmark, OwnRun)
    lines, begin = [], Path(benchmark.settings.run).parent
    for number, (method, changes) in enumerate(cell.links, start=1):
        words = ["ns-train", of_family(method, benchmark.family), "--load-dir", str(begin)]
        for name, value in (benchmark.given(method, cell.edit, cell.seed) | changes).items():
            words += _flag(name, value)
        lines.append(shlex.join(words))
        if number < len(cell.links):
            begin = made_by(cell.first(number))
    return lines


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, str) and value.startswith("-"):  # which argparse would take for a flag
        return [f"{flag}={value}"]
    return [flag, *map(str, value)] if isinstance(value, tuple | list) else [flag, str(value)]
