"""What steps of a prior take on a GPU, beside what `priors.footprint` counts without one: GiB and milliseconds.

    python benchmarks/measured_memory.py --priors sd15 sdxl --out outputs/measured_memory.json
    python benchmarks/measured_memory.py --priors sd15 --stored 8bit      # with --pipeline.weights 8bit

Priors of published sizes and random weights (see `random_folder`) are loaded as trained ones are, denoiser in float16.
What runs is the package's own code, on pictures in place of renderings; the rows are those of `expected_memory`. Of
each: what is counted, the most that torch had allocated, the most that it had reserved, and the median of a few steps.
"""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from random_folder import TITLES, Size, write_folder
from step_cost import PROMPTS, RANK, gradient_edit

from pds_nerfstudio.objectives import PDS, VSD, Piva, Query, surrogate_loss
from pds_nerfstudio.objectives.base import EDITED, SOURCE, ScoreDistillation
from pds_nerfstudio.pipelines.memory_plan import GIB
from pds_nerfstudio.priors.few_bits import Weights
from pds_nerfstudio.priors.footprint import count
from pds_nerfstudio.priors.latent import LatentPrior
from pds_nerfstudio.priors.learning import LearningPrior
from pds_nerfstudio.priors.load import load_prior

OBJECTIVES: dict[str, ScoreDistillation] = {"pds": PDS(), "vsd": VSD(), "piva": Piva()}
ROWS: dict[str, dict[str, Any]] = {
    "pds": {},
    "vsd": {"adapters": 1},
    "piva": {"adapters": 2},
    "sdedit-refine": {"differentiated": False},
}
"""What `count` is told of each."""


def distillation_step(prior: LatentPrior, name: str, size: int) -> None:
    """One step of score distillation on a picture; the source's latent is there."""
    objective = OBJECTIVES[name]
    image = torch.full((1, 3, size, size), 0.5, device=prior.device, requires_grad=True)
    x0_tgt = prior.encode(image)
    edit = gradient_edit(x0_tgt.detach(), torch.zeros_like(x0_tgt))
    learning = LearningPrior.of_step(prior, objective.adapters, edit)
    loss = surrogate_loss(x0_tgt, objective.gradient(learning, edit))
    for lesson in learning.losses().values():
        lesson.backward()
    loss.backward()
    if prior.adapters is not None:
        for parameter in prior.adapters.parameters():
            parameter.grad = None


@torch.no_grad()
def sampling_step(prior: LatentPrior, name: str, size: int) -> None:
    """A picture encoded, one step of sampling, and the picture decoded."""
    x0 = prior.encode(torch.full((1, 3, size, size), 0.5, device=prior.device))
    t = torch.tensor([500], device=prior.device)
    prior.predict_noise([Query(x0, t, PROMPTS[1], 7.5)])
    prior.decode(x0)


def measure(step: Callable[[], None], repeats: int, device: str) -> dict[str, float]:
    """Median milliseconds and peak GiB; zeros of memory without CUDA."""
    cuda = device == "cuda"
    times = []
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats + 2):
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {
        "ms": round(1e3 * statistics.median(times[2:]), 1),
        "allocated": torch.cuda.max_memory_allocated() / GIB if cuda else 0.0,
        "reserved": torch.cuda.max_memory_reserved() / GIB if cuda else 0.0,
    }


def rows_of(
    folder: Path, name: str, sizes: tuple[int, ...], repeats: int, methods: tuple[str, ...], stored: Weights
) -> list[dict]:
    """A prior's rows, its encoder in float32; of PDS also in bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for vae_dtype in (torch.float32, torch.bfloat16):
        start = time.perf_counter()
        prior = load_prior(str(folder), device, vae_dtype=vae_dtype, weights=stored)
        loaded = time.perf_counter()
        for prompt in ("", *PROMPTS):
            prior.embed(prompt)
        print(f"{TITLES[name]}: loaded in {loaded - start:.1f} s, prompts read in {time.perf_counter() - loaded:.1f} s")
        for method in methods:
            told = ROWS[method]
            if told.get("adapters") and prior.adapters is None:
                prior.add_adapters((SOURCE, EDITED), RANK)
            step = distillation_step if method in OBJECTIVES else sampling_step
            if vae_dtype != torch.float32 and method != "pds":
                continue
            for size in sizes:
                counted = count(folder, size, size, dtype=prior.dtype, vae_dtype=vae_dtype, stored=stored, **told)
                try:
                    measured = measure(partial(step, prior, method, size), repeats, device)
                except torch.cuda.OutOfMemoryError:
                    measured = {"ms": None, "allocated": None, "reserved": None}
                precision = str(vae_dtype).removeprefix("torch.")
                row = {"prior": name, "stored": stored, "method": method, "size": size, "vae": precision}
                found.append(row | {"counted": counted.total / GIB} | measured)
                print(json.dumps(found[-1]), flush=True)
        prior = None
    return found


def main(
    priors: tuple[Size, ...] = ("sd15", "sd21v", "sdxl", "sd35m"),
    sizes: tuple[int, ...] = (512, 768, 1024),
    methods: tuple[str, ...] = ("sdedit-refine", "pds", "vsd", "piva"),
    stored: tuple[Weights, ...] = ("full",),
    repeats: int = 5,
    folder: Path | None = None,
    small: bool = False,
    out: Path = Path("outputs/measured_memory.json"),
) -> None:
    """Measure and print.

    Args:
        priors: whose sizes.
        sizes: sides of the pictures.
        methods: which steps; those that add adapters come last.
        stored: how the denoiser's weights are.
        repeats: timed steps, after two that are not.
        folder: where priors are written, or lie from an earlier run; by default a temporary one.
        small: small networks, to try the script.
        out: JSON file.
    """
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    result: dict[str, Any] = {"machine": f"{name}, torch {torch.__version__}", "rows": []}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="measured_memory_") as temporary:
        for prior in priors:
            place = (folder or Path(temporary)) / prior
            if not (place / "model_index.json").is_file():
                write_folder(prior, place, small)
            for kind in stored:
                result["rows"] += rows_of(place, prior, sizes, repeats, methods, kind)
            out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
