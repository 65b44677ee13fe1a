"""From a command line to a complete edit: find the run, decide between a new edit and a resumed one, fill in what
the command line leaves open from the run's own `config.yml`, and reject what cannot work before anything is loaded.

"Given on the command line" means: different from the method's default. Such values win over the run's.
"""

import copy
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.parallel_datamanager import ParallelDataManagerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import TrainerConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.sds import SDS
from pds_nerfstudio.pipelines.edit import ADAPTERS, EditPipelineConfig
from pds_nerfstudio.pipelines.idu import IduConfig
from pds_nerfstudio.pipelines.refine import RefineConfig
from pds_nerfstudio.pipelines.revise import ReviseConfig, chosen_objective
from pds_nerfstudio.pipelines.session import adopt_settings, read_session
from pds_nerfstudio.pipelines.update import UpdateConfig, check_used
from pds_nerfstudio.priors.adapters import ADAPTER_RATE
from pds_nerfstudio.scenes.region import Box
from pds_nerfstudio.scenes.source import SourceRun, as_config, find_run, load_source_state, scene_config
from pds_nerfstudio.scenes.splatfacto import SplatfactoSceneConfig

SPLAT_SUFFIX = "-splat"
KEPT_ON_RESUMING = (
    *("prior", "encoder", "objective", "loss_weight", "hold_details", "resolution", "source_images", "box", "masks"),
    *("adapter_rank", "control", "seed", "by", "eta", "anneal", "edit_steps", "refine_steps"),
    *("spare_relevant", "identity_l1", "identity_perceptual"),
    *("update_every", "guidance_scale", "num_steps", "min_strength", "max_strength", "keep_details"),
    *("editor", "image_guidance", "inversion", "perceptual_weight"),
)
"""What a resumed edit takes from its run where the command line does not say otherwise."""
OF_THE_EDIT = (
    "src_prompt",
    "tgt_prompt",
    "prior",
    "precision",
    "vae_precision",
    "encoder",
    "resolution",
    "box",
    "masks",
)
"""What a refinement takes from the edit that it refines, likewise."""


@dataclass(frozen=True)
class Plan:
    """What a command line turned out to mean."""

    run: SourceRun
    """The run that `--load-dir` named: the scene to edit, or the edit to resume."""
    first_step: int
    """Edit step to begin with: 0 for a new edit."""
    summary: str
    """One sentence for the user."""

    @property
    def resumes(self) -> bool:
        return self.first_step > 0


def prepare(config: TrainerConfig, default: TrainerConfig) -> Plan:
    """Complete `config` in place.

    Args:
        config: as the command line left it.
        default: the method's own, to see what the command line changed.

    Raises:
        UserError: for anything that cannot work.
    """
    pipeline = config.pipeline
    assert isinstance(pipeline, EditPipelineConfig)
    assert isinstance(default.pipeline, EditPipelineConfig)
    _adopt_prompt_flag(config)
    if replay := getattr(config, "replay", None):
        if isinstance(pipeline, UpdateConfig):
            raise UserError(f"{config.method_name} cannot be steered, hence not replayed: leave --replay out.")
        adopt_settings(pipeline, read_session(replay)[0].value)
    run = _named_run(config)
    _check_family(config, run)

    previous = run.config.pipeline
    resumes = (
        isinstance(previous, EditPipelineConfig)
        and run.method_name == config.method_name
        and pipeline.src_prompt in ("", previous.src_prompt)
        and pipeline.tgt_prompt in ("", previous.tgt_prompt)
    )
    if resumes:
        assert isinstance(previous, EditPipelineConfig)
        for name in ("src_prompt", "tgt_prompt", "base", "base_step"):
            setattr(pipeline, name, getattr(previous, name))
        for name in KEPT_ON_RESUMING:
            if hasattr(previous, name) and getattr(pipeline, name) == getattr(default.pipeline, name):
                setattr(pipeline, name, getattr(previous, name))
    else:
        pipeline.base, pipeline.base_step = run.config_path.resolve(), run.step
        if isinstance(pipeline, RefineConfig):
            _adopt_edit(pipeline, default.pipeline, run)
    if isinstance(pipeline, UpdateConfig):
        check_used(pipeline, str(config.method_name))
    _check_prompts(config)
    _check_numbers(pipeline)
    _check_prior(pipeline)
    _check_region(pipeline)
    if isinstance(pipeline, ReviseConfig):
        pipeline.objective = chosen_objective(pipeline)
    if pipeline.objective.adapters and ADAPTERS not in config.optimizers:
        config.optimizers[ADAPTERS] = {"optimizer": AdamOptimizerConfig(lr=ADAPTER_RATE), "scheduler": None}

    state = load_source_state(run)
    pipeline.model = _merged(scene_config(run, state), pipeline.model, default.pipeline.model)
    pipeline.datamanager = _datamanager(config, default, run)
    if config.experiment_name is None:
        config.experiment_name = run.config.experiment_name

    _share_between_stages(config, default)
    _decay_over_the_edit(config, default)

    first_step = run.step + 1 if resumes else 0
    if first_step >= config.max_num_iterations:
        raise UserError(
            f"{run.config_path.parent} already has {first_step} edit steps of {config.max_num_iterations}: give more "
            "with --max-num-iterations, or other prompts to edit its result."
        )
    remaining = config.max_num_iterations - first_step
    what = (
        f"Resuming the edit {run.config_path.parent} at step {first_step}"
        if resumes
        else (f"New edit of {run.config_path.parent} ({run.method_name}, step {run.step})")
    )
    return Plan(run, first_step, f"{what}: {remaining} steps to run, then {config.max_num_iterations} in all.")


