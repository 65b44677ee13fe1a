"""Trains toybox's InstructPix2Pix (Brooks et al. 2023): the prior's U-Net, shown the picture to be edited as well.

    python data_scripts/train_toybox_instruct.py --out outputs/toybox_instruct
    python data_scripts/train_toybox_instruct.py --out outputs/toybox_instruct --install   # into the package when done

Its pairs show one scene from one camera before and after a change of colour or hat; the instruction is the caption of
the picture after. As in Brooks et al., whose pairs Prompt-to-Prompt made, none changes the layout: what the network
does about shapes it was not taught. The layers at the lowest resolution, half of all weights, stay as they are.
The weights in the package are those after 250 of the 500 steps, begun from the prior's first edition.

Resumable. At the end: how sure CLIP is of the target on views that were never shown, and a sheet.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.utils import save_image
from toybox_data import IMAGE_SIZE, SUPERSAMPLE, random_cameras
from training_loop import WEIGHTS, Run, save_atomically, train

from pds_nerfstudio.evaluation.metrics import ClipScorer, psnr, target_probability
from pds_nerfstudio.objectives.sdedit import SDEdit
from pds_nerfstudio.priors.instruct import InstructPrior, widened
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.render import palette, shade, trace
from pds_nerfstudio.toybox.spec import COLOURS, FLOORS, HATS, SHAPES, SceneSpec, ToyEdit, is_held_out

STAY = ("time_embedding.", "down_blocks.2.", "mid_block.resnets.", "up_blocks.0.")
"""Parameters that are not trained."""


@dataclass
class InstructSettings(Run):
    """Everything the training depends on."""

    out: Path = Path("outputs/toybox_instruct")
    """Latents, checkpoint, sheet and the finished weights."""
    cameras: int = 400
    """Cameras, each of which sees one shape in all its trained colours, with and without a hat."""
    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 8e-4
    checkpoint_every: int = 20


@torch.no_grad()
def scenes_of_cameras(settings: InstructSettings, prior: InstructPrior, count: int, seed: int) -> dict[str, Tensor]:
    """What each camera sees: latents [camera colour hat …], NaN for colours held out; its shape and floor."""
    generator = torch.Generator().manual_seed(seed)

    cameras = random_cameras(count, generator)
    floors = torch.randint(len(FLOORS), (count,), generator=generator)
    size, latents = IMAGE_SIZE * SUPERSAMPLE, []
    for i in track(range(count), "rendering"):
        images, kept = [], []
        for hat in HATS:
            traced = trace(SceneSpec(SHAPES[i % len(SHAPES)], hat=hat), cameras[i : i + 1], size, size)
            for colour in COLOURS:
                spec = SceneSpec(SHAPES[i % len(SHAPES)], colour, FLOORS[floors[i]], hat)
                images.append(shade(traced, palette(spec)).movedim(-1, 1))
                kept.append(not is_held_out(spec))
        small = nn.functional.avg_pool2d(torch.cat(images), SUPERSAMPLE).to(settings.device)
        encoded = prior.encode(small)
        encoded[~torch.tensor(kept)] = math.nan
        latents.append(encoded.unflatten(0, (len(HATS), len(COLOURS))).transpose(0, 1).cpu())
    return {"latents": torch.stack(latents), "floor": floors}


class Pairs:
    """Latents of pictures before and after, and the captions after; kept on disk, so that resuming renders nothing."""

    def __init__(self, settings: InstructSettings, prior: InstructPrior, name: str, cameras: int, seed: int):
        path = settings.out / f"{name}.pt"
        if not path.exists():
            save_atomically(scenes_of_cameras(settings, prior, cameras, seed), path)
        saved = torch.load(path, weights_only=True)
        self.latents, self.floors, self.device = saved["latents"], saved["floor"].tolist(), settings.device

    def draw(self, count: int) -> tuple[Tensor, Tensor, list[ToyEdit]]:
        """Before, after, what is asked. Two in five pairs add a hat or take it off, four in five change the colour."""
        before, after, edits = [], [], []
        while len(edits) < count:
            camera, old, new = (int(torch.randint(n, ())) for n in (len(self.latents), len(COLOURS), len(COLOURS)))
            old_hat = int(torch.rand(()) < 0.4)
            new_hat = 1 - old_hat if torch.rand(()) < 0.4 else old_hat
            new = old if torch.rand(()) < 0.2 else new
            pair = self.latents[camera, [old, new], [old_hat, new_hat]]
            if bool(pair.isnan().any()):
                continue
            floor, shape = FLOORS[self.floors[camera]], SHAPES[camera % len(SHAPES)]
            specs = (
                SceneSpec(shape, COLOURS[old], floor, bool(old_hat)),
                SceneSpec(shape, COLOURS[new], floor, bool(new_hat)),
            )
            before.append(pair[0])
            after.append(pair[1])
            edits.append(ToyEdit("", "appearance" if old_hat == new_hat else "addition", *specs))
        return torch.stack(before).to(self.device), torch.stack(after).to(self.device), edits


def train_instruct(settings: InstructSettings, prior: InstructPrior, pairs: Pairs) -> None:
    """The prior's own denoising loss; text, picture, or both are left out, each once in twenty (Brooks et al. 2023)."""
    unet = prior.unet.float().train()
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(not name.startswith(STAY))
    alphas = prior.schedule.alphas_cumprod.to(settings.device).float()
    weights = (5 * (1 - alphas) / alphas).clamp_max(1)

    def loss() -> Tensor:
        before, after, edits = pairs.draw(settings.batch_size)
        noise, t = torch.randn_like(after), torch.randint(len(alphas), (len(after),), device=after.device)
        floors, left_out = torch.rand(len(edits)).tolist(), torch.rand(len(edits)).tolist()
        texts = torch.stack(
            [
                prior.embed("" if out < 0.1 else edit.target.prompt(floor=floor < 0.5))
                for edit, floor, out in zip(edits, floors, left_out, strict=True)
            ]
        )
        shown = torch.tensor([not 0.05 <= out < 0.15 for out in left_out]).to(after)[:, None, None, None]
        x_t = prior.schedule.add_noise(after, t, noise)
        with torch.autocast(settings.device, torch.bfloat16):
            output = unet(torch.cat([x_t, shown * prior.as_condition(before)], dim=1), t, texts).sample
        return (weights[t] * (output.float() - noise).square().mean((1, 2, 3))).mean()

    train("instruct", settings, unet, loss, settings.steps, settings.learning_rate)
    unet.requires_grad_(False).eval()


