"""What a Piva edit's adapters have learned: denoising losses on held-out views, before and after the edit.

    python benchmarks/adapters.py EDITED/config.yml

Rows: the frozen prior alone and under the edit's ControlNet, ψ and φ. Columns: held-out renderings of the source under
the source prompt, of the edited scene under the target prompt; mean of (ε̂ − ε)² over the same noises and timesteps,
which are even over the edit's range.
"""

from pathlib import Path

import torch
import tyro
from nerfstudio.models.base_model import Model
from torch import Tensor

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.images import depth_picture
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.objectives.base import EDITED, SOURCE
from pds_nerfstudio.pipelines.distillation import DistillationPipeline
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.source import find_run, load_source_state
from pds_nerfstudio.scenes.views import eval_views


@torch.no_grad()
def seen(pipeline: DistillationPipeline, prior: StableDiffusionPrior, model: Model) -> tuple[Tensor, Tensor]:
    """Latents and depth pictures of the held-out views."""
    views = eval_views(pipeline.datamanager)
    renderings = [render(model, views.camera(i, *views.size(i))) for i in range(len(views))]
    latents = torch.cat([prior.encode(rendering.image) for rendering in renderings])
    return latents, torch.cat([depth_picture(r.depth, r.accumulation) for r in renderings])


@torch.no_grad()
def loss(prior: StableDiffusionPrior, x0: Tensor, prompt: str, control: Tensor | None, adapter: str | None) -> float:
    """Mean denoising loss over 16 draws of noise and timestep."""
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(16):
        t = torch.randint(100, 900, (len(x0),), generator=generator).to(x0.device)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        query = Query(prior.schedule.add_noise(x0, t, eps), t, prompt, adapter=adapter, control=control)
        losses.append((prior.predict_noise([query])[0] - eps).square().mean())
    return float(torch.stack(losses).mean())


def main(config: Path) -> None:
    """Print the table.

    Args:
        config: config.yml of a run of piva-edit or piva-edit-splat.
    """
    pipeline = load_run(config)
    assert isinstance(pipeline, DistillationPipeline)
    pipeline.open(load_source_state(find_run(config)), resumes=True)
    prior = pipeline.prior
    size = sum(parameter.numel() for parameter in (pipeline.adapters.parameters() if pipeline.adapters else []))
    print(f"{size} parameters in the adapters, {sum(p.numel() for p in prior.unet.parameters()) - size} in the U-Net\n")
    before, after = seen(pipeline, prior, pipeline.source_scene()), seen(pipeline, prior, pipeline.model)
    prompts = pipeline.config.src_prompt, pipeline.config.tgt_prompt
    print("| predicted by | source views | edited views |\n|---|---|---|")
    controlled = prior.controlnet is not None
    rows = [
        ("the prior", None, False),
        ("the prior, under depth", None, True),
        ("ψ", SOURCE, True),
        ("φ", EDITED, True),
    ]
    for name, adapter, under in rows:
        if under and adapter is None and not controlled:
            continue
        values = [
            loss(prior, x0, prompt, depth if under and controlled else None, adapter)
            for (x0, depth), prompt in zip((before, after), prompts, strict=True)
        ]
        print(f"| {name} | " + " | ".join(f"{value:.5f}" for value in values) + " |", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__, config=(tyro.conf.PositionalRequiredArgs,))
