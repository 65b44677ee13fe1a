"""Score distillation objectives: torch and nothing else.

Notation, used in every file of this project:

    symbol                            meaning                                                 in code
    θ, θ_src                          parameters of the edited scene; of the frozen source    the scene's model
    I = render(view; θ)               rendering, RGB in [0, 1], [B 3 H W]                     scenes
    x⁰ = E(I)                         latent: VAE posterior mean × scaling factor, [B C h w]  x0_tgt, x0_src
    ᾱ_t                               the prior's own training schedule, [T]                  NoiseSchedule
    α_t = ᾱ_t/ᾱ_{t−1}, β_t = 1 − α_t  of the one transition t−1 → t                           alpha, beta
    t, s                              zero-based training steps, 0 ≤ s < t < T                t, s
    ε_t, ε_s                          standard normal noise, shared by source and target      eps, eps_s
    x_t = √ᾱ_t x⁰ + √(1−ᾱ_t) ε_t      forward process                                         add_noise
    y_src, y_tgt                      source and target prompt                                src_prompt, tgt_prompt
    ε̂ = ε_∅ + ω(ε_y − ε_∅)            noise prediction under guidance ω                       predict_noise, guided
    ε_ψ, ε_φ                          predictions of adapters: ψ has learned the source,
                                      φ the edited renderings                                 Query.adapter
    ε̂_tgt, ε̂_src                      ε̂(x_t^tgt, t, y_tgt), ε̂(x_t^src, t, y_src), one ε_t     predict_pair

All gradients with respect to x⁰_tgt, in this notation:

    SDS   w(t) (ε̂_tgt − ε_t)                                                       w = 1 − ᾱ_t
    DDS   w(t) (ε̂_tgt − ε̂_src)                                                     w = 1
    VSD   w(t) (ε̂_tgt − ε_φ(x_t, y_tgt))                                           w = 1 − ᾱ_t
    Piva  w(t) [ε̂_tgt − ε̂_src + λ (ε_ψ(x_t, y_src) − ε_φ(x_t, y_tgt))]             w = 1 − ᾱ_t
    SSD   c_x (ε(x_t^tgt, y_src) − ε(x_t^src, ∅)) + ½ω (ε(x_t^tgt, y_tgt) − ε(x_t^tgt, y_src)) + …  see `ssd.py`
    DVRF  (ε̂_tgt − ε̂_src − η (x⁰_tgt − x⁰_src))/(1−σ), the noisy target shifted by η σ (x⁰_tgt − x⁰_src)  see `dvrf.py`
    PDS   z̃_tgt − z̃_src = (k/σ)(x⁰_tgt − x⁰_src) + (γ√(1/ᾱ_t − 1)/σ)(ε̂_tgt − ε̂_src)
          γ = √ᾱ_s β_t/(1−ᾱ_t)   δ = √α_t (1−ᾱ_s)/(1−ᾱ_t)   σ² = β_t (1−ᾱ_s)/(1−ᾱ_t)   k = √ᾱ_s − γ − δ√ᾱ_t

    DreamCatalyst  0.75 t̄^(1/e) (ε̂_tgt − ε̂_src) + 0.075 e^t̄ (x_t^tgt − x_t^src),   t̄ = t/T

Any of them can be told to draw (t, ε) again where the prior hardly answers, and to bring g to one size (`controls.py`).

Where Koo et al. 2024 differ: they count timesteps from 1 and write t−1 for s; their eq. 6 calls the variance σ_t.
Every gradient is computed without a graph (the U-Net's Jacobian is dropped by construction) and is turned into a
loss by `surrogate_loss` alone, whose value is ½‖g‖² and whose derivative is g/B.

A new objective is one file here, a frozen dataclass with `gradient`, and one entry of OBJECTIVES: `--pipeline.by`, the
viewer's panel, `pds preview` and `pds calibrate-eta` then offer it under its class's name in small letters.
"""

from typing import TYPE_CHECKING, Literal

from pds_nerfstudio.objectives.base import (
    Edit,
    Objective,
    Prior,
    Query,
    ScoreDistillation,
    guided,
    surrogate_loss,
)
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.dds import DDS
from pds_nerfstudio.objectives.dreamcatalyst import DreamCatalyst
from pds_nerfstudio.objectives.dvrf import DVRF
from pds_nerfstudio.objectives.pds import PDS, pds_coefficients, stochastic_latent
from pds_nerfstudio.objectives.piva import Piva
from pds_nerfstudio.objectives.schedule import Latents, NoiseSchedule, Timesteps
from pds_nerfstudio.objectives.sds import SDS
from pds_nerfstudio.objectives.ssd import SSD
from pds_nerfstudio.objectives.vsd import VSD

OBJECTIVES: tuple[type[ScoreDistillation], ...] = (SDS, DDS, PDS, VSD, Piva, SSD, DVRF, DreamCatalyst)
"""Every objective, baselines first."""
BY_NAME: dict[str, type[ScoreDistillation]] = {kind.__name__.lower(): kind for kind in OBJECTIVES}
"""The same by the names that command lines, sessions and the panel use."""
if TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[tuple(BY_NAME)]


def name_of(objective: ScoreDistillation) -> str:
    """What a command line calls this objective."""
    return type(objective).__name__.lower()


__all__ = [
    "BY_NAME",
    "DDS",
    "DVRF",
    "OBJECTIVES",
    "PDS",
    "SDS",
    "SSD",
    "VSD",
    "DreamCatalyst",
    "Edit",
    "Latents",
    "NoiseSchedule",
    "Objective",
    "ObjectiveName",
    "Piva",
    "Prior",
    "Query",
    "ScoreDistillation",
    "Timesteps",
    "Viewpoints",
    "guided",
    "name_of",
    "pds_coefficients",
    "stochastic_latent",
    "surrogate_loss",
]
