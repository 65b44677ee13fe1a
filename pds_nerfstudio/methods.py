"""The table of methods: what `ns-train <name>` runs.

Every `ns-*` command imports this module, through the `nerfstudio.method_configs` entry points, whatever method it is
about. It therefore imports no diffusion library, and puts `compat` in place before anything is built.
"""

import sys
from collections.abc import Callable

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from pds_nerfstudio import compat, export_tab
from pds_nerfstudio.machine import default_device
from pds_nerfstudio.objectives.base import ScoreDistillation
from pds_nerfstudio.objectives.dds import DDS
from pds_nerfstudio.objectives.dreamcatalyst import DreamCatalyst
from pds_nerfstudio.objectives.dvrf import DVRF
from pds_nerfstudio.objectives.pds import PDS
from pds_nerfstudio.objectives.piva import Piva
from pds_nerfstudio.objectives.sds import SDS
from pds_nerfstudio.objectives.ssd import SSD
from pds_nerfstudio.objectives.vsd import VSD
from pds_nerfstudio.pipelines.command_line import asks_for_help, names_one_of, refuse_load_config, tidy_command_line
from pds_nerfstudio.pipelines.distillation import ADAPTERS, DistillationConfig
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.idu import IduConfig
from pds_nerfstudio.pipelines.interruption import stop_before_the_first_step
from pds_nerfstudio.pipelines.most_used import most_used_page
from pds_nerfstudio.pipelines.refine import RefineConfig
from pds_nerfstudio.pipelines.revise import ReviseConfig
from pds_nerfstudio.pipelines.settings_tree import for_family
from pds_nerfstudio.pipelines.trainer import EditTrainerConfig, SceneTrainerConfig
from pds_nerfstudio.priors.adapters import ADAPTER_RATE
from pds_nerfstudio.scenes.nerfacto import NerfactoSceneConfig, available_implementation
from pds_nerfstudio.scenes.splatfacto import SplatfactoSceneConfig

compat.apply()
export_tab.extend()


def _adam(lr: float, final: float | None = None, steps: int = 30_000) -> dict:
    """Optimiser of one parameter group: Adam, its rate decaying to `final` over `steps` where one is given."""
    scheduler = None if final is None else ExponentialDecaySchedulerConfig(lr_final=final, max_steps=steps)
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


def _machine() -> MachineConfig:
    """nerfstudio's machine settings, on the CPU where there is no CUDA."""
    return MachineConfig(device_type=default_device())


def _logging() -> LoggingConfig:
    """nerfstudio's, without its table of the last ten steps, beside which the progress bar says the same, and without
    its timings. `--logging.local-writer.enable True --logging.profiler basic` brings both back."""
    return LoggingConfig(local_writer=LocalWriterConfig(enable=False), profiler="none")


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
        logging=_logging(),
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
        logging=_logging(),
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


FRUSTUMS = 64
"""Training views that an edit's viewer can show: each is decoded whole before the first step, for a thumbnail."""
NERF_RATES = {"piva-edit": 1e-3}
"""Learning rates of an edited NeRF where they are not nerfacto's own: Piva's of Le et al. 2024 (A.1)."""


def _nerf(name: str, config: EditConfig, description: tuple[str, str]) -> MethodSpecification:
    """A method that edits nerfacto scenes."""
    config.datamanager = VanillaDataManagerConfig(dataparser=NerfstudioDataParserConfig())
    config.model = NerfactoSceneConfig(implementation=available_implementation())
    for_family(config, "nerfacto")
    rate = NERF_RATES.get(name, 1e-2)
    optimizers = {group: _adam(rate, rate / 10) for group in ("proposal_networks", "fields")}
    return _edit(name, config, optimizers, " a nerfacto scene".join(description), mixed_precision=True)


def _splats(name: str, config: EditConfig, description: tuple[str, str]) -> MethodSpecification:
    """The same method on splats."""
    config.datamanager = FullImageDatamanagerConfig(dataparser=NerfstudioDataParserConfig(), cache_images_type="uint8")
    config.model = SplatfactoSceneConfig()
    for_family(config, "splatfacto")
    optimizers = {
        # Higher than splatfacto's own, which have 30,000 photometric steps; a tenth of it at the end of the edit.
        "means": _adam(1e-3, 1e-4),
        "features_dc": _adam(0.01, 0.001),
        "features_rest": _adam(0.01 / 20, 0.001 / 20),
        "opacities": _adam(0.05, 0.005),
        "scales": _adam(0.01, 0.001),
        "quats": _adam(0.002, 0.0002),
    }
    return _edit(f"{name}-splat", config, optimizers, " splats".join(description), mixed_precision=False)


