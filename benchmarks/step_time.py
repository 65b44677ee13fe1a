"""How long an edit step takes on a GPU: milliseconds by part, steps per second, peak memory; beside the naive schedule.

    python benchmarks/step_time.py --out outputs/step_time                  # JSON and a Markdown table
    python benchmarks/step_time.py --readme outputs/step_time.json          # put the table into README.md
    python benchmarks/step_time.py --readme none                            # ... or say that nothing was measured

A Stable Diffusion 1.5 of random weights (they cost what trained ones do) and untrained scenes at nerfstudio's default
sizes: 200,000 and 1,000,000 Gaussians, and nerfacto in torch, also where tiny-cuda-nn is installed. PDS at 512x512.
`bare` is the U-Net and the VAE's encoder alone, forward and backward, as that step asks for them: what no schedule can
undercut.
"""

import gc
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from random_prior import random_prior
from rendering import look_at_scene, scene
from step_cost import SeparateCalls, gradient_edit
from torch import Tensor

from pds_nerfstudio.files import fill_in
from pds_nerfstudio.objectives import PDS, surrogate_loss
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.scenes.families import render, scene_of

PARTS = ("render", "encode", "unet", "backward", "optimiser")
README = Path(__file__).parent.parent / "README.md"


@dataclass
class Row:
    """One case."""

    scene: str
    schedule: str
    precision: str
    compiled: bool
    milliseconds: dict[str, float]
    """By part, medians."""
    steps_per_second: float
    peak_mib: float
    """Of allocated memory, weights and scene included; 0 without CUDA."""


class Clock:
    """Times the parts of a step: by events on CUDA, by the clock elsewhere."""

    def __init__(self, device: str):
        self.cuda = device == "cuda"
        self.marks: list[tuple[str, Any]] = []

    def mark(self, part: str) -> None:
        """`part` ends here."""
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((part, event))
        else:
            self.marks.append((part, time.perf_counter()))

    def parts(self) -> dict[str, float]:
        """Milliseconds from mark to mark; forgets them."""
        if self.cuda:
            torch.cuda.synchronize()
        marks, self.marks = self.marks, []
        return {
            part: (before.elapsed_time(now) if self.cuda else 1e3 * (now - before))
            for (_, before), (part, now) in itertools.pairwise(marks)
        }


def our_step(model: Any, prior: StableDiffusionPrior, x0_src: Tensor, side: int, rays: int, clock: Clock) -> None:
    """As `EditPipeline` runs it; the source's latent is there from an earlier visit of the view."""
    rendering = render(model, look_at_scene(side), rays_per_chunk=rays, regularise=True)
    clock.mark("render")
    x0_tgt = prior.encode(rendering.image)
    clock.mark("encode")
    gradient = PDS().gradient(prior, gradient_edit(x0_tgt.detach(), x0_src))
    clock.mark("unet")
    sum(rendering.regulariser.values(), surrogate_loss(x0_tgt, gradient)).backward()
    clock.mark("backward")


def naive_step(model: Any, prior: StableDiffusionPrior, x0_src: Tensor, side: int, rays: int, clock: Clock) -> None:
    """As the methods' first releases ran it (see `step_cost.py`)."""
    rendering = render(model, look_at_scene(side), recompute=False, rays_per_chunk=side * side, regularise=True)
    clock.mark("render")
    x0_tgt, x0_src = prior.encode(rendering.image), prior.encode(rendering.image.detach())
    clock.mark("encode")
    gradient = PDS.gradient.__wrapped__(PDS(), SeparateCalls(prior), gradient_edit(x0_tgt, x0_src))  # past its no_grad
    clock.mark("unet")
    sum(rendering.regulariser.values(), surrogate_loss(x0_tgt, gradient)).backward()
    clock.mark("backward")


def bare_step(model: Any, prior: StableDiffusionPrior, x0_src: Tensor, side: int, rays: int, clock: Clock) -> None:
    """The networks alone."""
    image = torch.zeros(1, 3, side, side, device=prior.device, requires_grad=True)
    x0_tgt = prior.encode(image)
    clock.mark("encode")
    gradient = PDS().gradient(prior, gradient_edit(x0_tgt.detach(), x0_src))
    clock.mark("unet")
    surrogate_loss(x0_tgt, gradient).backward()
    clock.mark("backward")


SCHEDULES: dict[str, Callable[..., None]] = {"ours": our_step, "naive": naive_step, "bare": bare_step}


