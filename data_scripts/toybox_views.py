"""Latents of four views at a time, with their cameras: what the toybox prior's second edition is trained on.

    python data_scripts/toybox_views.py --folder outputs/toybox_views --shards 24

Every shard is 2,400 views of 600 scenes: an object is traced from four sides, 90 degrees apart, and coloured three
times. One elevation, one distance and one aim for each group, as `random_cameras` draws them. Shards that exist are
kept; more can be added at any time, also while a training reads them. About 50 seconds a shard on one core.
"""

from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from toybox_data import IMAGE_SIZE, SUPERSAMPLE
from training_loop import save_atomically
from view_groups import VIEWS, quadruples
from view_training import ViewData

from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.toybox.geometry import Material
from pds_nerfstudio.toybox.render import (
    TracedViews,
    palette,
    shade,
    toybox_matrices,
    trace,
)
from pds_nerfstudio.toybox.spec import COLOURS, FLOORS, HATS, SHAPES, SceneSpec, all_specs, is_held_out

QUADRUPLES = {False: 12, True: 8}
"""Traced groups of every shape in a shard, without and with a hat."""
COLOURINGS = 3


def coloured(traced: TracedViews, spec: SceneSpec, generator: torch.Generator) -> Tensor:
    """Images [views 3 H W] in [0, 1], in the spec's colours with a little of chance."""
    jitter = 0.03 * torch.randn(len(Material), 3, generator=generator)
    jitter[Material.BACKGROUND] = 0
    images = shade(traced, (palette(spec) + jitter).clamp(0, 1)).permute(0, 3, 1, 2)
    return nn.functional.avg_pool2d(images, SUPERSAMPLE)


def make_shard(prior: StableDiffusionPrior, seed: int) -> dict[str, Tensor]:
    """Latents [groups 4 C h w] in half precision, cameras [groups 4 4 4] and the number of each group's spec."""
    generator = torch.Generator().manual_seed(seed)
    every = list(all_specs())
    latents, cameras, specs = [], [], []
    for shape in SHAPES:
        colours = [colour for colour in COLOURS if not is_held_out(SceneSpec(shape, colour))]
        for hat in HATS:
            poses = quadruples(QUADRUPLES[hat], generator)
            size = IMAGE_SIZE * SUPERSAMPLE
            traced = trace(SceneSpec(shape, hat=hat), poses, size, size)
            for group in range(QUADRUPLES[hat]):
                rows = slice(group * VIEWS, (group + 1) * VIEWS)
                views = TracedViews(
                    traced.material[rows], traced.diffuse[rows], traced.highlight[rows], traced.depth[rows]
                )
                images = []
                for _ in range(COLOURINGS):
                    colour = colours[int(torch.randint(len(colours), (), generator=generator))]
                    floor = FLOORS[int(torch.randint(len(FLOORS), (), generator=generator))]
                    spec = SceneSpec(shape, colour, floor, hat)
                    images.append(coloured(views, spec, generator))
                    specs.append(every.index(spec))
                    cameras.append(toybox_matrices(poses[rows]))
                with torch.no_grad():
                    encoded = prior.encode(torch.cat(images)).half()
                latents.append(encoded.reshape(COLOURINGS, VIEWS, *encoded.shape[1:]))
    return {"latents": torch.cat(latents), "cameras": torch.stack(cameras), "specs": torch.tensor(specs)}


def load_views(folder: Path, pattern: str = "views_*.pt") -> ViewData:
    """What all shards of a folder have. Raises FileNotFoundError where there is none."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no {pattern}: run data_scripts/toybox_views.py first.")
    parts = [torch.load(path, weights_only=True) for path in paths]
    return ViewData(
        *(torch.cat([part[name] for part in parts]) for name in ("latents", "cameras", "specs")), len(paths)
    )


def main(folder: Path = Path("outputs/toybox_views"), shards: int = 24, seed: int = 1000) -> None:
    """Write the shards that are missing, and one that no training reads.

    Args:
        folder: of the shards.
        shards: how many to train on.
        seed: of the first; the others follow.
    """
    prior = load_prior("toybox", "cuda" if torch.cuda.is_available() else "cpu")
    for name, number in [("valid.pt", -1), *((f"views_{i:04d}.pt", i) for i in range(shards))]:
        if not (folder / name).exists():
            save_atomically(make_shard(prior, seed + number), folder / name)
            print(f"wrote {folder / name}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
