"""A drawing edited by score distillation: θ are control points, colours, opacities and stroke widths.

    I = render(θ),  x⁰_tgt = E(I),  x⁰_src = E(render(θ_src)),    g = objective.gradient(prior, Edit(x⁰_tgt, x⁰_src, …))

and Adam on the vector-Jacobian product of g through encoder and rasteriser: Koo et al. 2024, section 6.2, whose recipe
is the default (1000 steps, points 0.8 pixels of a 512 canvas, colours 0.01). The source's latent is computed once.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from pds_nerfstudio.checkpoints import load_tensors
from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import written
from pds_nerfstudio.images import working_size
from pds_nerfstudio.objectives.base import Edit, ScoreDistillation, surrogate_loss
from pds_nerfstudio.objectives.controls import CONTROLS, Draw, take_step
from pds_nerfstudio.pipelines.image_edit import _fresh_adapters
from pds_nerfstudio.pipelines.svg_settings import SvgSettings
from pds_nerfstudio.priors.adapters import ADAPTER_RATE
from pds_nerfstudio.priors.learning import LearningPrior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.vector import Drawing, Values, render

SAVE_EVERY = 50
"""Steps between two saved states; an interrupted edit loses as many at most."""
FRAMES = 60
"""Snapshots along an edit, beside the source: the frames of its film."""


@dataclass(frozen=True, eq=False)
class SvgProgress:
    """An edit as far as it has come."""

    values: Values
    snapshots: list[Values] = field(default_factory=list)
    """The source and what it became, at equal distances along the edit."""
    step: int = 0


def picture_size(drawing: Drawing, prior: StableDiffusionPrior, short_side: int | None) -> tuple[int, int]:
    """Height and width at which the prior sees a drawing, by default the size it was trained at."""
    side = short_side or prior.trained_size
    return working_size(round(drawing.height), round(drawing.width), side, prior.size_multiple)


def edit_drawing(
    prior: StableDiffusionPrior,
    objective: ScoreDistillation,
    drawing: Drawing,
    src_prompt: str,
    tgt_prompt: str,
    settings: SvgSettings = SvgSettings(),
    short_side: int | None = None,
    state: Path | None = None,
    after_step: Callable[[int], None] = lambda _: None,
) -> SvgProgress:
    """Edit a drawing, or go on with an edit that was interrupted.

    Args:
        short_side: of the picture that the prior sees, in pixels.
        state: file that the edit's state is kept in, and read from if it is there.
        after_step: called with the number of steps done.

    Raises:
        UserError: the state is of another edit, or the values are no longer finite.
    """
    device = prior.device
    height, width = picture_size(drawing, prior, short_side)
    values = drawing.source.map(lambda value: value.to(device, copy=True).requires_grad_(True))
    editable = {name: mask.to(device) for name, mask in drawing.editable.items()}
    shown = drawing.drawn_on(device)
    with torch.no_grad():
        x0_src = prior.encode(render(shown, values, height, width))
    rates = {
        "points": settings.points_rate,
        "colours": settings.colours_rate,
        "opacities": settings.colours_rate,
        "widths": settings.widths_rate,
    }
    tensors = values.tensors()
    optimizers = [torch.optim.Adam([{"params": [tensors[name]], "lr": rate} for name, rate in rates.items()])]
    if objective.adapters:
        learners = _fresh_adapters(prior, objective.adapters, settings.adapter_rank, settings.seed)
        optimizers.append(torch.optim.Adam(learners, lr=ADAPTER_RATE))
    generator = torch.Generator().manual_seed(settings.seed)
    key = _fingerprint(prior, objective, drawing, (src_prompt, tgt_prompt), settings, (height, width))
    progress = SvgProgress(values, [_copy(values)])
    if state is not None and state.is_file():
        progress = _resume(state, key, values, prior, optimizers, generator)
    kept = {round(settings.steps * i / FRAMES) for i in range(1, FRAMES + 1)}
    for step in range(progress.step + 1, settings.steps + 1):
        x0_tgt = prior.encode(render(shown, values, height, width))
        at = objective.at((step - 1) / settings.steps)
        draw = partial(_draw, at, prior, x0_src, generator)
        edit = Edit(x0_tgt.detach(), x0_src, src_prompt, tgt_prompt, *draw([0]))
        taken = take_step(at, edit, partial(LearningPrior.of_step, prior, objective.adapters), draw)
        loss = surrogate_loss(x0_tgt, taken.gradient)
        torch.stack([loss, *taken.prior.losses().values()]).sum().backward()
        for name, tensor in tensors.items():
            if tensor.grad is not None:
                tensor.grad *= editable[name]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        values.clamp_()
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise UserError(f"The drawing is not finite after {step} steps: give a lower learning rate or guidance.")
        if step in kept:
            progress.snapshots.append(_copy(values))
        progress = SvgProgress(values, progress.snapshots, step)
        if state is not None and (step % SAVE_EVERY == 0 or step == settings.steps):
            _save(state, key, progress, prior, optimizers, generator)
        after_step(step)
    return SvgProgress(_copy(values), progress.snapshots, progress.step)


def _draw(
    objective: ScoreDistillation,
    prior: StableDiffusionPrior,
    like: Tensor,
    generator: torch.Generator,
    rows: Sequence[int],
) -> Draw:
    """Timesteps and noise of the one picture."""
    t, s = (drawn.to(like.device) for drawn in objective.sample_timesteps(prior.schedule, len(rows), generator))
    eps, eps_s = (torch.randn(like.shape, generator=generator).to(like) for _ in range(2))
    return t, s, eps, eps_s


def _copy(values: Values) -> Values:
    return values.map(lambda value: value.detach().cpu().clone())


def _fingerprint(
    prior: StableDiffusionPrior,
    objective: ScoreDistillation,
    drawing: Drawing,
    prompts: tuple[str, str],
    settings: SvgSettings,
    size: tuple[int, int],
) -> str:
    """What an edit is, so that its state is not taken for another's.

    Controls that are off are left out: edits that were begun before there were any go on.
    """
    of_kind = asdict(type(objective)())
    chosen = {n: value for n, value in asdict(objective).items() if n not in CONTROLS or value != of_kind[n]}
    document = ElementTree.canonicalize(ElementTree.tostring(drawing.document.root, "unicode"), rewrite_prefixes=True)
    return json.dumps(
        {
            "drawing": hashlib.sha256(document.encode()).hexdigest(),
            "prior": str(getattr(prior.denoiser.config, "_name_or_path", "")),
            "objective": {"name": type(objective).__name__, **chosen},
            "prompts": prompts,
            "settings": asdict(settings),
            "size": size,
        },
        sort_keys=True,
    )


def _save(
    path: Path,
    key: str,
    progress: SvgProgress,
    prior: StableDiffusionPrior,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
) -> None:
    content: dict[str, Any] = {
        "key": key,
        "step": progress.step,
        "values": progress.values.tensors(),
        "snapshots": [snapshot.tensors() for snapshot in progress.snapshots],
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "generator": generator.get_state(),
        "adapters": prior.adapters.state_dict() if prior.adapters is not None and len(optimizers) > 1 else None,
    }
    with written(path) as partial:
        torch.save(content, partial)


def _resume(
    path: Path,
    key: str,
    values: Values,
    prior: StableDiffusionPrior,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
) -> SvgProgress:
    """Bring everything to where a state left it."""
    remedy = "remove it to begin the edit again"
    content = load_tensors(path, remedy)
    if content.get("key") != key:
        raise UserError(
            f"{path} is of an edit of another drawing, or with other settings: give another --out, or remove it to "
            "begin again."
        )
    try:
        return _continued(content, values, prior, optimizers, generator)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}): {remedy}.") from error


def _continued(
    content: dict[str, Any],
    values: Values,
    prior: StableDiffusionPrior,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
) -> SvgProgress:
    """The same, with the state's content."""
    with torch.no_grad():
        for name, tensor in values.tensors().items():
            tensor.copy_(content["values"][name])
    for optimizer, saved in zip(optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if content["adapters"] is not None and prior.adapters is not None:
        prior.adapters.load_state_dict(content["adapters"])
    generator.set_state(content["generator"].cpu())
    snapshots = [Values(**{name: value.cpu() for name, value in saved.items()}) for saved in content["snapshots"]]
    return SvgProgress(values, snapshots, content["step"])


def picture(drawing: Drawing, values: Values, short_side: int) -> Tensor:
    """A drawing without a graph, [3 height width], its sides even so that a film can be made of it."""
    with torch.no_grad():
        return render(drawing, values, *working_size(round(drawing.height), round(drawing.width), short_side, 2))[0]
