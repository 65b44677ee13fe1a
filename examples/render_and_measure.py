"""An edited run from Python: its held-out views before and after, and how much of each has changed.

python examples/render_and_measure.py RUN
"""

from pathlib import Path

import tyro

from pds_nerfstudio.evaluation.before_after import load_pair, plan_pair
from pds_nerfstudio.evaluation.metrics import psnr
from pds_nerfstudio.scenes.shots import before_after_sheet, prompts_title, shoot, view_camera


def main(run: Path, /) -> None:
    pair = load_pair(plan_pair(run))
    cameras = [view_camera(pair.held_out, i, 512) for i in range(len(pair.held_out))]
    before, after = ([shoot(model, camera) for camera in cameras] for model in (pair.before, pair.after))
    for name, old, new in zip(pair.held_out.names, before, after, strict=True):
        similarity = float(psnr(old.image[None], new.image[None]))
        changed = float(((old.image - new.image).abs().amax(0) > 0.1).float().mean())
        print(f"{Path(name).name}: {similarity:.1f} dB to the source, {changed:.0%} of the pixels changed")
    before_after_sheet(before, after, Path("outputs/examples/edited.png"), prompts_title(*pair.plan.prompts))


if __name__ == "__main__":
    tyro.cli(main)