def measure(
    schedule: str,
    family: str,
    gaussians: int,
    prior: StableDiffusionPrior,
    side: int,
    repeats: int,
    seconds: float,
    device: str,
) -> tuple[dict[str, float], float]:
    """Median milliseconds by part, and peak memory in MiB."""
    model = scene(family, device, gaussians)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    rays = scene_of(model).chunks(None, regularise=True).rays
    stride = prior.latent_stride
    x0_src = torch.zeros(1, prior.latent_channels, side // stride, side // stride, device=device)
    clock, runs = Clock(device), []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    end = math.inf
    while len(runs) < 5 or (len(runs) < repeats + 2 and time.perf_counter() < end):
        if len(runs) == 2:
            end = time.perf_counter() + seconds
        clock.mark("begin")
        SCHEDULES[schedule](model, prior, x0_src, side, rays, clock)
        optimizer.step()
        optimizer.zero_grad()
        clock.mark("optimiser")
        runs.append(clock.parts())
    middle = {part: statistics.median(run[part] for run in runs[2:]) for part in runs[0]}
    return middle, torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0


def machine(device: str) -> str:
    """What it ran on."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or platform.machine()} CPU"
    return f"{name}, torch {torch.__version__}"


def table(machine_name: str, rows: list[Row]) -> str:
    """The Markdown table."""
    lines = [
        f"{machine_name}; PDS at Stable Diffusion 1.5's size, milliseconds, medians",
        "",
        f"| scene | schedule | precision | compiled | {' | '.join(PARTS)} | steps/s | peak GiB |",
        "|---|---|---|---|" + "---:|" * (len(PARTS) + 2),
    ]
    for row in rows:
        parts = " | ".join(f"{row.milliseconds[p]:.1f}" if p in row.milliseconds else "-" for p in PARTS)
        lines.append(
            f"| {row.scene} | {row.schedule} | {row.precision} | {'yes' if row.compiled else 'no'} | {parts} "
            f"| {row.steps_per_second:.2f} | {row.peak_mib / 1024:.1f} |"
        )
    return "\n".join(lines)


def fill_readme(source: str) -> None:
    """Put the table of a JSON file, or "not measured", into README.md."""
    text = "Time and memory of a step on a GPU: not measured (no GPU was at hand)."
    if source != "none":
        saved = json.loads(Path(source).read_text())
        text = table(saved["machine"], [Row(**row) for row in saved["rows"]])
    fill_in(README, "step_time", text)


def main(
    out: Path = Path("outputs/step_time"),
    readme: str | None = None,
    size: int = 512,
    gaussians: tuple[int, ...] = (200_000, 1_000_000),
    families: tuple[str, ...] = ("splatfacto", "nerfacto"),
    schedules: tuple[str, ...] = ("bare", "ours", "naive"),
    compiled: tuple[bool, ...] = (False, True),
    repeats: int = 20,
    seconds: float = 10,
    small: bool = False,
) -> None:
    """Measure, or fill README.md.

    Args:
        out: where to write .json and .md.
        readme: a JSON file that was measured, or "none"; nothing is measured then.
        size: side of the picture in pixels.
        gaussians: how many splats.
        families: whose scenes.
        schedules: which steps.
        compiled: without and with torch.compile.
        repeats: timed steps, after two untimed ones.
        seconds: no further step of a case begins after these, once three are timed.
        small: networks of 32 channels, to try the script.
    """
    if readme is not None:
        fill_readme(readme)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = torch.float16 if device == "cuda" else torch.float32
    cases = [(family, count) for family in families for count in (gaussians if family == "splatfacto" else (0,))]
    rows: list[Row] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    for schedule in schedules:
        for compile_it in compiled if schedule == "ours" else (False,):
            # The first releases run everything in float32.
            dtype, vae_dtype = (torch.float32, torch.float32) if schedule == "naive" else (half, torch.bfloat16)
            prior = random_prior("sd15", device, dtype, vae_dtype=vae_dtype, small=small)
            if compile_it:
                prior.unet.compile()
                prior.vae.encoder.compile()
            for family, count in cases[:1] if schedule == "bare" else cases:
                name = "-" if schedule == "bare" else f"{count} splats" if count else family
                try:
                    parts, peak = measure(schedule, family, count or 1000, prior, size, repeats, seconds, device)
                except torch.cuda.OutOfMemoryError:
                    print(f"{name}, {schedule}: out of memory", flush=True)
                    continue
                total = sum(parts.values())
                precision = "fp32" if dtype == torch.float32 else "fp16, VAE bf16"
                rows.append(Row(name, schedule, precision, compile_it, parts, 1e3 / total, peak))
                print(f"{name}, {schedule}: {total:.1f} ms", flush=True)
                result = {"machine": machine(device), "rows": [asdict(row) for row in rows]}
                out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
                out.with_suffix(".md").write_text(table(result["machine"], rows) + "\n")
            del prior
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
    print(out.with_suffix(".md").read_text())


if __name__ == "__main__":
    tyro.cli(main)
