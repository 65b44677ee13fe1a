"""Milliseconds per rendering and backward pass of splats: our CPU rasteriser, and gsplat's kernel where there is CUDA.

    python benchmarks/rasterize.py [--gaussians 4000 10000] [--sizes 64 128] [--repeats 15] [--threads 1]

The scene: half of the Gaussians on a sphere, half on the floor below it, as splatfacto begins from such a point cloud
(standard deviation = mean distance to the three nearest neighbours, times exp(0.3 z) per axis), opacities sigmoid(2 z),
z standard normal; the camera sees all of it. Every row is the median over `--repeats` runs after three uncounted ones.
With one thread the CPU's figures are processor time, which other work on a shared machine does not stretch; with more
threads, and for the kernel, they are the time on the clock.
"""

import argparse
import platform
import statistics
import time

import torch

from pds_nerfstudio.scenes.rasterize import rasterization


def make_scene(n: int, device: str) -> list[torch.Tensor]:
    """means, quats, scales, opacities, colors of n Gaussians."""
    g = torch.Generator().manual_seed(0)
    sphere = torch.nn.functional.normalize(torch.randn(n - n // 2, 3, generator=g), dim=-1) * 0.6
    floor = torch.rand(n // 2, 3, generator=g) * 2 - 1
    floor[:, 1] = 0.6
    means = torch.cat([sphere, floor]).to(device)
    spacing = torch.cat([torch.cdist(part, means).topk(4, largest=False).values for part in means.split(1000)])
    scales = spacing[:, 1:].mean(-1, keepdim=True).cpu() * torch.exp(0.3 * torch.randn(n, 3, generator=g))
    quats = torch.randn(n, 4, generator=g)
    opacities = torch.sigmoid(2 * torch.randn(n, generator=g))
    colors = torch.rand(n, 3, generator=g)
    return [t.to(device).requires_grad_() for t in (means, quats, scales, opacities, colors)]


def measure(n: int, size: int, device: str, repeats: int) -> tuple[float, float]:
    """Median milliseconds of a rendering and of its backward pass."""
    scene = make_scene(n, device)
    viewmat = torch.eye(4, device=device)
    viewmat[2, 3] = 2.5
    K = torch.tensor([[1.3 * size, 0, size / 2], [0, 1.3 * size, size / 2], [0, 0, 1]], device=device)

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        alone = device == "cpu" and torch.get_num_threads() == 1
        return time.process_time() if alone else time.perf_counter()

    times = []
    for _ in range(repeats + 3):
        start = now()
        render, alpha, _ = rasterization(*scene, viewmat[None], K[None], size, size, packed=False)
        loss = render.square().sum() + alpha.sum()
        drawn = now()
        loss.backward()
        times.append((drawn - start, now() - drawn))
    forward, backward = zip(*times[3:], strict=True)
    return 1e3 * statistics.median(forward), 1e3 * statistics.median(backward)


def machine() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gaussians", type=int, nargs="+", default=[1000, 4000, 10000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cpu-at-most", type=int, default=10000, help="more Gaussians than these the kernel draws alone"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    cuda = torch.cuda.is_available()
    print(f"{machine()}, {arguments.threads} thread(s), torch {torch.__version__}")
    header = ["Gaussians", "pixels", "forward ms", "backward ms", "steps/s"]
    if cuda:
        print(f"{torch.cuda.get_device_name()}, gsplat's kernel")
        header += ["gsplat forward ms", "gsplat backward ms", "CPU / gsplat"]
    print("\n| " + " | ".join(header) + " |\n|" + "---:|" * len(header))
    for n in arguments.gaussians:
        for size in arguments.sizes:
            row = [str(n), f"{size}²", "-", "-", "-"]
            forward = backward = 0.0
            if n <= arguments.cpu_at_most:
                forward, backward = measure(n, size, "cpu", arguments.repeats)
                row[2:] = [f"{forward:.1f}", f"{backward:.1f}", f"{1e3 / (forward + backward):.0f}"]
            if cuda:
                kernel = measure(n, size, "cuda", arguments.repeats)
                ratio = f"{(forward + backward) / sum(kernel):.0f}×" if forward else "-"
                row += [f"{kernel[0]:.1f}", f"{kernel[1]:.1f}", ratio]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
