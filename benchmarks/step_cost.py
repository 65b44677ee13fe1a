"""What one edit step costs, counted without a GPU: FLOPs by part, bytes kept for backward, U-Net calls, Python's share.

    python benchmarks/step_cost.py                          # everything, about five minutes on two cores
    python benchmarks/step_cost.py --parts prior            # the prior's share alone, a minute

The prior's networks have the published sizes of Stable Diffusion and are on torch's meta device: shapes without values,
so that every operation is dispatched, counted, and costs nothing. What runs is the package's own code: `prior.encode`,
`objective.gradient`, `LearningPrior`, `surrogate_loss`. Beside each row:

    floor    what the formula needs: one encoder pass forward and backward for the rendering, one U-Net row for each
             prediction (two under guidance), none of them differentiated; for an adapter's training one row forward
             and backward
    naive    the schedule of the methods' first releases: one U-Net call for each prediction, with its graph where its
             input has one, the source encoded anew in every step, all in float32, a NeRF's whole image in one graph

FLOPs are those of matrix products and convolutions, two for a multiply-add. Rasterising Gaussians consists of neither.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from counters import flops, patched, unet_rows
from overhead import measure_overhead, print_overhead
from random_prior import NAMES, random_prior
from rendering import look_at_scene, scene
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pds_nerfstudio.estimates import METHODS
from pds_nerfstudio.objectives import DDS, DVRF, PDS, SDS, SSD, VSD, DreamCatalyst, Edit, Piva, Query, surrogate_loss
from pds_nerfstudio.objectives.base import EDITED, SOURCE, ScoreDistillation
from pds_nerfstudio.priors.learning import LearningPrior, Lesson
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.priors.work import Work
from pds_nerfstudio.scenes.memory import kept_for_backward, rays_that_fit

Part = Literal["prior", "rendering", "overhead"]
OBJECTIVES: dict[str, ScoreDistillation] = {
    "sds": SDS(),
    "dds": DDS(),
    "pds": PDS(),
    "ssd": SSD(),
    "dvrf": DVRF(),
    "dreamcatalyst": DreamCatalyst(),
    "vsd": VSD(),
    "piva": Piva(),
    "piva, separate": Piva(noisy_source="separate"),
}
NEEDED = {name: METHODS[f"{name}-edit"].formula for name in OBJECTIVES if f"{name}-edit" in METHODS}
NEEDED["piva, separate"] = (5, 2)
"""What the formulas need of the U-Net: predictions, and those of them that an adapter learns from. With one noisy
latent for both prompts, Piva's unconditional predictions are one and cancel."""
RANK = 16
PROMPTS = ("a photo of a man", "a photo of a woman")
T = torch.tensor([500])


@dataclass(frozen=True)
class Cost:
    """The prior's share of one step."""

    unet: float
    """FLOPs of all U-Net passes, an adapter's backward pass included."""
    vae_forward: float
    vae_backward: float
    other: float = 0.0
    """FLOPs of everything else."""
    rows: tuple[int, ...] = ()
    """Batch size of each U-Net forward pass."""
    kept: int = 0
    """Bytes kept for backward when all losses are there."""

    @property
    def total(self) -> float:
        return self.unet + self.vae_forward + self.vae_backward + self.other


def picture(prior: StableDiffusionPrior, size: int, graph: bool = True) -> Tensor:
    """A rendering of `size` x `size` pixels."""
    return torch.zeros(1, 3, size, size, device=prior.device, requires_grad=graph)


def parameters(prior: StableDiffusionPrior) -> Iterable[Tensor]:
    """All weights of the prior."""
    return [p for network in (prior.vae, prior.unet, prior.text_encoder) for p in network.parameters()]


def unit(prior: StableDiffusionPrior, size: int) -> Work:
    """One U-Net row, one encoder pass forward, one backward."""
    with flops() as forward:
        x0 = prior.encode(picture(prior, size))
    with flops() as backward:
        x0.sum().backward()
    prior.embed("")
    with flops() as row:
        prior.predict_noise([Query(x0.detach(), T, "")])
    return Work(row.get_total_flops(), forward.get_total_flops(), backward.get_total_flops())


def gradient_edit(x0_tgt: Tensor, x0_src: Tensor) -> Edit:
    """An edit step at t = 500."""
    noise = torch.zeros_like(x0_src)
    return Edit(x0_tgt, x0_src, *PROMPTS, T, T - 2, noise, noise)


def count_backward(loss: Tensor, lessons: dict[str, Tensor]) -> tuple[FlopCounterMode, FlopCounterMode]:
    """Backward through the encoder, and through the adapters' lessons."""
    with flops() as back:
        loss.backward()
    with flops() as taught:
        for lesson in lessons.values():
            lesson.backward()
    return back, taught


