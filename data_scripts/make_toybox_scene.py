"""Writes a toybox edit as two nerfstudio datasets: the scene to edit and, from the same cameras, the right answer.

python data_scripts/make_toybox_scene.py raise-arms --out outputs/raise-arms
"""

from pathlib import Path

import tyro

from pds_nerfstudio.errors import UserError, one_sentence
from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import find_edit


def main(
    edit: tyro.conf.Positional[str],
    out: Path,
    train_views: int = 40,
    test_views: int = 8,
    size: int = 64,
    num_points: int = 3000,
    seed: int = 0,
) -> None:
    """Write OUT/source, OUT/target and OUT/edit.json.

    Args:
        edit: name of the edit; an unknown one lists the known ones.
        out: folder to write to.
        train_views: views to reconstruct from.
        test_views: held-out views.
        size: height and width of the images in pixels.
        num_points: points of the sparse cloud.
        seed: of the cameras.
    """
    with one_sentence():
        try:
            found = find_edit(edit)
        except ValueError as error:
            raise UserError(str(error)) from error
        write_edit(
            found, out, train_views=train_views, test_views=test_views, size=size, num_points=num_points, seed=seed
        )
        print(f"{out}: “{found.source_prompt}” → “{found.target_prompt}”")


if __name__ == "__main__":
    tyro.cli(main)
