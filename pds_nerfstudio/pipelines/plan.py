"""From a command line to a complete edit: find the run, decide between a new edit and a resumed one, fill in what the
command line leaves open, and reject what cannot work before anything is loaded.

    new edit       method's defaults  ◄─ model and data of the base run  ◄─ what the command line named
    resumed edit   everything of its run but `Compute`                   ◄─ what the command line named
"""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import TrainerConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import file_name, require_writable
from pds_nerfstudio.machine import require_device
from pds_nerfstudio.pipelines.belongings import begin_with, find_local_files, find_source_again
from pds_nerfstudio.pipelines.command_line import DATAPARSER, Given, merged
from pds_nerfstudio.pipelines.distillation import ADAPTERS
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.recipe import follow
from pds_nerfstudio.pipelines.refine import RefineConfig
from pds_nerfstudio.pipelines.replay import adopt_replay, continues, reached, replays_on, session_of, with_what_is_left
from pds_nerfstudio.pipelines.revise import ReviseConfig
from pds_nerfstudio.pipelines.settings_tree import check_settings, read, settings, write
from pds_nerfstudio.pipelines.steering import Change, adopt_settings, settings_at
from pds_nerfstudio.priors.adapters import ADAPTER_RATE
from pds_nerfstudio.prompts import require_known, sought, unknown_words
from pds_nerfstudio.ranges import require_steps
from pds_nerfstudio.scenes.dataparsers import leave_points_out
from pds_nerfstudio.scenes.families import family_of
from pds_nerfstudio.scenes.source import SourceRun, checksum, find_run, load_source_state, scene_config, without_workers

SPLAT_SUFFIX = "-splat"
OF_THE_MACHINE = (
    *("_target", "output_dir", "method_name", "timestamp", "machine", "logging", "viewer", "vis", "data", "prompt"),
    *("load_dir", "load_step", "load_config", "load_checkpoint", "load_scheduler", "log_gradients", "start_paused"),
    *("replay", "pipeline", "made_in", "verbose"),
)
"""Trainer settings that a resumed edit takes from the command line alone; its pipeline's are merged one by one."""
OF_ITS_BEGINNING = ("base", "base_step", "base_checksum", "carried", "followed")
"""What an edit notes of where it began, which is nobody's setting."""
OF_THE_EDIT = (
    *("src_prompt", "tgt_prompt", "prior", "recipe", "lora", "embedding"),
    *("vae_precision", "weights", "encoder", "resolution", "box", "masks"),
)
"""What a refinement takes from the edit that it refines, where the command line does not say otherwise."""


@dataclass(frozen=True)
class Plan:
    """What a command line turned out to mean."""

    run: SourceRun
    """The run that `--load-dir` named: the scene to edit, or the edit to resume."""
    first_step: int
    """Edit step to begin with: 0 for a new edit."""
    summary: str
    """One sentence for the user."""
    restored: str = ""
    """Of a resumed edit: one line with the settings that it took from its run."""
    refreeze: bool = False
    """Whether the command line says anew where a resumed edit may change its scene."""
    done: tuple[Change, ...] = ()
    """What was changed in a resumed edit before its checkpoint."""
    warning: str = ""
    """What the prior will not make of the prompts."""
    recipe: str = ""
    """Of a new edit: one line with the settings that it took from a recipe."""
    due: tuple[Change, ...] = ()
    """What is to be changed from there on: by --replay, or again, where an edit was interrupted after the change and
    before its next checkpoint."""
    moments: int | None = None
    """How many moments of the history a resumed edit's checkpoint knows of; None where it does not say."""

    @property
    def resumes(self) -> bool:
        """Whether an edit goes on."""
        return self.first_step > 0


