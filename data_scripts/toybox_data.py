"""Random pictures of the toy world: geometry traced once into a bank, coloured on the fly."""

import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn
from training_loop import save_atomically

from pds_nerfstudio.toybox.geometry import Material
from pds_nerfstudio.toybox.render import LOOK_AT, ORBIT_RADIUS, TracedViews, orbit_cameras, palette, shade, trace
from pds_nerfstudio.toybox.spec import COLOURS, FLOORS, HATS, SHAPES, SceneSpec, Shape, is_held_out

IMAGE_SIZE = 64
SUPERSAMPLE = 2


@dataclass(frozen=True)
class Bank:
    """Traced views as bytes; `shape` and `hat` say of what."""

    material: Tensor
    diffuse: Tensor
    highlight: Tensor
    shape: Tensor
    hat: Tensor

    def to(self, device: str) -> "Bank":
        return Bank(*(getattr(self, name).to(device) for name in ("material", "diffuse", "highlight", "shape", "hat")))


def views_of(shape: str) -> int:
    """More views for objects that look different from every side."""
    return 320 if shape.startswith("man") else 200 if shape in ("cube", "ring") else 120


def random_cameras(count: int, generator: torch.Generator) -> Tensor:
    """Cameras [count 3 4] on an orbit, at 12 to 50 degrees, that look somewhere about the object's middle."""

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=generator)

    return orbit_cameras(
        uniform(0, 2 * math.pi, count),
        uniform(math.radians(12), math.radians(50), count),
        ORBIT_RADIUS * uniform(0.9, 1.1, count),
        torch.tensor(LOOK_AT) + uniform(-0.07, 0.07, count, 3),
    )


def trace_random_views(shape: Shape, hat: bool, count: int, seed: int) -> dict[str, Tensor]:
    """Views from random orbit cameras, as bytes."""
    generator = torch.Generator().manual_seed(seed)

    cameras = random_cameras(count, generator)
    size = IMAGE_SIZE * SUPERSAMPLE
    traced = trace(SceneSpec(shape, hat=hat), cameras, size, size)
    return {
        "material": traced.material,
        "diffuse": (traced.diffuse * 255).round().to(torch.uint8),
        "highlight": (traced.highlight * 255).round().to(torch.uint8),
        "shape": torch.full((count,), SHAPES.index(shape)),
        "hat": torch.full((count,), int(hat)),
    }


def build_bank(folder: Path, seed: int) -> Bank:
    """The whole bank, kept in `folder`: a few minutes of every core."""
    path = folder / "bank.pt"
    if not path.exists():
        torch.multiprocessing.set_sharing_strategy("file_system")
        jobs = [(s, h, 20) for s in SHAPES for h in HATS for _ in range(views_of(s) // 20)]
        spawn = torch.multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(trace_random_views, *job, seed + i) for i, job in enumerate(jobs)]
            parts = [future.result() for future in track(futures, "tracing")]
        save_atomically({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, path)
    return Bank(**torch.load(path, weights_only=True))


class World:
    """Draws coloured images and their specs from a bank."""

    def __init__(self, bank: Bank, seed: int, held_out: bool) -> None:
        """With `held_out`, only the colour and shape pairs kept from the U-Net; without, only the others."""
        self.bank = bank
        self.device = bank.material.device
        self.generator = torch.Generator().manual_seed(seed)
        self.colours = [
            [c for c, colour in enumerate(COLOURS) if is_held_out(SceneSpec(shape, colour)) == held_out]
            for shape in SHAPES
        ]
        shapes = bank.shape.cpu()
        self.views = [
            [((shapes == s) & (bank.hat.cpu() == h)).nonzero()[:, 0] for h in HATS] for s in range(len(SHAPES))
        ]

    def integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.generator))

    def draw(self, count: int) -> tuple[Tensor, list[SceneSpec], Tensor]:
        """Images [count 3 H W] in [0, 1], what they show, and the share of each pixel that is object [count 1 H W].

        Shapes are equally frequent; two in five wear a hat.
        """
        specs, rows, palettes = [], [], []
        for _ in range(count):
            shape = self.integer(len(SHAPES))
            hat = self.integer(5) < 2
            colour = self.colours[shape][self.integer(len(self.colours[shape]))]
            spec = SceneSpec(SHAPES[shape], COLOURS[colour], FLOORS[self.integer(len(FLOORS))], hat)
            views = self.views[shape][hat]
            specs.append(spec)
            rows.append(views[self.integer(len(views))])
            jitter = 0.03 * torch.randn(len(Material), 3, generator=self.generator)
            jitter[Material.BACKGROUND] = 0
            palettes.append((palette(spec) + jitter).clamp(0, 1))
        index = torch.stack(rows).to(self.device)
        traced = TracedViews(
            self.bank.material[index],
            self.bank.diffuse[index].float() / 255,
            self.bank.highlight[index].float() / 255,
            torch.zeros(0, 0, 0),
        )
        colours = torch.stack(palettes).to(self.device)
        offset = len(Material) * torch.arange(count, device=self.device)[:, None, None]
        flat = TracedViews(traced.material.long() + offset, traced.diffuse, traced.highlight, traced.depth)
        images = shade(flat, colours.flatten(0, 1)).permute(0, 3, 1, 2)
        is_object = (traced.material >= Material.OBJECT).float()[:, None]
        return nn.functional.avg_pool2d(images, SUPERSAMPLE), specs, nn.functional.avg_pool2d(is_object, SUPERSAMPLE)

    def caption(self, spec: SceneSpec) -> str:
        """A true caption: always shape and hat, mostly the colour, the floor as often as not."""
        return spec.prompt(colour=self.integer(8) > 0, floor=self.integer(2) > 0)
