"""`ns-train pds-edit-splat` from Python: a run's splats, edited without a command line.

python examples/edit_splats.py RUN "a photo of a red can" "a photo of a blue can"
"""

import copy
from pathlib import Path
from typing import Any

import tyro
from nerfstudio.scripts import train

from pds_nerfstudio.methods import METHODS


def main(run: Path, src_prompt: str, tgt_prompt: str, /, prior: str = "toybox", steps: int = 500) -> None:
    config: Any = copy.deepcopy(METHODS["pds-edit-splat"].config)
    config.load_dir, config.max_num_iterations, config.vis = run, steps, "tensorboard"
    config.pipeline.src_prompt, config.pipeline.tgt_prompt = src_prompt, tgt_prompt
    config.pipeline.prior = prior
    train.main(config)
    print(config.get_base_dir())  # its folder: config.yml, checkpoint, before_after.png, history


if __name__ == "__main__":
    tyro.cli(main)