def prepare(config: TrainerConfig, default: TrainerConfig) -> Plan:
    """Complete `config` in place.

    Args:
        config: as the command line left it.
        default: the method's own.

    Raises:
        UserError: for anything that cannot work.
    """
    pipeline = config.pipeline
    assert isinstance(pipeline, EditConfig)
    given = getattr(config, "given", None) or Given.of(config, default)
    require_steps(config)
    if config.machine.seed != default.machine.seed:
        raise UserError(
            f"--machine.seed {config.machine.seed} means nothing to an edit, which draws from a generator of its own: "
            f"give --pipeline.seed {config.machine.seed}."
        )
    adopted = _adopt_prompt_flag(config)
    run = _named_run(config)
    replayed = () if replays_on(config, run) else adopt_replay(config)
    _check_family(config, run)

    previous = run.config
    resumes = continues(config, run)
    done, due, moments = (), replayed, None
    if resumes:
        _, moments = reached(run) or (0, None)
        done, again = session_of(config, run, given)
        due = due or with_what_is_left(config, run, done, again)
        _adopt_run(config, previous, given, done)
        find_source_again(config, run, given)
    else:
        begin_with(pipeline, run)
        if isinstance(pipeline, RefineConfig):
            _adopt_edit(pipeline, run, given)
    find_local_files(pipeline, run)
    if adopted and pipeline.reads_source_prompt and not pipeline.src_prompt.strip():
        raise UserError(
            f'--prompt is taken for the target prompt ("{adopted}"), and the source prompt is empty: say what is '
            'there, --pipeline.src-prompt "a photo of …".'
        )
    pipeline.check_prompts()
    followed = _follow_recipe(config, run, given, resumes)
    check_settings(pipeline)
    if pipeline.compute.prior_device is not None:
        require_device(pipeline.compute.prior_device, "--pipeline.prior-device")
    pipeline.region.check()
    require_known(pipeline.prior, sought(pipeline.region.region or "", "").words, "--pipeline.region")
    pipeline.view.check()
    pipeline.check_prior()
    if isinstance(pipeline, ReviseConfig):
        pipeline.choose_objective(given)
    if pipeline.adapters and ADAPTERS not in config.optimizers:
        config.optimizers[ADAPTERS] = {"optimizer": AdamOptimizerConfig(lr=ADAPTER_RATE), "scheduler": None}

    of_run = scene_config(run, load_source_state(run))
    if resumes and (broken := run.scene[1]):
        raise UserError(
            f"{broken} Gaussians in {run.checkpoint_path} are not finite, so this edit cannot go on from there: choose "
            "an earlier checkpoint with --load-step."
        )
    pipeline.model = merged(of_run, pipeline.model, given, "pipeline.model")
    pipeline.datamanager = _datamanager(config, run, given)
    if config.experiment_name is None:
        config.experiment_name = _experiment_of(run)

    _share_between_stages(config, given, resumes)
    _decay_over_the_edit(config, default, previous if resumes else None, given)

    first_step = run.step + 1 if resumes else 0
    if first_step >= config.max_num_iterations:
        raise UserError(
            f"{run.config_path.parent} already has {first_step} edit steps of {config.max_num_iterations}: give more "
            "with --max-num-iterations, or other prompts to edit its result."
        )
    if config.get_base_dir().resolve() == run.config_path.parent.resolve():
        raise UserError(
            f"This edit would be written into {run.config_path.parent}, the run that it begins with, which is never "
            "changed: give it another --timestamp or --experiment-name."
        )
    require_writable(config.get_base_dir(), "--output-dir")
    if not resumes:
        pipeline.run.base_checksum = checksum(run.checkpoint_path)
    remaining = config.max_num_iterations - first_step
    what = (
        f"Resuming the edit {run.config_path.parent} at step {first_step}"
        if resumes
        else f"New edit of {run.config_path.parent} ({run.method_name}, step {run.step})"
    )
    if left_out := run.scene[1]:
        what += f", without {left_out} Gaussians that are not finite"
    return Plan(
        run,
        first_step,
        f"{what}: {remaining} steps to run, then {config.max_num_iterations} in all.",
        _restored(config, default, given) if resumes else "",
        any(f"pipeline.{name}" in given for name, holder in settings(pipeline) if holder is pipeline.region),
        done,
        unknown_words(pipeline.prior, pipeline.src_prompt, pipeline.tgt_prompt),
        followed,
        due,
        moments,
    )


def _experiment_of(run: SourceRun) -> str | None:
    """The run's own name for its experiment, which becomes a folder's. Raises UserError where it must not."""
    name = run.config.experiment_name
    try:
        return None if name is None else file_name(name)
    except ValueError as error:
        raise UserError(
            f"{run.config_path} cannot be edited under its own name ({error}): give one with --experiment-name."
        ) from error


