"""Score distillation by hand: the latent of a picture descends PDS's gradient until it shows what the prompt says.

python examples/edit_a_latent.py
"""

from pathlib import Path

import torch
import tyro

from pds_nerfstudio.objectives import PDS, Edit, surrogate_loss
from pds_nerfstudio.pictures import contact_sheet
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.render import orbit_cameras, render
from pds_nerfstudio.toybox.spec import SceneSpec


def main(steps: int = 200) -> None:
    prior = load_prior("toybox", "cpu")  # or a diffusers folder, or a hub id
    objective, generator = PDS(guidance_scale=15.0), torch.Generator().manual_seed(0)
    camera = orbit_cameras(torch.tensor([0.6]), torch.tensor([0.4]))
    picture = render(SceneSpec("ball", "red"), camera, 64, 64).image.movedim(-1, 1)
    x0_src = prior.encode(picture).detach()
    x0_tgt = x0_src.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([x0_tgt], lr=10 / steps)

    for _ in range(steps):
        t, s = objective.sample_timesteps(prior.schedule, 1, generator)
        eps, eps_s = (torch.randn(x0_src.shape, generator=generator) for _ in range(2))
        prompts = "a photo of a red ball", "a photo of a blue ball"
        edit = Edit(x0_tgt.detach(), x0_src, *prompts, t, s, eps, eps_s)
        surrogate_loss(x0_tgt, objective.gradient(prior, edit)).backward()
        optimizer.step()
        optimizer.zero_grad()
    print(sheet := Path("outputs/examples/latent.png"))
    contact_sheet({"before": picture, "after": prior.decode(x0_tgt.detach())}, sheet, "a red ball   to   a blue ball")


if __name__ == "__main__":
    tyro.cli(main)
