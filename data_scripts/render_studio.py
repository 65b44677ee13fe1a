"""Renders the captures that come with the package: five still lifes, 50 photographs each, and three edits' answers.

    python data_scripts/render_studio.py                  # or: make studio; what was rendered before is kept
    python data_scripts/render_studio.py --install        # packs what is complete into the package

Needs the extra [studio]. The renderings stay in outputs/studio, as PNG with exact depth; the package has JPEGs.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from pds_nerfstudio.errors import one_sentence
from pds_nerfstudio.studio.captures import PACKAGED, is_complete, pack
from pds_nerfstudio.studio.dataset import write_still
from pds_nerfstudio.studio.photography import Photography
from pds_nerfstudio.studio.spec import STILLS

QUALITY = 88
"""Of the JPEGs: five captures are then below 9 MB."""


@dataclass
class RenderStudio:
    """Render the packaged captures."""

    out: Path = Path("outputs/studio/captures")
    """Where the renderings are kept."""
    only: str = ""
    """Name of the one capture to render; all if empty."""
    samples: int = 24
    """Paths a pixel."""
    threads: int = 0
    """Of Mitsuba; 0 for as many as there are cores."""
    install: bool = False
    """Pack the complete renderings into the package; nothing is rendered."""


def main(settings: RenderStudio) -> None:
    how = Photography(samples=settings.samples)
    for still in STILLS:
        if settings.only not in ("", still.name):
            continue
        folder = settings.out / still.name
        if not settings.install:
            write_still(still, folder, how, lambda line: print(line, flush=True), settings.threads)
        elif is_complete(still, folder):
            size = pack(still, folder, PACKAGED / still.name, QUALITY)
            print(f"{PACKAGED / still.name}: {size / 2**20:.2f} MB")
        else:
            print(f"{folder} is not complete and was left out.")


if __name__ == "__main__":
    with one_sentence():
        main(tyro.cli(RenderStudio))
