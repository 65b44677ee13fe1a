"""One photograph, three ways: PDS, DDS and SDEdit beside each other.

python examples/edit_a_photograph.py photo.png "a photo of a red can" "a photo of a red cone"
"""

from pathlib import Path

import torch
import tyro

from pds_nerfstudio.objectives import DDS, PDS
from pds_nerfstudio.objectives.sdedit import SDEdit
from pds_nerfstudio.pictures import contact_sheet, read_photograph
from pds_nerfstudio.pipelines.image_edit import edit_latents
from pds_nerfstudio.priors.load import load_prior


def main(photograph: Path, src_prompt: str, tgt_prompt: str, /, prior: str = "toybox", steps: int = 200) -> None:
    model = load_prior(prior, "cuda" if torch.cuda.is_available() else "cpu")
    short_side = model.trained_size
    picture = read_photograph(photograph, short_side, model.size_multiple)
    with torch.no_grad():
        x0 = model.encode(picture.to(model.device))
    rows = {"photograph": picture}
    for editor in (PDS(15.0), DDS(15.0), SDEdit(guidance_scale=7.5)):
        edited = edit_latents(model, editor, x0, src_prompt, tgt_prompt, steps)
        rows[type(editor).__name__] = model.decode(edited).cpu()
    print(sheet := Path("outputs/examples/photograph.png"))
    contact_sheet(rows, sheet, f"{src_prompt}   to   {tgt_prompt}")


if __name__ == "__main__":
    tyro.cli(main)