def _adopt_prompt_flag(config: TrainerConfig) -> str | None:
    """nerfstudio's own --prompt, which it writes to the model's settings, is the target prompt; returns it."""
    pipeline = config.pipeline
    assert isinstance(pipeline, EditConfig)
    prompt = config.prompt or pipeline.model.prompt
    if prompt:
        if pipeline.tgt_prompt not in ("", prompt):
            raise UserError("--prompt and --pipeline.tgt-prompt name two target prompts: give one of them.")
        pipeline.tgt_prompt = prompt
        config.prompt = pipeline.model.prompt = None
    return prompt


def _follow_recipe(config: TrainerConfig, run: SourceRun, given: Given, resumes: bool) -> str:
    """Let a new edit, or one that goes on and names it, begin by a recipe; returns what it took, in words."""
    assert isinstance(config.pipeline, EditConfig)
    if resumes and "pipeline.recipe" not in given:
        return ""
    config.pipeline.run.followed = None if resumes else config.pipeline.run.followed
    said = follow(config, given)
    if not replays_on(config, run):
        adopt_replay(config)  # a session names its settings as a command line does
    return said


def _named_run(config: TrainerConfig) -> SourceRun:
    if config.load_checkpoint is not None:
        step = config.load_checkpoint.stem.removeprefix("step-")
        if not step.isdigit():
            raise UserError(f"--load-checkpoint {config.load_checkpoint} is not a step-*.ckpt of a nerfstudio run.")
        return find_run(config.load_checkpoint.parent, int(step))
    if config.load_dir is None:
        raise UserError(
            f"{config.method_name} edits a finished run: name it with --load-dir RUN/nerfstudio_models (make one "
            "first, for example with ns-train source-splatfacto)."
        )
    return find_run(config.load_dir, config.load_step)


def _check_family(config: TrainerConfig, run: SourceRun) -> None:
    wanted = family_of(config)
    if run.family == wanted:
        return
    name = str(config.method_name)
    other = name.removesuffix(SPLAT_SUFFIX) if name.endswith(SPLAT_SUFFIX) else name + SPLAT_SUFFIX
    raise UserError(
        f"{run.config_path.parent} is a {run.family} scene ({run.method_name}) and {name} edits {wanted} scenes: "
        f"use ns-train {other}."
    )


def _adopt_run(config: TrainerConfig, previous: TrainerConfig, given: Given, done: tuple[Change, ...]) -> None:
    """Everything of the run that goes on, as it was when its checkpoint was written, but what was given."""
    now, before = config.pipeline, copy.deepcopy(previous.pipeline)
    assert isinstance(now, EditConfig)
    assert isinstance(before, EditConfig)
    if done:
        adopt_settings(before, settings_at(done, done[-1].step + 1))
    for name, holder in settings(before):
        if holder is not before.compute and name not in ("_target", "model", "datamanager"):
            write(now, name, merged(getattr(holder, name), read(now, name), given, f"pipeline.{name}"))
    for member in dataclasses.fields(previous):
        name = member.name
        if name not in OF_THE_MACHINE and hasattr(config, name):
            value = copy.deepcopy(getattr(previous, name))
            setattr(config, name, merged(value, getattr(config, name), given, name))


def _restored(config: TrainerConfig, default: TrainerConfig, given: Given) -> str:
    """The settings that a resumed edit has taken from its run and that are not the method's own."""
    pipeline, of_method = config.pipeline, default.pipeline
    assert isinstance(pipeline, EditConfig)
    own = {name: getattr(holder, name) for name, holder in settings(of_method)}
    parts = [
        f"{name} {_as_typed(getattr(holder, name))}"
        for name, holder in settings(pipeline)
        if holder is not getattr(pipeline, "compute", None)
        and name not in ("_target", "model", "datamanager", *OF_ITS_BEGINNING)
        and not given.within(f"pipeline.{name}")
        and getattr(holder, name) != own.get(name)
    ]
    if config.optimizers != default.optimizers and not given.within("optimizers"):
        parts.append("the optimisers' settings")
    return f"Taken from its run: {', '.join(parts)}."


