"""A scene before and after its edit, loaded for looking at: one set of cameras, two models, no prior."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import VanillaPipeline

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.machine import default_device
from pds_nerfstudio.pipelines.base import EditPipeline
from pds_nerfstudio.pipelines.carried import find_source
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.refine import RefineConfig
from pds_nerfstudio.pipelines.settings import RunSettings
from pds_nerfstudio.runs import data_gone, no_edit, source_gone
from pds_nerfstudio.scenes.dataparsers import leave_points_out
from pds_nerfstudio.scenes.dataset import photographs_alone, reading_dataset
from pds_nerfstudio.scenes.places import name_data
from pds_nerfstudio.scenes.scene import Family
from pds_nerfstudio.scenes.shots import held_out_views
from pds_nerfstudio.scenes.source import SourceRun, find_run, load_source_state, looked_into
from pds_nerfstudio.scenes.splatfacto import few_points
from pds_nerfstudio.scenes.views import Views, train_views


@dataclass(frozen=True)
class PairPlan:
    """Which two scenes are compared; found without loading either."""

    run: SourceRun
    """The edited run."""
    source: SourceRun | None = None
    """The run to compare with, where one was named; else it is the scene that the edit began with."""
    refined: SourceRun | None = None
    """Of a refinement, the edit that it refines: its prompts speak of the scene before that."""

    @property
    def folder(self) -> Path:
        """The edited run's folder."""
        return self.run.config_path.parent

    @property
    def before(self) -> Path:
        """Folder of the run it is compared with."""
        if self.source is not None:
            return self.source.config_path.parent
        assert self.began is not None
        assert self.began.base is not None
        return self.began.base.parent

    @property
    def began(self) -> RunSettings | None:
        """What the edit says of the scene that it began with, which is compared where no run was named."""
        edit = (self.refined or self.run).config.pipeline
        return edit.run if self.source is None and isinstance(edit, EditConfig) else None

    @property
    def family(self) -> Family:
        return self.run.family

    @property
    def edit(self) -> EditConfig | None:
        """What the edit was asked for; None where RUN is no edit."""
        pipeline = self.run.config.pipeline
        return pipeline if isinstance(pipeline, EditConfig) else None

    @property
    def prompts(self) -> tuple[str, str]:
        """Source and target prompt; empty where RUN is no edit."""
        return ("", "") if self.edit is None else (self.edit.src_prompt, self.edit.tgt_prompt)


@dataclass(frozen=True, eq=False)
class Pair:
    """The two scenes."""

    plan: PairPlan
    before: Model
    after: Model
    training: Views
    held_out: Views
    """Held-out views, or the training views where there are none."""


def plan_pair(
    run: Path,
    step: int | None = None,
    source: Path | None = None,
    data: Path | None = None,
    compared: bool = True,
) -> PairPlan:
    """Find an edited run and what it is compared with; unless `compared`, any run, and only that.

    Args:
        data: the dataset, where it is not at the place that the runs name.

    Raises:
        UserError: either is missing, `run` is no edit and no `source` is named, or its dataset has moved.
    """
    found = find_run(run, step, called="The run")
    if source is not None:
        plan = PairPlan(found, find_run(source, called="--source"))
    elif compared and isinstance(found.config.pipeline, RefineConfig):
        plan = PairPlan(found, refined=_edit_before(found))
        _require_source(plan.refined or found)
    else:
        plan = PairPlan(found)
        if compared:
            _require_source(found)
    if data is not None:
        name_data(found.config, data)
    if found.data is not None and not found.data.exists():
        raise data_gone(plan.folder, found.data)
    for other in filter(None, (plan.source, plan.refined)):
        if found.data is not None and not _has_data(other, data):
            name_data(other.config, found.data)
    return plan


def _edit_before(run: SourceRun) -> SourceRun | None:
    """The edit that a refinement, or several, refined; None where that is no edit.

    Raises:
        UserError: it is gone.
    """
    while isinstance(run.config.pipeline, RefineConfig):
        settings, folder = run.config.pipeline.run, run.config_path.parent
        find_source(settings, run.config, folder)
        if settings.base is None or not settings.base.exists():
            raise source_gone(folder, settings.base)
        run = find_run(settings.base, settings.base_step, called="The edit that was refined")
    return run if isinstance(run.config.pipeline, EditConfig) else None


