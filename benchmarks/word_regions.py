"""How well words find an object: IoU of the lifted region, rendered, with the true mask over held-out views.

    python benchmarks/word_regions.py --out outputs/word_regions

Each of toybox's shapes is reconstructed once (kept in --out) and found again by its word. For each a line: mean and
least IoU over the held-out views by each way of finding it. Overlays go to OUT/overlays-FAMILY-WAY.png.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image
from torch import Tensor

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.evaluation.trial import SETTINGS, reconstruct
from pds_nerfstudio.images import to_channels_last
from pds_nerfstudio.pictures import read_images
from pds_nerfstudio.pipelines.settings import FoundBy, ViewSettings
from pds_nerfstudio.pipelines.shown import shown_views
from pds_nerfstudio.pipelines.source_views import SourceViews
from pds_nerfstudio.pipelines.word_region import WordSearch
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.prompts import sought
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.hull import BEHIND, Region
from pds_nerfstudio.scenes.region import hull_of_views
from pds_nerfstudio.scenes.scene import Family
from pds_nerfstudio.scenes.views import eval_views, train_views
from pds_nerfstudio.toybox.dataset import write_scene
from pds_nerfstudio.toybox.spec import SHAPES, Colour, SceneSpec, Shape

COLOURS: dict[Shape, Colour] = {
    "ball": "red",
    "cube": "yellow",
    "cone": "yellow",
    "can": "red",
    "flat can": "green",
    "tall can": "cyan",
    "ring": "purple",
    "man": "blue",
    "man stretching out his arms": "green",
    "man raising his arms": "orange",
}
"""Those of toybox's edits."""


def word_of(shape: Shape) -> str:
    """What one would call it."""
    return "the man" if shape.startswith("man") else f"the {shape.split()[-1]}"


def mask_of(search: WordSearch, sources: SourceViews, index: int, camera: Any, _: Any) -> Tensor:
    """A view's mask."""
    return search.mask(sources.view(search.prior, search.shown, index, int(camera.height), int(camera.width)))


@torch.no_grad()
def seen(model: Any, camera: Any, region: Region) -> tuple[Tensor, Tensor]:
    """Picture [3 H W] of a view and where it shows the region [H W]."""
    whole, part = render(model, camera), render(model, camera, within=region)
    visible = part.depth <= whole.depth * (1 + BEHIND)
    return whole.image[0], ((part.accumulation > 0.5) & visible)[0, 0]


@dataclass
class WordRegions:
    """Find toybox's objects by their words, and compare with the truth."""

    out: Path = Path("outputs/word_regions")
    """Scenes, runs and overlays."""
    family: Family = "splatfacto"
    """What scenes are reconstructed as."""
    shapes: tuple[Shape, ...] = SHAPES
    """Which of them."""
    by: tuple[FoundBy, ...] = ("both", "difference", "attention")
    """Ways of finding them."""
    words: str | None = None
    """Words to look for, in place of the shape's own."""
    prompt: str | None = None
    """The source prompt, in place of the scene's own."""
    seed: int = 0

    def main(self) -> None:
        """Print the table."""
        prior = load_prior("toybox", "cpu")
        overlays: dict[str, list[Tensor]] = {way: [] for way in self.by}
        print("| object | words | " + " | ".join(f"by {way}: mean | least" for way in self.by) + " |")
        print("|---|---|" + "---:|---:|" * len(self.by))
        for shape in self.shapes:
            spec = SceneSpec(shape, COLOURS[shape])
            words = self.words or word_of(shape)
            prompt = spec.prompt(floor=False) if self.prompt is None else self.prompt
            scene, config = self._scene(spec)
            run = load_run(config)
            views, held_out = train_views(run.datamanager), eval_views(run.datamanager)
            sources = SourceViews(lambda model=run.model: model, False, "cpu")
            shown = shown_views(views, ViewSettings(), None, 0, sources.scene, prior, prior.trained_size)
            cells = []
            for way in self.by:
                search = WordSearch(prior, shown, sought(words, prompt), way, self.seed)
                hull = hull_of_views(run.model, views, views.size, partial(mask_of, search, sources), way)
                names = [Path(name).name for name in held_out.names]
                truth = read_images([scene / "object_masks" / name for name in names])[:, 0] > 0.5
                overlaps = []
                for i in range(len(held_out)):
                    picture, found = seen(run.model, held_out.camera(i, *held_out.size(i)), hull)
                    overlaps.append(float((found & truth[i]).sum() / (found | truth[i]).sum()))
                    if i < 4:
                        overlays[way].append(overlay(picture, found, truth[i]))
                cells.append(f"{sum(overlaps) / len(overlaps):.3f} | {min(overlaps):.3f}")
            print(f"| {shape} | {words} | {' | '.join(cells)} |", flush=True)
        for way, pictures in overlays.items():
            rows = [torch.cat(pictures[i : i + 4], dim=-1) for i in range(0, len(pictures), 4)]
            sheet = to_channels_last(torch.cat(rows, dim=-2)[None])[0]
            Image.fromarray((sheet * 255).byte().numpy()).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), 0).save(
                self.out / f"overlays-{self.family}-{way}.png"
            )

    def _scene(self, spec: SceneSpec) -> tuple[Path, Path]:
        """The dataset and the run's `config.yml`, made where they are not there."""
        name = spec.shape.replace(" ", "-")
        scene, runs = self.out / "scenes" / name, self.out / "runs" / self.family / name
        if not (scene / "transforms.json").is_file():
            write_scene(spec, scene, seed=self.seed)
        if found := sorted(runs.glob("**/config.yml")):
            return scene, found[-1]
        return scene, reconstruct(self.family, scene, runs, SETTINGS[self.family].reconstruction_steps, self.seed)


def overlay(picture: Tensor, found: Tensor, truth: Tensor) -> Tensor:
    """Green where the region is rightly found, magenta where it is wrongly, cyan where it is missed."""
    tint = torch.stack([found & ~truth, truth, found ^ truth]).float()
    marked = found | truth
    return torch.where(marked, 0.45 * picture + 0.55 * tint, picture)


if __name__ == "__main__":
    tyro.cli(WordRegions).main()
