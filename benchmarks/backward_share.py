"""What a random share of a NeRF's chunks does to a step's gradient: its variance, and its processor time.

    python benchmarks/backward_share.py --out outputs/backward_share

A toybox scene is reconstructed and edited for a while; from there the same steps are taken again and again, with their
own view, timestep and noise, and other draws of the chunks. Deviations are shares of the whole gradient's length:
E |g' − g|² / |g|² over the draws, g the gradient of all parameters of the field. The yardstick is what the noise of
score distillation itself does to the whole gradient of a view: its variance over timesteps and noises, as a share of
its mean square.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.evaluation.trial import SETTINGS, reconstruct, run_edit
from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import find_edit

SHARES = (1.0, 0.5, 0.25, 0.125)


def edited(name: str, out: Path, steps: int) -> Path:
    """A NeRF in the middle of an edit; what is there already is taken."""
    done = sorted((out / "runs" / "edited").glob("*/*/config.yml"))
    if done:
        return done[-1]
    edit, settings = find_edit(name), SETTINGS["nerfacto"]
    write_edit(edit, out / "scene")
    source = reconstruct("nerfacto", out / "scene" / "source", out, settings.reconstruction_steps, seed=0)
    return run_edit("pds-edit", source, edit, out, replace(settings, edit_steps=steps), seed=0)


def gradient(pipeline: Any, step: int, draw: int) -> tuple[Tensor, float]:
    """The gradient on the field in that step, on the CPU, and the processor seconds that it took."""
    pipeline.zero_grad(set_to_none=True)
    torch.manual_seed(draw)  # the chunks, and the jitter of samples along rays
    started = time.process_time()
    losses = pipeline.get_train_loss_dict(step)[1]
    sum(losses.values()).backward()
    seconds = time.process_time() - started
    parameters = pipeline.model.field.parameters()
    return torch.cat([p.grad.flatten() if p.grad is not None else p.new_zeros(p.numel()) for p in parameters]), seconds


def deviation(pipeline: Any, share: float, steps: int, draws: int) -> tuple[float, float]:
    """Mean over steps and draws of |g' − g|² / |g|², and the median processor seconds of a step."""
    deviations, seconds = [], []
    for step in range(steps):
        pipeline.config.scene.backward_share = 1.0
        whole = gradient(pipeline, step, draw=0)[0]
        pipeline.config.scene.backward_share = share
        for draw in range(1, draws + 1):
            part, spent = gradient(pipeline, step, draw)
            deviations.append(float((part - whole).square().sum() / whole.square().sum()))
            seconds.append(spent)
    return sum(deviations) / len(deviations), sorted(seconds)[len(seconds) // 2]


def noise(pipeline: Any, steps: int, draws: int) -> float:
    """Mean over views of E |g − E g|² / E |g|², g the whole gradient under other timesteps and noises."""
    shown, seed, ratios = pipeline.view_of_step, pipeline.config.run.seed, []
    pipeline.config.scene.backward_share = 1.0
    for step in range(steps):
        pipeline.view_of_step = lambda *_, step=step: step
        gradients = []
        for draw in range(2 * draws):
            pipeline.config.run.seed = seed + 1 + draw
            gradients.append(gradient(pipeline, step, draw)[0])
        of_view = torch.stack(gradients)
        ratios.append(float(of_view.var(0).sum() / of_view.square().sum(1).mean()))
    pipeline.view_of_step, pipeline.config.run.seed = shown, seed
    return sum(ratios) / len(ratios)


def main(out: Path, edit: str = "can-to-cone", chunks: int = 16, steps: int = 6, draws: int = 6) -> None:
    """Print the table.

    Args:
        out: folder for the scene and its runs; what is there already is taken.
        edit: name of a toybox edit.
        chunks: how many chunks a view of 64×64 rays has.
        steps: steps measured.
        draws: draws of chunks in each.
    """
    pipeline: Any = load_run(edited(edit, out, steps=100)).train()
    pipeline.config.compute.rays_per_chunk = 64 * 64 // chunks
    print("| share differentiated | deviation | s a step |\n|---:|---:|---:|")
    for share in SHARES:
        print("| {} | {:.3f} | {:.2f} |".format(share, *deviation(pipeline, share, steps, draws)), flush=True)
    print(f"\nTimestep and noise, for the same view: {noise(pipeline, steps, draws):.3f}")


if __name__ == "__main__":
    tyro.cli(main)
