"""nerfstudio's lookup in hash tables beside ours (`scenes.hash_encoding`): nerfacto rendered, forward and backward.

    python benchmarks/hash_encoding.py                      # a minute on one core; on a GPU with --device cuda

Both in turn, on one untrained nerfacto of nerfstudio's default sizes without tiny-cuda-nn: seconds, medians, and KiB
that a ray keeps for the backward pass.
"""

import statistics
import time

import torch
import tyro
from nerfstudio.field_components.encodings import HashEncoding
from rendering import look_at_scene, scene

from pds_nerfstudio.scenes.families import render, scene_of


def main(side: int = 32, rays_per_chunk: int = 512, repeats: int = 4, device: str = "cpu") -> None:
    """Measure and print.

    Args:
        side: of the picture, in pixels.
        rays_per_chunk: rays at once.
        repeats: of each, the first one untimed.
        device: where.
    """
    lookups = {"nerfstudio's": HashEncoding.pytorch_fwd}
    model = scene("nerfacto", device)
    lookups["ours"] = HashEncoding.pytorch_fwd
    kept: dict[str, float] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in lookups}

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(repeats):
        for name, lookup in lookups.items():
            HashEncoding.pytorch_fwd = lookup
            kept[name] = scene_of(model).bytes_per_ray(regularise=True) / 2**10
            start = now()
            rendering = render(model, look_at_scene(side), rays_per_chunk=rays_per_chunk, regularise=True)
            rendered = now()
            (rendering.image.sum() + sum(rendering.regulariser.values())).backward()
            times[name].append((rendered - start, now() - rendered))
    print("| lookup | forward | forward again and backward | KiB kept by a ray |\n|---|---:|---:|---:|")
    for name, measured in times.items():
        forward, backward = (statistics.median(part) for part in zip(*measured[1:], strict=True))
        print(f"| {name} | {forward:.2f} | {backward:.2f} | {kept[name]:.0f} |")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