def _require_source(run: SourceRun) -> None:
    """Raise UserError where a run is no edit, or the scene that it began with is nowhere."""
    edit, folder = run.config.pipeline, run.config_path.parent
    if not isinstance(edit, EditConfig) or edit.run.base is None:
        raise no_edit(folder, run.method_name)
    if not find_source(edit.run, run.config, folder):
        raise source_gone(folder, edit.run.base)
    if edit.run.carried is None:
        find_run(edit.run.base, edit.run.base_step, called="The scene before the edit")


def _has_data(run: SourceRun, given: Path | None) -> bool:
    """Whether the dataset that a run names is there, and no other was named."""
    return given is None and run.data is not None and run.data.exists()


def load_pair(plan: PairPlan) -> Pair:
    """Load both scenes in evaluation mode."""
    edited = load_run(plan.run.config_path, plan.run.step, plan.run.data)
    if plan.source is not None:
        before = load_run(plan.source.config_path, plan.source.step, plan.source.data).model
    else:
        refined = plan.refined
        edit = edited if refined is None else load_run(refined.config_path, refined.step, refined.data)
        assert isinstance(edit, EditPipeline)
        before = edit.source_scene()
    return Pair(plan, before, edited.model, train_views(edited.datamanager), held_out_views(edited.datamanager))


def load_run(config_path: Path, step: int | None = None, data: Path | None = None) -> VanillaPipeline:
    """A finished run (or its checkpoint of that step) as the `ns-*` commands load it, in evaluation mode."""
    _, pipeline, _, _ = set_up(config_path, step=step, data=data)
    return pipeline


def set_up(
    config_path: Path,
    eval_num_rays_per_chunk: int | None = None,
    test_mode: Literal["test", "val", "inference"] = "test",
    step: int | None = None,
    data: Path | None = None,
) -> tuple[TrainerConfig, VanillaPipeline, Path, int]:
    """What nerfstudio's `eval_setup` does, with the checkpoint that lies beside `config_path`, read safely.

    nerfstudio looks for the checkpoint at the place that `config.yml` names: of a run that was copied, the original's.
    And it reads all photographs, where these are read one by one, for nobody here takes batches of rays.

    Args:
        data: the dataset, where it is not at the place that the run names.

    Returns:
        configuration, pipeline in evaluation mode, the checkpoint, and its step.

    Raises:
        UserError: the run cannot be read.
    """
    from nerfstudio.configs.method_configs import all_methods

    run = find_run(config_path, step, called="The run")
    config: Any = copy.deepcopy(run.config)
    if isinstance(config.pipeline, EditConfig):
        find_source(config.pipeline.run, config, config_path.parent)
    if data is not None:
        name_data(config, data)
    if run.method_name in all_methods:
        registered: Any = all_methods[run.method_name].pipeline
        config.pipeline.datamanager._target = photographs_alone(registered.datamanager)
    config.pipeline.datamanager = looked_into(config.pipeline.datamanager)
    leave_points_out(getattr(config.pipeline.datamanager, "dataparser", None))
    if eval_num_rays_per_chunk:
        config.pipeline.model.eval_num_rays_per_chunk = eval_num_rays_per_chunk
    config.load_dir, config.load_step = run.checkpoint_path.parent, run.step
    state = load_source_state(run)
    device = default_device()
    with reading_dataset(run.family == "splatfacto"), few_points(config.pipeline.model):
        pipeline = config.pipeline.setup(device=device, test_mode=test_mode)
    pipeline.eval()
    try:
        pipeline.load_pipeline(state, run.step)
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"The checkpoint {run.checkpoint_path} does not fit the settings of its run ({reason}): choose another, or "
            "make the run again."
        ) from error
    return config, pipeline, run.checkpoint_path, run.step
