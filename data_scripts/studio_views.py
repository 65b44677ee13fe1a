"""Photographs of random studio scenes, four views at a time: what the studio prior and its judge are trained on.

    python data_scripts/studio_views.py --folder outputs/studio_views --shards 160     # stop at any time

Needs the extra [studio]. A shard is 96 pictures of 128 pixels: 12 scenes, each from two groups of four cameras, 90
degrees apart. Four scenes share a room and its light, because a room costs as much as four pictures; they differ in
object, material and addition. Shards that exist are kept; more can be added at any time, also while a training reads
them. The scenes of the edits (`studio.spec.is_held_out`) are in valid.pt alone, with seeds of their own.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import tyro
from studio_photographs import IMAGE_SIZE, jpeg
from training_loop import save_atomically
from view_groups import VIEWS, quadruples

from pds_nerfstudio.studio.render import FULL_DETAIL, Studio
from pds_nerfstudio.studio.spec import (
    ADDITIONS,
    IMPOSSIBLE,
    LIGHTS,
    MATERIALS,
    ROOMS,
    THINGS,
    Light,
    Room,
    StudioSpec,
    all_specs,
    is_held_out,
)
from pds_nerfstudio.toybox.render import toybox_matrices

Value = TypeVar("Value")

SCENES_OF_ROOM, GROUPS_OF_SCENE = 4, 2
FIRST_HELD_OUT_SEED = 1_000_000
"""Seeds of training begin at 1: seed 0 belongs to the edits, and those from here on to valid.pt."""


def pick(values: Sequence[Value], generator: torch.Generator) -> Value:
    return values[int(torch.randint(len(values), (), generator=generator))]


def random_spec(room: Room, light: Light, seed: int, generator: torch.Generator) -> StudioSpec:
    """Any scene of that room and light that is no edit's; two in five have no addition where all are possible."""
    while True:
        thing, addition = pick(THINGS, generator), pick(("nothing", *ADDITIONS), generator)
        if (thing, addition) in IMPOSSIBLE:
            continue
        spec = StudioSpec(thing, pick(MATERIALS, generator), addition, room, light, seed)
        if not is_held_out(spec):
            return spec


def training_specs(shard: int, generator: torch.Generator) -> list[StudioSpec]:
    """A shard's scenes, of one room of each kind; those of one room next to each other."""
    specs = []
    for i, room in enumerate(ROOMS):
        seed, light = 1 + len(ROOMS) * shard + i, pick(LIGHTS, generator)
        specs += [random_spec(room, light, seed, generator) for _ in range(SCENES_OF_ROOM)]
    return specs


def held_out_specs() -> list[StudioSpec]:
    """The edits' scenes, each with a seed of its own."""
    scenes = [spec for spec in all_specs() if is_held_out(spec)]
    return [replace(spec, seed=FIRST_HELD_OUT_SEED + i) for i, spec in enumerate(scenes)]


def make_shard(specs: list[StudioSpec], samples: int, threads: int, generator: torch.Generator) -> dict[str, object]:
    """Two groups of every scene: JPEGs in a row, cameras [groups 4 4 4], and each group's scene and seed."""
    every = list(all_specs())
    pictures, cameras, words, seeds = [], [], [], []
    for spec in specs:
        studio = Studio(spec, threads, IMAGE_SIZE / FULL_DETAIL)
        poses = quadruples(GROUPS_OF_SCENE, generator)
        for i, pose in enumerate(poses):
            pictures.append(jpeg(studio.photograph(pose, IMAGE_SIZE, samples, seed=i)))
        cameras.append(toybox_matrices(poses).unflatten(0, (GROUPS_OF_SCENE, VIEWS)))
        words += [every.index(replace(spec, seed=0))] * GROUPS_OF_SCENE
        seeds += [spec.seed] * GROUPS_OF_SCENE
    return {
        "jpegs": pictures,
        "cameras": torch.cat(cameras),
        "specs": torch.tensor(words),
        "seeds": torch.tensor(seeds),
    }


def main(
    folder: Path = Path("outputs/studio_views"), shards: int = 160, samples: int = 12, threads: int = 0, seed: int = 0
) -> None:
    """Render the shards that are missing, and one that no training reads.

    Args:
        folder: of the shards.
        shards: how many to train on.
        samples: paths a pixel, before denoising.
        threads: of Mitsuba; 0 for as many as there are cores.
        seed: of words and cameras; each shard has its own from it.
    """
    for name, number in [("valid.pt", -1), *((f"views_{i:04d}.pt", i) for i in range(shards))]:
        if (folder / name).exists():
            continue
        generator = torch.Generator().manual_seed(100_000 * seed + number + 1)
        specs = held_out_specs() if number < 0 else training_specs(number, generator)
        save_atomically(make_shard(specs, samples, threads, generator), folder / name)
        print(f"wrote {folder / name}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