def _adopt_prompt_flag(config: TrainerConfig) -> None:
    """nerfstudio's own --prompt, which it writes to the model's settings, is the target prompt."""
    pipeline = config.pipeline
    assert isinstance(pipeline, EditPipelineConfig)
    prompt = config.prompt or pipeline.model.prompt
    if prompt:
        if pipeline.tgt_prompt not in ("", prompt):
            raise UserError("--prompt and --pipeline.tgt-prompt name two target prompts: give one of them.")
        pipeline.tgt_prompt = prompt
        config.prompt = pipeline.model.prompt = None


def _adopt_edit(pipeline: RefineConfig, default: EditPipelineConfig, run: SourceRun) -> None:
    """A refinement's prompts and prior are those of the edit, where the command line gives no others."""
    edit = run.config.pipeline
    if not isinstance(edit, EditPipelineConfig):
        if not pipeline.tgt_prompt.strip():
            raise UserError(
                f"{run.config_path.parent} is no edited run ({run.method_name}) that says what it shows: name one, or "
                'say it with --pipeline.tgt-prompt "a photo of …".'
            )
        return
    for name in OF_THE_EDIT:
        if getattr(pipeline, name) == getattr(default, name):
            setattr(pipeline, name, getattr(edit, name))


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
    wanted = "splatfacto" if isinstance(config.pipeline.model, SplatfactoSceneConfig) else "nerfacto"
    if run.family == wanted:
        return
    name = str(config.method_name)
    other = name.removesuffix(SPLAT_SUFFIX) if name.endswith(SPLAT_SUFFIX) else name + SPLAT_SUFFIX
    raise UserError(
        f"{run.config_path.parent} is a {run.family} scene ({run.method_name}) and {name} edits {wanted} scenes: "
        f"use ns-train {other}."
    )


def _check_prompts(config: TrainerConfig) -> None:
    pipeline = config.pipeline
    assert isinstance(pipeline, EditPipelineConfig)
    if not pipeline.tgt_prompt.strip():
        raise UserError('The target prompt is empty: say what you want with --pipeline.tgt-prompt "a photo of …".')
    edits_pictures = isinstance(pipeline, IduConfig) and pipeline.editor == "instruct"
    if isinstance(pipeline.objective, SDS) or isinstance(pipeline, RefineConfig) or edits_pictures:
        return
    if not pipeline.src_prompt.strip():
        raise UserError('The source prompt is empty: say what is there, --pipeline.src-prompt "a photo of …".')
    if pipeline.src_prompt.strip() == pipeline.tgt_prompt.strip():
        raise UserError("The source and the target prompt are the same, so nothing would change: give two.")


def _check_numbers(pipeline: EditPipelineConfig) -> None:
    if pipeline.views_per_step < 1:
        raise UserError(f"--pipeline.views-per-step is {pipeline.views_per_step}: give at least 1.")
    if pipeline.rays_per_chunk is not None and pipeline.rays_per_chunk < 2:
        raise UserError(f"--pipeline.rays-per-chunk is {pipeline.rays_per_chunk}: give at least 2, or leave it out.")
    if not 0 < pipeline.backward_share <= 1:
        raise UserError(f"--pipeline.backward-share is {pipeline.backward_share}: it must lie in (0, 1].")
    if not 0 <= pipeline.hold_details < math.inf:
        raise UserError(f"--pipeline.hold-details is {pipeline.hold_details}: give 0 or more.")


