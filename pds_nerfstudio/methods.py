"""The table of methods: what `ns-train <name>` runs.

Every `ns-*` command imports this module, through the `nerfstudio.method_configs` entry points, whatever method it is
about. It therefore imports no diffusion library, and puts `compat` in place before anything is built.
"""

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from pds_nerfstudio import compat
from pds_nerfstudio.objectives.base import ScoreDistillation
from pds_nerfstudio.objectives.dds import DDS
from pds_nerfstudio.objectives.pds import PDS
from pds_nerfstudio.objectives.piva import Piva
from pds_nerfstudio.objectives.sds import SDS
from pds_nerfstudio.objectives.vsd import VSD
from pds_nerfstudio.pipelines.edit import ADAPTERS, EditPipelineConfig
from pds_nerfstudio.pipelines.idu import IduConfig
from pds_nerfstudio.pipelines.refine import RefineConfig
from pds_nerfstudio.pipelines.revise import ReviseConfig
from pds_nerfstudio.pipelines.trainer import EditTrainerConfig, SceneTrainerConfig
from pds_nerfstudio.priors.adapters import ADAPTER_RATE
from pds_nerfstudio.scenes.nerfacto import NerfactoSceneConfig, available_implementation
from pds_nerfstudio.scenes.splatfacto import SplatfactoSceneConfig

compat.apply()


def _adam(lr: float, final: float | None = None, steps: int = 30_000) -> dict:
    """Optimiser of one parameter group: Adam, its rate decaying to `final` over `steps` where one is given."""
    scheduler = None if final is None else ExponentialDecaySchedulerConfig(lr_final=final, max_steps=steps)
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


def _machine() -> MachineConfig:
    """nerfstudio's machine settings, on the CPU where there is no CUDA."""
    return MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu")


def nerfacto_optimizers() -> dict:
    """Optimisers of nerfacto's parameter groups, as nerfstudio's nerfacto has them."""
    return {
        "proposal_networks": _adam(1e-2, 1e-4, 200_000),
        "fields": _adam(1e-2, 1e-4, 200_000),
        "camera_opt": _adam(1e-3, 1e-4, 5_000),
    }


def splatfacto_optimizers() -> dict:
    """Optimisers of splatfacto's parameter groups, as nerfstudio's splatfacto has them."""
    return {
        "means": _adam(1.6e-4, 1.6e-6),
        "features_dc": _adam(0.0025),
        "features_rest": _adam(0.0025 / 20),
        "opacities": _adam(0.05),
        "scales": _adam(0.005),
        "quats": _adam(0.001),
        "camera_opt": _adam(1e-4, 5e-7),
        "bilateral_grid": _adam(2e-3, 1e-4),
    }


source_nerfacto = MethodSpecification(
    SceneTrainerConfig(
        method_name="source-nerfacto",
        steps_per_eval_batch=500,
        steps_per_save=2000,
        max_num_iterations=30_000,
        mixed_precision=True,
        machine=_machine(),
        pipeline=VanillaPipelineConfig(
            datamanager=VanillaDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(),
                train_num_rays_per_batch=4096,
                eval_num_rays_per_batch=4096,
            ),
            model=NerfactoSceneConfig(
                eval_num_rays_per_chunk=1 << 15,
                average_init_density=0.01,
                # One appearance and the given poses: an edit then has only the scene to change.
                use_appearance_embedding=False,
                camera_optimizer=CameraOptimizerConfig(mode="off"),
                implementation=available_implementation(),
            ),
        ),
        optimizers=nerfacto_optimizers(),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    "nerfacto to be edited: without appearance embedding and pose optimisation; needs neither CUDA nor network.",
)

source_splatfacto = MethodSpecification(
    SceneTrainerConfig(
        method_name="source-splatfacto",
        steps_per_eval_image=100,
        steps_per_eval_batch=0,
        steps_per_save=2000,
        steps_per_eval_all_images=1000,
        max_num_iterations=30_000,
        mixed_precision=False,
        machine=_machine(),
        pipeline=VanillaPipelineConfig(
            datamanager=FullImageDatamanagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True),
                cache_images_type="uint8",
            ),
            model=SplatfactoSceneConfig(),
        ),
        optimizers=splatfacto_optimizers(),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    "splatfacto to be edited: the built-in's settings; needs neither CUDA nor network.",
)


def _edit_of_nerfacto(name: str, pipeline: EditPipelineConfig, description: str) -> MethodSpecification:
    """A method that edits nerfacto scenes."""
    pipeline.datamanager = VanillaDataManagerConfig(dataparser=NerfstudioDataParserConfig())
    pipeline.model = NerfactoSceneConfig(implementation=available_implementation())
    optimizers = {"proposal_networks": _adam(1e-2, 1e-3), "fields": _adam(1e-2, 1e-3)}
    return _edit(name, pipeline, optimizers, description)


def _edit_of_splatfacto(name: str, pipeline: EditPipelineConfig, description: str) -> MethodSpecification:
    """The same on splats."""
    pipeline.datamanager = FullImageDatamanagerConfig(
        dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
    )
    pipeline.model = SplatfactoSceneConfig()
    optimizers = {
        # Higher than splatfacto's own, which have 30,000 photometric steps; a tenth of it at the end of the edit.
        "means": _adam(1e-3, 1e-4),
        "features_dc": _adam(0.01, 0.001),
        "features_rest": _adam(0.01 / 20, 0.001 / 20),
        "opacities": _adam(0.05, 0.005),
        "scales": _adam(0.01, 0.001),
        "quats": _adam(0.002, 0.0002),
    }
    return _edit(name, pipeline, optimizers, description)