def our_step(prior: StableDiffusionPrior, objective: ScoreDistillation, size: int) -> Cost:
    """One step as the package runs it; the source latent is there from an earlier visit of the view."""
    image, x0_src = picture(prior, size), torch.zeros(1, 4, size // 8, size // 8, device=prior.device)
    with kept_for_backward(parameters(prior)) as kept, unet_rows(prior.unet) as rows:
        with flops() as encoded:
            x0_tgt = prior.encode(image)
        edit = gradient_edit(x0_tgt.detach(), x0_src)
        learning = LearningPrior.of_step(prior, objective.adapters, edit)
        with flops() as asked:
            gradient = objective.gradient(learning, edit)
            lessons = learning.losses()
        loss = surrogate_loss(x0_tgt, gradient)
    back, taught = count_backward(loss, lessons)
    inside = sum(asked.get_flop_counts()[type(prior.unet).__name__].values()) + taught.get_total_flops()
    everything = sum(counter.get_total_flops() for counter in (encoded, asked, back, taught))
    forward, backward = encoded.get_total_flops(), back.get_total_flops()
    return Cost(inside, forward, backward, everything - inside - forward - backward, tuple(rows), kept.bytes)


class SeparateCalls:
    """The prior as the first releases asked it: a network call for each prediction, and no `no_grad`."""

    def __init__(self, prior: StableDiffusionPrior):
        self.prior, self.schedule = prior, prior.schedule

    def predict_noise(self, queries: list[Query]) -> list[Tensor]:
        return [self.prior._forward([query], query.adapter)[0] for query in queries]


def naive_step(prior: StableDiffusionPrior, objective: ScoreDistillation, size: int) -> Cost:
    """The same step by the naive schedule."""
    with kept_for_backward(parameters(prior)) as kept, unet_rows(prior.unet) as rows:
        with flops() as encoded:
            x0_tgt, x0_src = prior.encode(picture(prior, size)), prior.encode(picture(prior, size, graph=False))
        edit = gradient_edit(x0_tgt, x0_src)
        with flops() as asked:
            gradient = type(objective).gradient.__wrapped__(objective, SeparateCalls(prior), edit)  # past its no_grad
            apart = gradient_edit(x0_tgt.detach(), x0_src)
            lessons = LearningPrior.of_step(prior, objective.adapters, apart).losses()
        loss = surrogate_loss(x0_tgt, gradient)
    back, taught = count_backward(loss, lessons)
    unet = asked.get_total_flops() + taught.get_total_flops()
    return Cost(unet, encoded.get_total_flops(), back.get_total_flops(), rows=tuple(rows), kept=kept.bytes)


@contextlib.contextmanager
def answered_without_values() -> Iterator[None]:
    """Tensors without values cannot be compared: say that φ is asked where it learns, and ψ elsewhere."""
    with patched() as patch:
        patch(Lesson, "answered_by", lambda _: lambda self, query: query.adapter == EDITED)
        yield


def count_prior(
    name: str, size: int, small: bool = False, objectives: Iterable[str] = tuple(OBJECTIVES)
) -> list[dict[str, Any]]:
    """One row per objective: ours, the floor, the naive schedule."""
    ours_on, naive_on = (
        random_prior(name, "meta", dtype, vae_dtype=dtype, small=small) for dtype in (torch.bfloat16, torch.float32)
    )
    pieces = unit(ours_on, size)
    for prior in (ours_on, naive_on):
        for prompt in ("", *PROMPTS):
            prior.embed(prompt)  # once per edit, not per step
    rows = []
    for label in objectives:
        objective = OBJECTIVES[label]
        if objective.adapters and ours_on.adapters is None:
            with torch.device("meta"):  # peft makes its matrices on the CPU
                for prior in (ours_on, naive_on):
                    prior.add_adapters((SOURCE, EDITED), RANK)
        with answered_without_values():
            ours, naive = our_step(ours_on, objective, size), naive_step(naive_on, objective, size)
        floor = pieces.of_step(*NEEDED[label])
        rows.append(
            {
                "prior": name,
                "method": label,
                "unet": ours.unet,
                "vae_forward": ours.vae_forward,
                "vae_backward": ours.vae_backward,
                "other": ours.other,
                "floor": floor,
                "over_floor": ours.total / floor,
                "calls": list(ours.rows),
                "kept": ours.kept,
                "naive": naive.total,
                "naive_calls": list(naive.rows),
                "naive_kept": naive.kept,
            }
        )
    return rows


def print_prior(rows: list[dict[str, Any]], size: int) -> None:
    """The prior's table, in TFLOP and GiB."""
    print(f"\nPrior at {size}x{size}, TFLOP and GiB per step; kept: for backward\n")
    print(
        "| prior | method | U-Net | VAE fwd | VAE bwd | other | sum | floor | sum/floor | U-Net calls: rows "
        "| kept bf16 | naive sum | naive calls | naive kept |"
    )
    print("|---|---|" + "---:|" * 7 + "---|" + "---:|" * 5)
    for row in rows:
        parts = [row[name] for name in ("unet", "vae_forward", "vae_backward", "other")]
        numbers = " | ".join(f"{value / 1e12:.3f}" for value in (*parts, sum(parts), row["floor"]))
        calls = f"{len(row['calls'])}: {' + '.join(map(str, row['calls']))}"
        print(
            f"| {NAMES[row['prior']]} | {row['method']} | {numbers} | {row['over_floor']:.3f} | {calls} "
            f"| {row['kept'] / 2**30:.2f} | {row['naive'] / 1e12:.3f} | {len(row['naive_calls'])} "
            f"| {row['naive_kept'] / 2**30:.2f} |"
        )


def count_rendering(size: int, gaussians: int) -> list[dict[str, Any]]:
    """FLOPs of a rendering, and bytes kept for its backward pass, on this CPU.

    nerfacto is counted on 256 rays and scaled: every ray costs the same. It is the torch implementation, float32.
    """
    from pds_nerfstudio.scenes.families import render

    nerf, side = scene("nerfacto", "cpu"), 16
    camera = look_at_scene(side)
    with kept_for_backward(nerf.parameters()) as whole, flops() as forward:
        rendering = render(nerf, camera, recompute=False, regularise=True)
        loss = sum(rendering.regulariser.values(), rendering.image.square().sum())
    with flops() as backward:
        loss.backward()
    with kept_for_backward(nerf.parameters()) as outputs:
        rendering = render(nerf, camera, recompute=True, rays_per_chunk=side * side // 2, regularise=True)
        loss = sum(rendering.regulariser.values(), rendering.image.square().sum())
    rays, counted = size * size, side * side
    per_ray = whole.bytes / counted
    chunk = rays_that_fit(per_ray)
    results = [
        {
            "family": "nerfacto",
            "forward": forward.get_total_flops() / counted * rays,
            "recomputed": forward.get_total_flops() / counted * rays,
            "backward": backward.get_total_flops() / counted * rays,
            "kept": (outputs.bytes / counted + ray_bytes(camera)) * rays,
            "chunk": chunk,
            "chunk_bytes": per_ray * chunk,
            "naive_kept": per_ray * rays,
        }
    ]
    splats = scene("splatfacto", "cpu", gaussians)
    with kept_for_backward(splats.parameters()) as kept:
        image = render(splats, look_at_scene(size)).image
    results.append({"family": f"{gaussians} splats", "kept": kept.bytes})
    del image
    return results


def ray_bytes(camera: Any) -> float:
    """Bytes of what describes one ray: a chunk that is computed again needs it."""
    rays = camera.generate_rays(camera_indices=0, keep_shape=True).flatten()
    held = [value for value in (*vars(rays).values(), *rays.metadata.values()) if isinstance(value, Tensor)]
    return sum(value.nbytes for value in held) / len(rays)


def print_rendering(rows: list[dict[str, Any]], size: int) -> None:
    """The renderings' table."""
    print(f"\nRendering at {size}x{size}: TFLOP; MiB kept for backward at the end of the forward pass\n")
    print("| scene | forward | again in backward | backward | kept | rays a chunk | one chunk | naive kept |")
    print("|---|" + "---:|" * 7)
    for row in rows:
        numbers = [f"{row[k] / 1e12:.3f}" if k in row else "-" for k in ("forward", "recomputed", "backward")]
        sizes = [f"{row[k] / 2**20:.0f}" if k in row else "-" for k in ("kept", "chunk_bytes", "naive_kept")]
        print(
            f"| {row['family']} | {' | '.join(numbers)} | {sizes[0]} | {row.get('chunk', '-')} | {sizes[1]} "
            f"| {sizes[2]} |"
        )


def main(
    parts: tuple[Part, ...] = ("prior", "rendering", "overhead"),
    priors: tuple[Literal["sd15", "sd21"], ...] = ("sd15", "sd21"),
    size: int = 512,
    gaussians: int = 200_000,
    methods: tuple[str, ...] = tuple(f"{name}-edit-splat" for name in ("sds", "dds", "pds", "vsd", "piva")),
    steps: int = 60,
    small: bool = False,
    out: Path | None = None,
) -> None:
    """Count and print.

    Args:
        parts: what to count.
        priors: sizes of the prior.
        size: side of the picture in pixels.
        gaussians: how many splats are rendered.
        methods: whose overhead is measured.
        steps: edit steps of that measurement.
        small: networks of 32 channels, to try the script.
        out: JSON file with all numbers.
    """
    results: dict[str, Any] = {}
    print(f"torch {torch.__version__}")
    if "prior" in parts:
        results["prior"] = [row for name in priors for row in count_prior(name, size, small)]
        print_prior(results["prior"], size)
    if "rendering" in parts:
        results["rendering"] = count_rendering(size, gaussians)
        print_rendering(results["rendering"], size)
    if "overhead" in parts:
        results["overhead"] = [measure_overhead(method, steps) for method in methods]
        print_overhead(results["overhead"])
    if out is not None:
        out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
