"""The picture of docs/studio.md: each still life of the package and what its three edits should become.

    python data_scripts/plot_studio.py

Needs the extra [studio]; some minutes on one core.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image

from pds_nerfstudio.errors import one_sentence
from pds_nerfstudio.studio.photography import Photography
from pds_nerfstudio.studio.render import FULL_DETAIL, Studio
from pds_nerfstudio.studio.spec import STILLS
from pds_nerfstudio.toybox.render import orbit_cameras

OUT = Path(__file__).parents[1] / "docs/figures/studio.jpg"
VIEWS = {
    **{"vase": (170.0, 22.0), "teapot": (300.0, 25.0), "mug": (262.0, 24.0), "bottle": (105.0, 20.0)},
    **{"figure": (35.0, 21.0)},
}
"""Azimuth and elevation of each still life's picture in degrees."""


@dataclass
class PlotStudio:
    """Draw the sheet."""

    out: Path = OUT
    """File to write."""
    size: int = 256
    """Height and width of one picture in pixels."""
    threads: int = 1
    """Of Mitsuba."""


def main(settings: PlotStudio) -> None:
    size = settings.size
    scenes = [(still.name, [still.source, *(edit.target for edit in still.edits)]) for still in STILLS]
    sheet = Image.new("RGB", (size * max(len(row) for _, row in scenes), size * len(scenes)))
    for y, (name, row) in enumerate(scenes):
        azimuth, elevation = (torch.tensor([math.radians(angle)]) for angle in VIEWS[name])
        camera = orbit_cameras(azimuth, elevation)[0]
        for x, spec in enumerate(row):
            image = Studio(spec, settings.threads, size / FULL_DETAIL).photograph(camera, size, Photography().samples)
            picture = Image.fromarray((image * 255).round().to(torch.uint8).numpy())
            sheet.paste(picture, (x * size, y * size))
            print(spec.prompt(), flush=True)
    sheet.save(settings.out, quality=88, optimize=True)
    print(settings.out)


if __name__ == "__main__":
    with one_sentence():
        main(tyro.cli(PlotStudio))
