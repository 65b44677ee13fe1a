"""Seconds and peak memory of the prior's two costs per edit step: `predict_noise`, and `encode` with its backward.

    python benchmarks/prior.py                     SD-1.5-sized random weights on CUDA, else the toybox prior on the CPU
    python benchmarks/prior.py --prior FOLDER      any prior, on whatever device there is

One step asks for two guided predictions (source and target), that is four U-Net rows. Random weights cost what trained
ones do, so nothing is downloaded. Prints a Markdown table; memory is the CUDA allocator's peak, or on the CPU the
growth of the process's peak (0 where a case stays below an earlier one).
"""

import argparse
import platform
import resource
import sys
import time
from collections.abc import Callable

import torch
from random_prior import random_prior

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.priors.check import check_prior
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def measure(step: Callable[[], object], device: str, repeats: int) -> tuple[float, float]:
    """Median seconds of `step` after one warm-up, and its peak memory in MiB."""
    cuda = device == "cuda"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    step()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    if cuda:
        peak = torch.cuda.max_memory_allocated() / 2**20
    return sorted(seconds)[repeats // 2], peak


def cases(prior: StableDiffusionPrior, size: int) -> dict[str, Callable[[], object]]:
    """The two costs of one step on a square picture of `size` pixels."""
    side = size // prior.latent_stride
    x_t = torch.randn(1, prior.latent_channels, side, side, device=prior.device)
    t = torch.tensor([500])
    queries = [Query(x_t, t, "a red ball", 100.0), Query(x_t, t, "a blue cube", 100.0)]

    def encode() -> None:
        image = torch.rand(1, 3, size, size, device=prior.device, requires_grad=True)
        prior.encode(image).sum().backward()

    return {"predict_noise, 4 rows": lambda: prior.predict_noise(queries), "encode + backward": encode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", help="toybox, a folder or a hub id; default: by device, see above")
    parser.add_argument("--size", type=int, help="picture side in pixels; default: 512, or 64 for toybox")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 and float16 on CUDA, float32 on the CPU")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = args.prior or ("random SD 1.5" if device == "cuda" else "toybox")
    size = args.size or (64 if name == "toybox" else 512)
    dtypes = [args.dtype] if args.dtype else ["float32", "float16"] if device == "cuda" else ["float32"]
    if name != "random SD 1.5":
        check_prior(name)
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    machine = torch.cuda.get_device_name() if device == "cuda" else cpu
    print(f"{name}, {size}x{size}, {machine}, torch {torch.__version__}, median of {args.repeats}\n")
    print("| step | dtype (VAE float32) | encoder recomputed | seconds | peak MiB |\n|---|---|---|---|---|")
    for dtype in dtypes:
        for recompute in (False, True):
            if name == "random SD 1.5":
                prior = random_prior("sd15", device, DTYPES[dtype], recompute_encoder=recompute)
            else:
                prior = load_prior(name, device, DTYPES[dtype], recompute_encoder=recompute)
            for label, step in cases(prior, size).items():
                if recompute and label.startswith("predict"):
                    continue  # the same as without
                seconds, peak = measure(step, device, args.repeats)
                recomputed = "-" if label.startswith("predict") else "yes" if recompute else "no"
                print(f"| {label} | {dtype} | {recomputed} | {seconds:.4f} | {peak:.0f} |", flush=True)
            del prior


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