def _edit(name: str, pipeline: EditPipelineConfig, optimizers: dict, description: str) -> MethodSpecification:
    if pipeline.objective.adapters:
        optimizers = optimizers | {ADAPTERS: _adam(ADAPTER_RATE)}
    steps = pipeline.edit_steps + pipeline.refine_steps if isinstance(pipeline, ReviseConfig) else 30_000
    config = EditTrainerConfig(
        method_name=name,
        steps_per_eval_batch=0,
        steps_per_save=1000,
        max_num_iterations=steps,
        mixed_precision=isinstance(pipeline.model, NerfactoSceneConfig),
        machine=_machine(),
        pipeline=pipeline,
        optimizers=optimizers,
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    )
    return MethodSpecification(config, description)


def _trained_on_images(method: MethodSpecification, steps: int, optimizers: dict) -> MethodSpecification:
    """The same method with the learning rates of a scene that trains on images, for so many steps."""
    method.config.max_num_iterations = steps
    method.config.optimizers = {name: optimizers[name] for name in method.config.optimizers}
    return method


def _objective(objective: ScoreDistillation) -> EditPipelineConfig:
    return EditPipelineConfig(objective=objective)


sds_edit = _edit_of_nerfacto(
    "sds-edit", _objective(SDS()), "Edit a nerfacto scene by SDS (Poole et al. 2022): a baseline."
)
dds_edit = _edit_of_nerfacto(
    "dds-edit", _objective(DDS()), "Edit a nerfacto scene by DDS (Hertz et al. 2023): a baseline."
)
pds_edit = _edit_of_nerfacto("pds-edit", _objective(PDS()), "Edit a nerfacto scene by PDS (Koo et al. 2024).")
pnr_edit = _edit_of_nerfacto(
    "pnr-edit", ReviseConfig(), "Edit a nerfacto scene by Perturb-and-Revise (Hong et al. 2024): for changes of shape."
)
vsd_edit = _edit_of_nerfacto(
    "vsd-edit", _objective(VSD()), "Edit a nerfacto scene by VSD (Wang et al. 2023): a baseline."
)
piva_edit = _edit_of_nerfacto("piva-edit", _objective(Piva()), "Edit a nerfacto scene by Piva (Le et al. 2024).")
sds_edit_splat = _edit_of_splatfacto(
    "sds-edit-splat", _objective(SDS()), "Edit splats by SDS (Poole et al. 2022): a baseline."
)
dds_edit_splat = _edit_of_splatfacto(
    "dds-edit-splat", _objective(DDS()), "Edit splats by DDS (Hertz et al. 2023): a baseline."
)
pds_edit_splat = _edit_of_splatfacto("pds-edit-splat", _objective(PDS()), "Edit splats by PDS (Koo et al. 2024).")
vsd_edit_splat = _edit_of_splatfacto(
    "vsd-edit-splat", _objective(VSD()), "Edit splats by VSD (Wang et al. 2023): a baseline."
)
piva_edit_splat = _edit_of_splatfacto("piva-edit-splat", _objective(Piva()), "Edit splats by Piva (Le et al. 2024).")
pnr_edit_splat = _edit_of_splatfacto(
    "pnr-edit-splat",
    ReviseConfig(eta=0.3, eta_opacity=0.8),
    "Edit splats by Perturb-and-Revise (Hong et al. 2024): for changes of shape.",
)

# nerfacto's and splatfacto's own learning rates are for a scene that is made from nothing: a tenth of them for a
# NeRF's field, splatfacto's as they are.
ON_IMAGES = splatfacto_optimizers() | {"fields": _adam(1e-3, 1e-4), "proposal_networks": _adam(1e-3, 1e-4)}
sdedit_refine = _trained_on_images(
    _edit_of_nerfacto("sdedit-refine", RefineConfig(), "Refine an edited nerfacto scene by SDEdit (Koo et al. 2024)."),
    15_000,
    ON_IMAGES,
)
sdedit_refine_splat = _trained_on_images(
    _edit_of_splatfacto("sdedit-refine-splat", RefineConfig(), "Refine edited splats by SDEdit (Koo et al. 2024)."),
    15_000,
    ON_IMAGES,
)
idu_edit = _trained_on_images(
    _edit_of_nerfacto(
        "idu-edit", IduConfig(), "Edit a nerfacto scene by iterative dataset update (Haque et al. 2023): a baseline."
    ),
    30_000,
    ON_IMAGES,
)
idu_edit_splat = _trained_on_images(
    _edit_of_splatfacto(
        "idu-edit-splat", IduConfig(), "Edit splats by iterative dataset update (Haque et al. 2023): a baseline."
    ),
    30_000,
    ON_IMAGES,
)

METHODS: dict[str, MethodSpecification] = {
    str(method.config.method_name): method
    for method in (
        source_nerfacto,
        source_splatfacto,
        sds_edit,
        dds_edit,
        pds_edit,
        vsd_edit,
        piva_edit,
        pnr_edit,
        sdedit_refine,
        idu_edit,
        sds_edit_splat,
        dds_edit_splat,
        pds_edit_splat,
        vsd_edit_splat,
        piva_edit_splat,
        pnr_edit_splat,
        sdedit_refine_splat,
        idu_edit_splat,
    )
}
"""Every method of this package by the name that users type."""
