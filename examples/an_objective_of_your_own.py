"""An objective of your own: DDS with a pull back to the source. CONTRIBUTING.md says how it comes to edit scenes.

python examples/an_objective_of_your_own.py photo.png "a photo of a red can" "a photo of a red cone"
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from pds_nerfstudio.objectives import Edit, Latents, Prior, ScoreDistillation
from pds_nerfstudio.objectives.base import predict_pair
from pds_nerfstudio.pictures import contact_sheet, read_photograph
from pds_nerfstudio.pipelines.image_edit import edit_latents
from pds_nerfstudio.priors.load import load_prior


@dataclass(frozen=True)
class Tethered(ScoreDistillation):
    pull: float = 0.05

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        target, source = predict_pair(prior, edit, self.guidance_scale)
        return target - source + self.pull * (edit.x0_tgt - edit.x0_src)


def main(photograph: Path, src_prompt: str, tgt_prompt: str, /, steps: int = 200) -> None:
    prior = load_prior("toybox", "cpu")
    picture = read_photograph(photograph, 64, prior.latent_stride)
    x0, rows = prior.encode(picture).detach(), {"photograph": picture}
    for editor in (Tethered(15.0, pull=pull) for pull in (0.0, 0.05, 0.5)):
        rows[f"pull {editor.pull:g}"] = prior.decode(edit_latents(prior, editor, x0, src_prompt, tgt_prompt, steps))
    print(sheet := Path("outputs/examples/own_objective.png"))
    contact_sheet(rows, sheet, f"{src_prompt}   to   {tgt_prompt}")


if __name__ == "__main__":
    tyro.cli(main)
