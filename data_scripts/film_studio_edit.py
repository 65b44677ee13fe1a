"""Film one turn around an edit of a studio capture: before, after, and as it should be, side by side.

pds bench --suite suites/studio.yaml --edits bottle-hat --methods pnr-edit+sdedit-refine
python data_scripts/film_studio_edit.py --bench outputs/bench/studio/splatfacto --edit bottle-hat --out turn.mp4

The film of docs/studio.md: --out docs/figures/studio_turn.webp --frames 60 --size 320 --fps 12

Needs the extra [studio]: the right answer is rendered for every frame, and kept beside the film until it is whole.
"""

import json
import shutil
from pathlib import Path

import torch
import tyro
from draw_studio_edits import runs_of
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.pictures import read_images, save_image, side_by_side, video
from pds_nerfstudio.scenes.paths import camera_path
from pds_nerfstudio.scenes.shots import shoot
from pds_nerfstudio.scenes.views import train_views
from pds_nerfstudio.studio.render import FULL_DETAIL, Studio
from pds_nerfstudio.studio.spec import find_edit


def poses_of_photographs(
    poses: Float[Tensor, "frames 3 4"], transforms: dict[str, list]
) -> Float[Tensor, "frames 3 4"]:
    """Cameras of a nerfstudio run where its photographs were taken, before its dataparser moved them.

    Args:
        transforms: the run's dataparser_transforms.json.
    """
    moved = torch.tensor(transforms["transform"])
    turn, shift = moved[:, :3], moved[:, 3]
    places = (poses[:, :, 3] / float(transforms["scale"]) - shift) @ turn  # the turn's inverse, from the right
    return torch.cat([turn.T @ poses[:, :, :3], places[..., None]], dim=-1)


def main(
    bench: Path,
    edit: str,
    out: Path,
    method: str = "pnr-edit+sdedit-refine",
    seed: int = 0,
    frames: int = 80,
    size: int = 384,
    samples: int = 24,
    threads: int = 0,
    fps: int = 16,
) -> None:
    """Film.

    Args:
        bench: the folder of the suite and family, as `pds bench` leaves it.
        edit: which.
        out: an MP4, or an animated WebP by its ending.
        method: by which it was made.
        seed: of the cell.
        frames: of the turn.
        size: of each side in pixels.
        samples: paths a pixel of the right answer.
        threads: of Mitsuba; 0 for as many as there are cores.
        fps: frames a second.
    """
    wanted = find_edit(edit)
    source, edited = runs_of(wanted, bench, method, seed)
    before, after = load_run(source), load_run(edited)
    cameras = camera_path(train_views(before.datamanager), "orbit", frames, size, size)
    transforms = json.loads((source.parent / "dataparser_transforms.json").read_text())
    poses = poses_of_photographs(cameras.camera_to_worlds, transforms)
    labels = wanted.source_prompt, wanted.target_prompt, "a photograph of what it should be"
    answers = out.with_name(f"{out.stem}_{size}")
    studio: Studio | None = None
    with video(out, fps) as add:
        for i in track(range(frames), "filming"):
            answer = answers / f"{i:03d}.png"
            if not answer.exists():
                studio = studio or Studio(wanted.target, threads, size / FULL_DETAIL)
                save_image(studio.photograph(poses[i], size, samples, seed=i).movedim(-1, 0), answer)
            pair = [shoot(run.model, cameras[i : i + 1]).image for run in (before, after)]
            add(side_by_side([*pair, read_images([answer])[0]], labels))
    shutil.rmtree(answers)
    print(out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
