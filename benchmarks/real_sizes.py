"""Do the jobs run at Stable Diffusion's sizes? A step or two of each, with random weights.

    python benchmarks/real_sizes.py --prior sd15 --out benchmarks/results/real_sizes.json
    python benchmarks/real_sizes.py --prior sd21v --jobs source-splatfacto pds-edit-splat

A prior of the published sizes, in diffusers' layout and in half precision, is written into a temporary folder (2 to
3 GB; SDXL 7, SD 3.5 medium 16), and a toybox scene beside it. Every job is an `ns-train` or `pds` line in a process of
its own. Random weights cost what trained ones do; what they make of a scene means nothing, except that it has to be
finite; "-" stands where a job leaves no numbers. Jobs that need an earlier one run it first, and are not tried where it
left nothing. The exit status is 1 unless every job ended well and left nothing that is not finite.
"""

import json
import math
import os
import platform
import re
import shlex
import socket
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
from random_folder import TITLES, Size, write_folder
from safetensors.torch import load_file

from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import find_edit

EDIT = find_edit("can-to-cone")
QUIET = ("--vis", "viewer", "--viewer.websocket-host", "127.0.0.1", "--viewer.quit-on-train-completion", "True")
"""Without a log of pictures, for which further views would be encoded."""
EXPECTED = re.compile(r"About ([\d.]+) GiB expected")


class NotTried(Exception):
    """A job that this one takes the result of has left none."""


@dataclass(frozen=True)
class Place:
    """Where everything lies, and how large it is."""

    prior: Path
    scene: Path
    out: Path
    size: int
    steps: int
    precision: str | None

    def run_of(self, job: str) -> Path:
        """The folder of a training that has ended.

        Raises:
            NotTried: it failed, so that what needs it cannot run.
        """
        found = next((self.out / job).rglob("step-*.ckpt"), None)
        if found is None:
            raise NotTried(f"{job} left no run.")
        return found.parents[1]

    def train(self, job: str, *arguments: object) -> list[str]:
        """An `ns-train` line."""
        port = ("--viewer.websocket-port", _free_port())
        return self._line("ns-train", job, *QUIET, *port, "--output-dir", self.out / job, *arguments)

    def edit(self, method: str, base: str, *arguments: object, more_steps: int = 0) -> list[str]:
        """An `ns-train` line of a method that takes the prior."""
        prompts = ("--pipeline.src-prompt", EDIT.source_prompt, "--pipeline.tgt-prompt", EDIT.target_prompt)
        shown = ("--pipeline.prior", self.prior, "--pipeline.resolution", self.size)
        both = (self.precision, "--pipeline.vae-precision", self.precision)
        compute = ("--pipeline.precision", *both) if self.precision else ()
        settings = (*prompts, *shown, *compute, "--max-num-iterations", self.steps + more_steps, *arguments)
        return self.train(method, "--load-dir", self.run_of(base), *settings)

    def command(self, name: str, *arguments: object) -> list[str]:
        """A `pds` line."""
        return self._line("pds", name, *arguments)

    @staticmethod
    def _line(program: str, *arguments: object) -> list[str]:
        return [program, *map(str, arguments)]


@dataclass(frozen=True)
class Job:
    """One line to be run."""

    line: Callable[[Place], list[str]]
    after: tuple[str, ...] = ()
    """Jobs whose results it takes."""


