"""The names under which the `config.yml` of a run of version 0.1.0 knows an edit by distillation."""

from pds_nerfstudio.pipelines.distillation import DistillationConfig as EditPipelineConfig
from pds_nerfstudio.pipelines.distillation import DistillationPipeline as EditPipeline

__all__ = ["EditPipeline", "EditPipelineConfig"]