def _check_prior(pipeline: EditPipelineConfig) -> None:
    from pds_nerfstudio.priors.check import check_prior, latent_shape, local_folder
    from pds_nerfstudio.priors.control import check_control

    if isinstance(pipeline, IduConfig) and pipeline.editor == "instruct":
        from pds_nerfstudio.priors.instruct import check_instruct

        check_instruct(pipeline.prior)
    else:
        check_prior(pipeline.prior)
    if pipeline.control is not None:
        check_control(pipeline.control, pipeline.prior)
    folder = local_folder(pipeline.prior)
    if pipeline.encoder is not None:
        from pds_nerfstudio.priors.tiny import check_encoder

        check_encoder(pipeline.encoder, folder)
    if pipeline.resolution is None or folder is None:
        return
    stride, _ = latent_shape(folder)
    if pipeline.resolution < stride:
        raise UserError(
            f"--pipeline.resolution {pipeline.resolution} is below the prior's latent stride of {stride} pixels: leave "
            "it out, or give the size the prior was trained at."
        )


def _check_region(pipeline: EditPipelineConfig) -> None:
    try:
        if pipeline.box is not None:
            Box(pipeline.box)
    except ValueError as error:
        raise UserError(f"--pipeline.box: {error}") from error
    if pipeline.masks is not None and not pipeline.masks.is_dir():
        raise UserError(f"--pipeline.masks {pipeline.masks} is no folder: give one with an image for some views.")


def _merged(of_run: Any, given: Any, default: Any) -> Any:
    """The run's settings, except where the command line departs from the method's default."""
    changes = {}
    for field in dataclasses.fields(of_run):
        if field.name == "_target" or not hasattr(given, field.name):
            continue
        value = getattr(given, field.name)
        if value != getattr(default, field.name, value):
            changes[field.name] = value
    return dataclasses.replace(of_run, **changes)


def _share_between_stages(config: TrainerConfig, default: TrainerConfig) -> None:
    """--max-num-iterations counts both stages of a perturbed edit; the refinement keeps its length."""
    pipeline = config.pipeline
    if not isinstance(pipeline, ReviseConfig):
        return
    if config.max_num_iterations != default.max_num_iterations:
        pipeline.edit_steps = config.max_num_iterations - pipeline.refine_steps
        if pipeline.edit_steps < 1:
            raise UserError(
                f"--max-num-iterations {config.max_num_iterations} leaves no step for the edit before the "
                f"{pipeline.refine_steps} of --pipeline.refine-steps: give more of the one or fewer of the other."
            )
    config.max_num_iterations = pipeline.edit_steps + pipeline.refine_steps


def _decay_over_the_edit(config: TrainerConfig, default: TrainerConfig) -> None:
    """Learning rates reach their final value when the edit ends, unless the command line says when."""
    for name, group in config.optimizers.items():
        scheduler, of_method = group["scheduler"], default.optimizers.get(name, {}).get("scheduler")
        ends = getattr(scheduler, "max_steps", None)
        if ends is not None and ends == getattr(of_method, "max_steps", None):
            group["scheduler"] = dataclasses.replace(scheduler, max_steps=config.max_num_iterations)


def _datamanager(config: TrainerConfig, default: TrainerConfig, run: SourceRun) -> Any:
    """The run's dataset, read without the worker processes that would prepare batches of rays for nobody."""
    given: Any = config.pipeline.datamanager
    of_method: Any = default.pipeline.datamanager
    settings: Any = copy.deepcopy(run.datamanager_config)
    if isinstance(settings, ParallelDataManagerConfig):
        settings = as_config(VanillaDataManagerConfig, settings)
    if type(given.dataparser) is type(of_method.dataparser):
        dataparser = _merged(settings.dataparser, given.dataparser, of_method.dataparser)
    else:
        dataparser = given.dataparser
    settings = _merged(settings, given, of_method)
    data = config.data or given.data or run.data
    if data is None or not Path(data).exists():
        raise UserError(
            f"The dataset {data} of {run.config_path.parent} is not there (a relative path counts from where the run "
            "was started): name it with --data."
        )
    settings.data = dataparser.data = Path(data)
    settings.dataparser = dataparser
    return settings