def _free_port() -> int:
    """A port that nothing listens on: several of these scripts may run."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


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
            *("--class-images", 0, "--sample-every", 0, "--sample-steps", 1),
            *(("--precision", at.precision) if at.precision else ()),
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
        for run in json.loads(path.read_text())["runs"]:
            # `values` names only what was measured: null is NaN there, and in `mean` also what was not asked for.
            for values in run["values"].values():
                yield torch.tensor([math.nan if value is None else float(value) for value in values])


def is_finite(folder: Path) -> bool | None:
    """Whether all numbers that a job has left are finite; None if there are none."""
    finite = [bool(values.isfinite().all()) for values in numbers_of(folder)]
    return all(finite) if finite else None


def gpu_memory(peak: Path, log: Path) -> dict[str, float]:
    """GiB that a process had allocated and reserved at most, and that it said it would take; nothing without a GPU."""
    if not peak.is_file():
        return {}
    found = {f"{kind} GiB": round(value / 2**30, 2) for kind, value in json.loads(peak.read_text()).items()}
    expected = EXPECTED.search(" ".join(log.read_text().split()))
    return found | ({"expected GiB": float(expected[1])} if expected else {})


def measure(name: str, place: Place, threads: int) -> dict[str, Any]:
    """Run a job; seconds, peak memory of its process in GiB, and whether what it made is finite."""
    peak = place.out / f"{name}.peak.json"
    line = [sys.executable, str(Path(__file__).with_name("with_peak.py")), str(peak), *JOBS[name].line(place)]
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
        **gpu_memory(peak, log),
        "ended well": os.waitstatus_to_exitcode(status) == 0,
        "finite": is_finite(place.out / name),
    }
    if not row["ended well"]:
        print(log.read_text()[-3000:])
    return row


def verdict(row: dict[str, Any]) -> str:
    """What the last column says."""
    return {True: "yes", False: "no", None: "-"}[row["finite"]] if row["ended well"] else "failed"


def main(
    prior: Size = "sd15",
    jobs: tuple[str, ...] = tuple(JOBS),
    size: int = 512,
    steps: int = 1,
    gaussians: int = 20_000,
    views: int = 2,
    precision: Literal["fp32", "bf16", "default"] = "bf16",
    threads: int = 2,
    small: bool = False,
    folder: Path | None = None,
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
        precision: of the prior, encoder included; "default" is what an edit takes by itself.
        threads: of torch.
        small: small networks, to try the script.
        folder: a prior that `random_folder` wrote; by default one is written.
        out: JSON file of all rows, to which this run's are added.
    """
    if unknown := set(jobs) - set(JOBS):
        raise SystemExit(f"There is no job {sorted(unknown)}: choose among {', '.join(JOBS)}.")
    wanted: list[str] = []
    for name in jobs:
        needed = [*(before for after in JOBS[name].after for before in (*JOBS[after].after, after)), name]
        wanted += [job for job in needed if job not in wanted]
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    machine = f"{chip}, {threads} threads, torch {torch.__version__}"
    failed: list[str] = []
    known: list[dict[str, Any]] = json.loads(out.read_text()) if out is not None and out.is_file() else []
    print(f"{TITLES[prior]}, {size}x{size}, {steps} step(s), {gaussians} points, {precision}; {machine}\n")
    print("| job | seconds | processor seconds | GiB at most | of the GPU | finite |\n|---|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory(prefix="real_sizes_") as name:
        work = Path(name)
        write_edit(EDIT, work / "scene", train_views=views, test_views=1, size=size, num_points=gaussians)
        weights = folder.resolve() if folder else write_folder(prior, work / "prior", small)
        given = None if precision == "default" else precision
        place = Place(weights, work / "scene" / "source", work, size, steps, given)
        for job in wanted:
            row = {"prior": prior, "size": size, "steps": steps, "precision": precision, "machine": machine}
            try:
                row |= measure(job, place, threads) | {"command": shlex.join(["python", *sys.argv])}
            except NotTried as reason:
                print(f"| {job} | - | - | - | - | not tried: {reason} |", flush=True)
                failed.append(job)
                continue
            numbers = (row["seconds"], row["processor seconds"], row["GiB"], row.get("reserved GiB", "-"))
            print(f"| {job} | {' | '.join(map(str, numbers))} | {verdict(row)} |", flush=True)
            if verdict(row) in ("failed", "no"):
                failed.append(job)
            known.append(row)
            if out is not None:
                out.write_text(json.dumps(known, indent=2) + "\n")
    if failed:
        raise SystemExit(f"Failed, not tried or not finite: {', '.join(failed)}.")


if __name__ == "__main__":
    tyro.cli(main)
