"""A scene before and after its edit, loaded for looking at: one set of cameras, two models, no prior."""

from dataclasses import dataclass
from pathlib import Path

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.eval_utils import eval_setup

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.pipelines.edit import EditPipeline, EditPipelineConfig
from pds_nerfstudio.pipelines.outcome import held_out_views
from pds_nerfstudio.scenes.source import Family, SourceRun, find_run
from pds_nerfstudio.scenes.views import Views, train_views


@dataclass(frozen=True)
class PairPlan:
    """Which two scenes are compared; found without loading either."""

    run: SourceRun
    """The edited run."""
    source: SourceRun | None
    """The run to compare with, where one was named; else the one that the edit began with."""

    @property
    def folder(self) -> Path:
        """The edited run's folder."""
        return self.run.config_path.parent

    @property
    def before(self) -> Path:
        """Folder of the run it is compared with."""
        if self.source is not None:
            return self.source.config_path.parent
        assert self.edit is not None
        assert self.edit.base is not None
        return self.edit.base.parent

    @property
    def family(self) -> Family:
        return self.run.family

    @property
    def edit(self) -> EditPipelineConfig | None:
        """What the edit was asked for; None where RUN is no edit."""
        pipeline = self.run.config.pipeline
        return pipeline if isinstance(pipeline, EditPipelineConfig) else None

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


def plan_pair(run: Path, step: int | None = None, source: Path | None = None) -> PairPlan:
    """Find an edited run and what it is compared with.

    Raises:
        UserError: either is missing, `run` is no edit and no `source` is named, or its dataset has moved.
    """
    found = find_run(run, step, called="The run")
    plan = PairPlan(found, None if source is None else find_run(source, called="--source"))
    if source is None:
        if plan.edit is None or plan.edit.base is None:
            raise UserError(
                f"{plan.folder} is a run of {found.method_name}, which is no edit: give the folder of an edited run, "
                "or name what to compare it with by --source."
            )
        if not plan.edit.base.exists():
            raise UserError(
                f"The scene that {plan.folder} was edited from is not at {plan.edit.base} any more: name it with "
                "--source."
            )
        find_run(plan.edit.base, plan.edit.base_step, called="The scene before the edit")
    for side in (plan.run, plan.source):
        if side is not None and side.data is not None and not side.data.exists():
            raise UserError(
                f"The dataset {side.data} of {side.config_path.parent} is not there (a relative path counts from where "
                "the run was started): go there, or put the dataset back."
            )
    return plan


def load_pair(plan: PairPlan) -> Pair:
    """Load both scenes in evaluation mode."""
    edited = load_run(plan.run.config_path, plan.run.step)
    if plan.source is not None:
        before = load_run(plan.source.config_path, plan.source.step).model
    else:
        assert isinstance(edited, EditPipeline)
        before = edited.source_scene()
    return Pair(plan, before, edited.model, train_views(edited.datamanager), held_out_views(edited.datamanager))


def load_run(config_path: Path, step: int | None = None) -> VanillaPipeline:
    """A finished run (or its checkpoint of that step) as the `ns-*` commands load it, in evaluation mode."""

    def at_step(config: TrainerConfig) -> TrainerConfig:
        config.load_step = step
        return config

    _, pipeline, _, _ = eval_setup(config_path, test_mode="test", update_config_callback=at_step)
    pipeline.eval()
    return pipeline  # pyright: ignore[reportReturnType]