def _edit(
    name: str, config: EditConfig, optimizers: dict, description: str, mixed_precision: bool
) -> MethodSpecification:
    if config.adapters:
        optimizers = optimizers | {ADAPTERS: _adam(ADAPTER_RATE)}
    return MethodSpecification(
        EditTrainerConfig(
            method_name=name,
            steps_per_eval_batch=0,
            steps_per_save=1000,
            max_num_iterations=config.steps if isinstance(config, ReviseConfig) else 30_000,
            mixed_precision=mixed_precision,
            machine=_machine(),
            logging=_logging(),
            pipeline=config,
            optimizers=optimizers,
            viewer=ViewerConfig(num_rays_per_chunk=1 << 15, max_num_display_images=FRUSTUMS),
            vis="viewer",
        ),
        description,
    )


def _both(
    name: str, make: Callable[[], EditConfig], verb: str, rest: str
) -> tuple[MethodSpecification, MethodSpecification]:
    """A method on nerfacto scenes and on splats; its description is "VERB a nerfacto scene REST" and "VERB splats
    REST"."""
    return _nerf(name, make(), (verb, rest)), _splats(name, make(), (verb, rest))


def _on_images(
    methods: tuple[MethodSpecification, MethodSpecification], steps: int
) -> tuple[MethodSpecification, MethodSpecification]:
    """The same methods with the learning rates of a scene that trains on images, for so many steps.

    nerfacto's and splatfacto's own rates are for a scene that is made from nothing: a tenth of them for a NeRF's
    field, splatfacto's as they are.
    """
    rates = splatfacto_optimizers() | {"fields": _adam(1e-3, 1e-4), "proposal_networks": _adam(1e-3, 1e-4)}
    for method in methods:
        method.config.max_num_iterations = steps
        method.config.optimizers = {name: rates[name] for name in method.config.optimizers}
    return methods


def _distilled(name: str, objective: type[ScoreDistillation], rest: str, steps: int = 30_000):
    """A method that edits by one objective."""
    methods = _both(name, lambda: DistillationConfig(objective=objective()), "Edit", rest)
    for method in methods:
        method.config.max_num_iterations = steps
    return methods


sds_edit, sds_edit_splat = _distilled("sds-edit", SDS, " by SDS (Poole et al. 2022): a baseline.")
dds_edit, dds_edit_splat = _distilled("dds-edit", DDS, " by DDS (Hertz et al. 2023): a baseline.")
pds_edit, pds_edit_splat = _distilled("pds-edit", PDS, " by PDS (Koo et al. 2024).")
vsd_edit, vsd_edit_splat = _distilled("vsd-edit", VSD, " by VSD (Wang et al. 2023): a baseline.")
piva_edit, piva_edit_splat = _distilled("piva-edit", Piva, " by Piva (Le et al. 2024).")
ssd_edit, ssd_edit_splat = _distilled("ssd-edit", SSD, " by SSD (Stable Score Distillation, ICCV 2025): a baseline.")
dvrf_edit, dvrf_edit_splat = _distilled(
    "dvrf-edit", DVRF, " by DVRF (Delta Velocity Rectified Flow, 2025): DDS for flow priors."
)
dreamcatalyst_edit, dreamcatalyst_edit_splat = _distilled(
    "dreamcatalyst-edit", DreamCatalyst, " by DreamCatalyst (Kim et al. 2024): DDS with a hold on the source.", 3_000
)
pnr_edit, pnr_edit_splat = _both(
    "pnr-edit", ReviseConfig, "Edit", " by Perturb-and-Revise (Hong et al. 2024): for changes of shape."
)
sdedit_refine, sdedit_refine_splat = _on_images(
    _both("sdedit-refine", RefineConfig, "Refine", " after an edit, by SDEdit (Koo et al. 2024)."), 15_000
)
idu_edit, idu_edit_splat = _on_images(
    _both("idu-edit", IduConfig, "Edit", " by iterative dataset update (Haque et al. 2023): a baseline."), 30_000
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
        ssd_edit,
        dvrf_edit,
        dreamcatalyst_edit,
        pnr_edit,
        sdedit_refine,
        idu_edit,
        sds_edit_splat,
        dds_edit_splat,
        pds_edit_splat,
        vsd_edit_splat,
        piva_edit_splat,
        ssd_edit_splat,
        dvrf_edit_splat,
        dreamcatalyst_edit_splat,
        pnr_edit_splat,
        sdedit_refine_splat,
        idu_edit_splat,
    )
}
"""Every method of this package by the name that users type."""

if names_one_of(sys.argv, METHODS):
    stop_before_the_first_step()
    if asks_for_help(sys.argv):
        print(most_used_page(METHODS[sys.argv[1]].config))
    tidy_command_line(METHODS[sys.argv[1]].config)
refuse_load_config(sys.argv, METHODS.keys() - {"source-nerfacto", "source-splatfacto"})
