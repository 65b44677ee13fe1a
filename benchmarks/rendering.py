"""Memory and time of one differentiable rendering, with and without recomputation, over the number of rays.

    python benchmarks/rendering.py [--family splatfacto] [--sides 32 64 96] [--rays-per-chunk 512] [--device cpu]

One process per row. On a CPU the figure is the growth of the process's peak resident memory over forward and backward,
on CUDA torch's own peak of allocated memory. With recomputation the figure must not grow with the number of rays, but
for the rays and the image themselves (a few hundred bytes a ray).
"""

import argparse
import os
import resource
import subprocess
import sys
import time

import torch

# glibc keeps freed blocks for later and so adds hundreds of MB of gaps to the peak; these settings hand them back.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def scene(family: str, device: str, gaussians: int = 10_000):
    """A scene at nerfstudio's default sizes, untrained: so many Gaussians, or nerfacto without tiny-cuda-nn."""
    from nerfstudio.data.scene_box import SceneBox

    box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    if family == "splatfacto":
        from pds_nerfstudio.scenes.splatfacto import SplatfactoSceneConfig

        config = SplatfactoSceneConfig(random_init=True, num_random=gaussians, random_scale=2.0)
    else:
        from pds_nerfstudio import compat
        from pds_nerfstudio.scenes.nerfacto import NerfactoSceneConfig

        compat.look_up_hash_tables_quickly()
        config = NerfactoSceneConfig(implementation="torch")
    torch.manual_seed(0)
    return config.setup(scene_box=box, num_train_data=1).to(device).train()


def look_at_scene(side: int):
    """A camera of side x side pixels that sees all of it."""
    from nerfstudio.cameras.cameras import Cameras

    pose = torch.eye(4)[None, :3].clone()
    pose[:, 2, 3] = 3.0
    return Cameras(pose, 1.2 * side, 1.2 * side, side / 2, side / 2, side, side, metadata={"cam_idx": 0})


def measure(family: str, side: int, recompute: bool, rays_per_chunk: int, device: str) -> tuple[float, float]:
    """Peak memory in MB that one forward and backward pass adds, and seconds they take."""
    from pds_nerfstudio.scenes.families import render

    model = scene(family, device)

    def step(side: int) -> None:
        rendering = render(
            model, look_at_scene(side), recompute=recompute, rays_per_chunk=rays_per_chunk, regularise=True
        )
        sum(rendering.regulariser.values(), rendering.image.square().sum()).backward()

    step(8)  # gradients and workspaces of fixed size
    model.zero_grad(set_to_none=False)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    step(side)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return (peak - before) / 1e6, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["nerfacto", "splatfacto"], default="nerfacto")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 96], help="image sides in pixels")
    parser.add_argument("--rays-per-chunk", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--row", type=int, nargs=2, metavar=("SIDE", "RECOMPUTE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        side, recompute = args.row
        megabytes, seconds = measure(args.family, side, bool(recompute), args.rays_per_chunk, args.device)
        print(f"| {args.family} | {side * side} | {'yes' if recompute else 'no'} | {megabytes:.0f} | {seconds:.1f} |")
        return
    machine = f"{args.device}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(f"{machine}, at most {args.rays_per_chunk} rays a chunk\n")
    print("| family | rays | recomputed | peak memory added, MB | seconds |\n|---|---|---|---|---|", flush=True)
    for side in args.sides:
        for recompute in (0, 1) if args.family == "nerfacto" else (0,):
            own = ["--family", args.family, "--rays-per-chunk", str(args.rays_per_chunk), "--device", args.device]
            row = [sys.executable, "-W", "ignore", __file__, *own, "--row", str(side), str(recompute)]
            subprocess.run(row, check=True, env=os.environ | RETURN_FREED_MEMORY)


if __name__ == "__main__":
    main()
