"""Writes held-out views of toybox edits in PIE-Bench's layout, for `pds pie-bench`.

    python data_scripts/make_toybox_pie.py --out outputs/toybox_pie
    pds pie-bench --data outputs/toybox_pie --prior toybox

The mask of an edit holds the pixels that change between the two scenes' ground truths, grown by two. The target's
ground truth lies beside, in FOLDER/truth, which PIE-Bench does not have and `pds pie-bench` does not look at.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import tyro
from jaxtyping import Bool
from torch import Tensor

from pds_nerfstudio.evaluation.pie import MAPPING, PICTURES
from pds_nerfstudio.evaluation.suite import read_suite
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.pictures import Images, save_image
from pds_nerfstudio.toybox.dataset import capture_cameras, change_mask
from pds_nerfstudio.toybox.render import render


def main(out: Path, suite: Path = Path("suites/dev.yaml"), views: int = 2, size: int = 64) -> None:
    """Write the folder.

    Args:
        out: folder to write to.
        suite: whose edits; a picture's kind is the edit's.
        views: pictures of each edit.
        size: of a picture, in pixels.
    """
    entries = []
    for edit in read_suite(suite).edits:
        cameras = capture_cameras(views, 1)
        source, target = (render(spec, cameras, size, size).image for spec in (edit.source, edit.target))
        masks = change_mask(source, target).bool()
        for i in range(views):
            name = f"{edit.name}_{i}"
            picture = source[i : i + 1].movedim(-1, 1)
            entries.append((name, edit.kind, edit.source_prompt, edit.target_prompt, picture, masks[i]))
            save_image(target[i].movedim(-1, 0), out / "truth" / f"{name}.png")
    write_pie(out, entries)
    print(f"{len(entries)} pictures in {out}")


def write_pie(folder: Path, edits: Sequence[tuple[str, str, str, str, Images, Bool[Tensor, "height width"]]]) -> None:
    """Write edits in PIE-Bench's layout: name, kind, source and target prompt, the photograph [1 3 H W], the mask."""
    entries = {}
    for name, kind, source, target, image, mask in edits:
        edges = torch.diff(mask.flatten().int(), prepend=torch.zeros(1), append=torch.zeros(1))
        first, end = (torch.nonzero(edges == sign).flatten() for sign in (1, -1))
        runs = torch.stack([first, end - first], dim=1).flatten().tolist()
        save_image(image[0], folder / PICTURES / kind / f"{name}.png")
        entries[name] = {
            "image_path": f"{kind}/{name}.png",
            "original_prompt": source,
            "editing_prompt": target,
            "editing_type_id": kind,
            "mask": runs,
        }
    write_whole(folder / MAPPING, json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
