"""What one moment of an edit's history costs: bytes on the disk, seconds to write it and to read it again.

    python benchmarks/history.py --gaussians 200000 1000000

Splats of splatfacto's parameters (59 numbers each) with Adam's two moments of every one; compare with a step's time.
"""

import platform
import tempfile
import time
from pathlib import Path

import torch
import tyro

from pds_nerfstudio.pipelines.snapshot import Snapshot, load_snapshot, save_snapshot

NUMBERS = {
    "means": (3,),
    "scales": (3,),
    "quats": (4,),
    "features_dc": (3,),
    "features_rest": (15, 3),
    "opacities": (1,),
}


def moment(gaussians: int) -> Snapshot:
    """Random splats, trained for a while."""
    scene = {f"_model.gauss_params.{name}": torch.randn(gaussians, *shape) for name, shape in NUMBERS.items()}
    optimizers = {}
    for name, values in zip(NUMBERS, scene.values(), strict=True):
        parameter = torch.nn.Parameter(values)
        optimizer = torch.optim.Adam([parameter])
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        optimizers[name] = optimizer.state_dict()
    return Snapshot(0, scene, {}, optimizers, {}, {})


def main(gaussians: tuple[int, ...] = (50_000, 200_000, 1_000_000), folder: Path | None = None) -> None:
    """Print a table.

    Args:
        gaussians: numbers of them.
        folder: where to write; by default a temporary one.
    """
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}\n")
    print("| Gaussians | MB | write, s | read, s |\n|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for count in gaussians:
            path, snapshot = Path(scratch) / f"{count}.pt", moment(count)
            start = time.perf_counter()
            save_snapshot(snapshot, path)
            written = time.perf_counter()
            state = load_snapshot(path).optimizers  # mapped: it is read where it is looked at
            sum(
                float(part.sum())
                for group in state.values()
                for one in group["state"].values()
                for part in one.values()
            )
            read = time.perf_counter()
            size = path.stat().st_size / 1e6
            print(f"| {count:,} | {size:.0f} | {written - start:.2f} | {read - written:.2f} |")


if __name__ == "__main__":
    tyro.cli(main)
