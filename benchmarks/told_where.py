"""Additions that a box says the place of: studio's four, edited and refined once with a box around their right places.

    python benchmarks/told_where.py --out outputs/told_where --edits vase-flower mug-book

The box is what a user draws in the viewer who knows where the thing should be: around the true addition, a tenth wider
on every side. It knows the answer's place and extent, so these rows are no rivals of those that are told words alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from pds_nerfstudio.compat import apply
from pds_nerfstudio.evaluation.capture import CaptureSettings
from pds_nerfstudio.evaluation.studio_trial import Stills
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.scenes.region import Corners
from pds_nerfstudio.studio.spec import EDITS, StudioEdit, find_edit
from pds_nerfstudio.studio.things import parts_of

WIDER = 0.1
"""Of the addition's extent, on every side."""
SHOWN = ("psnr_to_target_in_change_mask_after", "background_psnr", "closer_to_target", "target_probability_after")


@dataclass
class Options:
    """What is edited, and where that goes."""

    out: Path = Path("outputs/told_where")
    edits: tuple[str, ...] = tuple(edit.name for edit in EDITS if edit.kind == "addition")
    change: str = "everywhere"
    """What may change within the box: everywhere, or relevant, as the recipe has it for additions without a box."""
    new: int = 0
    """Gaussians that are added in the box (--pipeline.new-gaussians); the recipe's are not."""
    seed: int = 0


def box_around(edit: StudioEdit, source: Path) -> Corners:
    """Around the addition of an edit's target, in the coordinates of a reconstruction of its source."""
    said = json.loads((source.parent / "dataparser_transforms.json").read_text())
    matrix = np.array(said["transform"])
    added = [part.surface.points.reshape(-1, 3) for part in parts_of(edit.target) if part.finish != "body"]
    points = said["scale"] * (np.concatenate(added) @ matrix[:, :3].T + matrix[:, 3])
    low, high = points.min(0), points.max(0)
    wider = WIDER * (high - low)
    return tuple(float(x) for x in (*(low - wider), *(high + wider)))  # pyright: ignore[reportReturnType]


def main(options: Options) -> None:
    benchmark = Stills("splatfacto", CaptureSettings())
    rows: dict[str, Any] = {}
    for edit in map(find_edit, options.edits):
        scenes = options.out / benchmark.shared(edit, options.seed)
        known = scenes / "source.txt"
        if not known.exists():
            write_whole(known, str(benchmark.prepare(edit, scenes, options.seed)))
        source = Path(known.read_text())
        box, out = {"pipeline.box": box_around(edit, source)}, options.out / edit.name
        told = box | {"pipeline.change": options.change, "pipeline.new_gaussians": options.new}
        edited = benchmark.edit("pnr-edit", told, source, edit, out, options.seed)
        compared = benchmark.compare(edit, scenes, source, edited)
        refined = benchmark.edit("sdedit-refine", box, edited, edit, out, options.seed)
        compared_refined = benchmark.compare(edit, scenes, source, refined)
        compared_refined.sheet(out / "sheet.png")
        rows[edit.name] = {"box": box["pipeline.box"], "edited": compared.numbers, "refined": compared_refined.numbers}
        write_whole(options.out / "results.json", json.dumps(rows, indent=1) + "\n")
        for name in ("edited", "refined"):
            print(edit.name, name, *(f"{key} {rows[edit.name][name][key]:.2f}" for key in SHOWN), flush=True)


if __name__ == "__main__":
    apply()
    main(tyro.cli(Options))