@torch.no_grad()
def report(settings: InstructSettings, prior: InstructPrior, pairs: Pairs) -> None:
    """Edits of views that were never shown, from pure noise, by IN2N's guidance."""
    torch.manual_seed(0)
    before, after, edits = pairs.draw(16)
    scorer, edited = ClipScorer.load(), []
    for i in track(range(len(edits)), "editing"):
        editor = SDEdit(guidance_scale=7.5, strength=1.0)
        noise = torch.randn_like(before[:1])
        conditioned = prior.shown(before[i : i + 1], image_guidance=1.5)
        edited.append(editor.edit(conditioned, before[i : i + 1], edits[i].target_prompt, noise))
    pictures = [prior.decode(latents).cpu() for latents in (before, torch.cat(edited), after)]
    for kind in ("appearance", "addition"):
        chosen = [i for i, edit in enumerate(edits) if edit.kind == kind and edit.source != edit.target]
        sure = [
            target_probability(
                scorer,
                pictures[1][i : i + 1],
                edits[i].target_prompt,
                [s.prompt(floor=False) for s in edits[i].alternatives()],
            )
            for i in chosen
        ]
        was, now = (float(psnr(part[chosen], pictures[2][chosen]).mean()) for part in pictures[:2])
        print(f"{kind}, {len(chosen)} views: target probability {sum(sure) / len(sure):.3f}, {was:.1f} -> {now:.1f} dB")
    save_image(torch.cat([part[:16] for part in pictures]), settings.out / "samples.png", nrow=16)


def main(settings: InstructSettings) -> None:
    torch.manual_seed(settings.seed)
    prior = widened(load_prior("toybox", settings.device, torch.float32, purpose="editing"))
    train_instruct(settings, prior, Pairs(settings, prior, "views", settings.cameras, settings.seed))
    own = {name: value.half().contiguous().cpu() for name, value in prior.unet.state_dict().items()}
    path = settings.out / "instruct" / "unet.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(own, path, metadata={"format": "pt"})
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    if settings.install:
        shutil.copytree(settings.out / "instruct", WEIGHTS / "instruct", dirs_exist_ok=True)
        print(f"installed {WEIGHTS / 'instruct'}")
    report(settings, prior, Pairs(settings, prior, "test_views", 20, settings.seed + 1))


if __name__ == "__main__":
    main(tyro.cli(InstructSettings, description=__doc__))
