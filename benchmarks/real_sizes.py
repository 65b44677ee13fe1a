"""Do the jobs run at Stable Diffusion's sizes? A step or two of each, with random weights.

    python benchmarks/real_sizes.py --prior sd15 --out benchmarks/results/real_sizes.json
    python benchmarks/real_sizes.py --prior sd21v --jobs source-splatfacto pds-edit-splat

A prior of the published sizes, in diffusers' layout and in half precision, is written into a temporary folder (2 to
3 GB), and a toybox scene beside it. Every job is an `ns-train` or `pds` line in a process of its own. Random weights
cost what trained ones do; what they make of a scene means nothing, except that it has to be finite. Jobs that need an
earlier one run it first.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from diffusers import DDIMScheduler
from random_prior import random_prior
from safetensors.torch import load_file

from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import find_edit
from pds_nerfstudio.toybox.tokenizer import build_tokenizer

Size = Literal["sd15", "sd21v"]
NAMES = {"sd15": "SD 1.5", "sd21v": "SD 2.1-v"}
EDIT = find_edit("can-to-cone")
QUIET = ("--vis", "viewer", "--viewer.websocket-host", "127.0.0.1", "--viewer.quit-on-train-completion", "True")
"""Without a log of pictures, for which further views would be encoded."""
NOISE = 1 << 20


def write_prior(size: Size, folder: Path, small: bool = False, shard: str = "10GB") -> Path:
    """A diffusers folder of those sizes, in float16, of random weights that keep activations near unit variance.

    Args:
        small: 32 channels throughout, to try the script.
        shard: the size beyond which weights are written into several files.
    """
    prior = random_prior("sd15" if size == "sd15" else "sd21", "meta", torch.float16, torch.float16, small=small)
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0))
    for part in ("unet", "vae", "text_encoder"):
        network = getattr(prior, part).to_empty(device="cpu")
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.dim() == 1:
                    parameter.fill_(float(name.endswith("weight")))
                else:
                    copies = -(-parameter.numel() // NOISE)
                    values = noise.repeat(copies)[: parameter.numel()].view(parameter.shape)
                    parameter.copy_(values / (parameter.numel() / len(parameter)) ** 0.5)
        if part == "unet" and size == "sd21v":
            network.register_to_config(sample_size=96)
        network.save_pretrained(folder / part, safe_serialization=True, max_shard_size=shard)
    tokenizer = build_tokenizer(folder / "tokenizer")
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder / "tokenizer")
    prediction = "epsilon" if size == "sd15" else "v_prediction"
    beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    DDIMScheduler(**beta, prediction_type=prediction).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


@dataclass(frozen=True)
class Place:
    """Where everything lies, and how large it is."""

    prior: Path
    scene: Path
    out: Path
    size: int
    steps: int
    precision: str

    def run_of(self, job: str) -> Path:
        """The folder of a training that has ended."""
        return next((self.out / job).rglob("config.yml")).parent

    def train(self, job: str, *arguments: object) -> list[str]:
        """An `ns-train` line."""
        return self._line("ns-train", job, *QUIET, "--output-dir", self.out / job, *arguments)

    def edit(self, method: str, base: str, *arguments: object, more_steps: int = 0) -> list[str]:
        """An `ns-train` line of a method that takes the prior."""
        prompts = ("--pipeline.src-prompt", EDIT.source_prompt, "--pipeline.tgt-prompt", EDIT.target_prompt)
        shown = ("--pipeline.prior", self.prior, "--pipeline.resolution", self.size)
        compute = ("--pipeline.precision", self.precision, "--pipeline.vae-precision", self.precision)
        settings = (*prompts, *shown, *compute, "--max-num-iterations", self.steps + more_steps, *arguments)
        return self.train(method, "--load-dir", self.run_of(base), *settings)

    def command(self, name: str, *arguments: object) -> list[str]:
        """A `pds` line."""
        return self._line("pds", name, *arguments)

    @staticmethod
    def _line(program: str, *arguments: object) -> list[str]:
        return [str(Path(sys.executable).parent / program), *map(str, arguments)]


@dataclass(frozen=True)
class Job:
    """One line to be run."""

    line: Callable[[Place], list[str]]
    after: tuple[str, ...] = ()
    """Jobs whose results it takes."""


SPLATS, NERF = "source-splatfacto", "source-nerfacto"
PNR = ("--pipeline.eta", 0.3, "--pipeline.refine-steps", 1)
"""As many edit steps as the other methods have, and one of refinement."""


def _source(name: str) -> Job:
    return Job(lambda at: at.train(name, "--data", at.scene, "--max-num-iterations", 3))


def _edit(method: str, base: str, *arguments: object, more_steps: int = 0) -> Job:
    return Job(lambda at: at.edit(method, base, *arguments, more_steps=more_steps), (base,))


JOBS = {
    SPLATS: _source(SPLATS),
    "pds-edit-splat": _edit("pds-edit-splat", SPLATS),
    "pnr-edit-splat": _edit("pnr-edit-splat", SPLATS, *PNR, more_steps=1),
    "piva-edit-splat": _edit("piva-edit-splat", SPLATS),
    "sdedit-refine-splat": _edit("sdedit-refine-splat", "pds-edit-splat", "--pipeline.num-steps", 10),
    NERF: _source(NERF),
    "pds-edit": _edit("pds-edit", NERF),
    "pnr-edit": _edit("pnr-edit", NERF, *PNR, more_steps=1),
    "piva-edit": _edit("piva-edit", NERF),
    "preview": Job(
        lambda at: at.command(
            *("preview", at.scene, "--prior", at.prior, "--steps", at.steps, "--resolution", at.size),
            *("--src-prompt", EDIT.source_prompt, "--tgt-prompt", EDIT.target_prompt, "--out", at.out / "preview"),
        )
    ),
    "dreambooth": Job(
        lambda at: at.command(
            *("dreambooth", "--data", at.scene, "--prior", at.prior, "--steps", at.steps, "--resolution", at.size),
            *("--class-images", 0, "--sample-every", 0, "--sample-steps", 1, "--precision", at.precision),
            *("--instance-prompt", "a photo of a sks can", "--out", at.out / "dreambooth"),
        )
    ),
    "evaluate": Job(
        lambda at: at.command(
            *("evaluate", at.run_of("pds-edit-splat"), "--frames", 2, "--resolution", at.size, "--clip", "toybox"),
            *("--out", at.out / "evaluate"),
        ),
        ("pds-edit-splat",),
    ),
}


def numbers_of(folder: Path) -> Iterator[torch.Tensor]:
    """Every array of numbers that a job has left."""

    def tensors(value: Any) -> Iterator[torch.Tensor]:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            yield value
        elif isinstance(value, dict):
            for part in value.values():
                yield from tensors(part)
        elif isinstance(value, float):
            yield torch.tensor(value)

    for path in folder.rglob("*.ckpt"):
        yield from tensors(torch.load(path, map_location="cpu", weights_only=False)["pipeline"])
    for path in folder.rglob("*.safetensors"):
        yield from load_file(path).values()
    for path in folder.rglob("report.json"):
        yield from (tensor for run in json.loads(path.read_text())["runs"] for tensor in tensors(run["mean"]))


def measure(name: str, place: Place, threads: int) -> dict[str, Any]:
    """Run a job; seconds, peak memory of its process in GiB, and whether what it made is finite."""
    line = JOBS[name].line(place)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    log = place.out / f"{name}.log"
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=place.out)
        _, status, usage = os.wait4(process.pid, 0)
    row = {
        "job": name,
        "seconds": round(time.perf_counter() - start, 1),
        "processor seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "GiB": round(usage.ru_maxrss / 2**20, 2),
        "ended well": os.waitstatus_to_exitcode(status) == 0,
        "finite": all(bool(values.isfinite().all()) for values in numbers_of(place.out / name)),
    }
    if not row["ended well"]:
        print(log.read_text()[-3000:])
    return row


def main(
    prior: Size = "sd15",
    jobs: tuple[str, ...] = tuple(JOBS),
    size: int = 512,
    steps: int = 1,
    gaussians: int = 20_000,
    views: int = 2,
    precision: Literal["fp32", "bf16"] = "bf16",
    threads: int = 2,
    small: bool = False,
    out: Path | None = None,
) -> None:
    """Run and print.

    Args:
        prior: whose sizes.
        jobs: which; those that they need come first.
        size: short side of the views in pixels.
        steps: of every edit.
        gaussians: points that splats begin with.
        views: training views of the scene.
        precision: of the prior, encoder included.
        threads: of torch.
        small: networks of 32 channels, to try the script.
        out: JSON file of all rows, to which this run's are added.
    """
    if unknown := set(jobs) - set(JOBS):
        raise SystemExit(f"There is no job {sorted(unknown)}: choose among {', '.join(JOBS)}.")
    wanted: list[str] = []
    for name in jobs:
        needed = [*(before for after in JOBS[name].after for before in (*JOBS[after].after, after)), name]
        wanted += [job for job in needed if job not in wanted]
    machine = f"{platform.processor() or platform.machine()}, {threads} threads, torch {torch.__version__}"
    known: list[dict[str, Any]] = json.loads(out.read_text()) if out is not None and out.is_file() else []
    print(f"{NAMES[prior]}, {size}x{size}, {steps} step(s), {gaussians} points, {precision}; {machine}\n")
    print("| job | seconds | processor seconds | GiB at most | finite |\n|---|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory(prefix="real_sizes_") as name:
        folder = Path(name)
        write_edit(EDIT, folder / "scene", train_views=views, test_views=1, size=size, num_points=gaussians)
        weights = write_prior(prior, folder / "prior", small)
        place = Place(weights, folder / "scene" / "source", folder, size, steps, precision)
        for job in wanted:
            row = {"prior": prior, "size": size, "steps": steps, "precision": precision, "machine": machine}
            row |= measure(job, place, threads) | {"command": shlex.join(["python", *sys.argv])}
            finite = ("yes" if row["finite"] else "no") if row["ended well"] else "failed"
            print(f"| {job} | {row['seconds']} | {row['processor seconds']} | {row['GiB']} | {finite} |", flush=True)
            known.append(row)
            if out is not None:
                out.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