def _as_typed(value: Any) -> str:
    """A setting's value as it follows its flag."""
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _adopt_edit(pipeline: RefineConfig, run: SourceRun, given: Given) -> None:
    """A refinement's prompts and prior are those of the edit, where the command line gives no others."""
    edit = run.config.pipeline
    if not isinstance(edit, EditConfig):
        if not pipeline.tgt_prompt.strip():
            raise UserError(
                f"{run.config_path.parent} is no edited run ({run.method_name}) that says what it shows: name one, or "
                'say it with --pipeline.tgt-prompt "a photo of …".'
            )
        return
    said_where = ("box", "masks", "region", "click", "pick")
    if "pipeline.keep_frozen" not in given and any(f"pipeline.{name}" in given for name in said_where):
        pipeline.keep_frozen = False  # the command line says where the scene may change
    for name in OF_THE_EDIT:
        if f"pipeline.{name}" not in given and not (name == "tgt_prompt" and pipeline.tgt_prompt):
            write(pipeline, name, read(edit, name))


def _share_between_stages(config: TrainerConfig, given: Given, resumes: bool) -> None:
    """--max-num-iterations counts both stages of a perturbed edit.

    A new edit that is shorter than the method's own shortens both in proportion; otherwise, and where either was given
    a length, the refinement keeps its own.
    """
    pipeline = config.pipeline
    if not isinstance(pipeline, ReviseConfig):
        return
    refine_steps = pipeline.refinement.refine_steps
    if "max_num_iterations" in given:
        shorter = config.max_num_iterations < pipeline.steps and not resumes
        if shorter and not any(f"pipeline.{name}" in given for name in ("edit_steps", "refine_steps")):
            refine_steps = round(refine_steps * config.max_num_iterations / pipeline.steps)
            pipeline.refinement.refine_steps = refine_steps
        pipeline.edit_steps = config.max_num_iterations - refine_steps
        if pipeline.edit_steps < 1:
            raise UserError(
                f"--max-num-iterations {config.max_num_iterations} leaves no step for the edit before the "
                f"{refine_steps} of --pipeline.refine-steps: give more of the one or fewer of the other."
            )
    config.max_num_iterations = pipeline.steps


def _decay_over_the_edit(
    config: TrainerConfig, default: TrainerConfig, previous: TrainerConfig | None, given: Given
) -> None:
    """Learning rates reach their final value when the edit ends, unless the command line says when.

    One of 0, which holds a group still, decays to nothing: nerfstudio's schedules divide by it.

    Args:
        previous: the configuration of an edit that goes on, which may have been planned to be of another length.
    """
    for name, group in config.optimizers.items():
        if group["optimizer"].lr == 0:
            group["scheduler"] = None
        scheduler, flag = group["scheduler"], f"optimizers.{name}.scheduler.max_steps"
        if not hasattr(scheduler, "max_steps") or flag in given:
            continue
        of_method = default.optimizers.get(name, {}).get("scheduler")
        planned = getattr(of_method, "max_steps", None) if previous is None else previous.max_num_iterations
        if scheduler.max_steps == planned:
            group["scheduler"] = dataclasses.replace(scheduler, max_steps=config.max_num_iterations)


def _datamanager(config: TrainerConfig, run: SourceRun, given: Given) -> Any:
    """The run's dataset, read without the worker processes that would prepare batches of rays for nobody."""
    now: Any = config.pipeline.datamanager
    of_run: Any = without_workers(run.datamanager_config)
    # A subcommand that names the run's own format departs from it only by the flags behind it.
    whole = DATAPARSER in given and type(now.dataparser) is not type(of_run.dataparser)
    dataparser = now.dataparser
    if not whole:
        parts = {
            member.name: merged(
                getattr(of_run.dataparser, member.name),
                getattr(now.dataparser, member.name, None),
                given,
                f"{DATAPARSER}.{member.name}",
            )
            for member in dataclasses.fields(of_run.dataparser)
            if member.init
        }
        dataparser = type(of_run.dataparser)(**parts)
    leave_points_out(dataparser)
    of_run.dataparser = dataparser
    now.dataparser = dataparser
    of_run = merged(of_run, now, given, "pipeline.datamanager")
    data = config.data or now.data or run.data
    if data is None or not Path(data).exists():
        raise UserError(f"The dataset {data} of {run.config_path.parent} is not there: name it with --data.")
    of_run.data = dataparser.data = Path(data)
    of_run.dataparser = dataparser
    return of_run
