"""What it takes to train a U-Net on single views, views with a camera, and four views at once.

A batch is a quarter single views without a camera, a quarter single views with one, and half groups of four (joint
training of MVDream, Shi et al. 2023, section 3.1). Biases of the camera's embedding stay zero, so that sixteen zeros,
"no camera", add nothing.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from long_training import LongTraining
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from view_groups import VIEWS

from pds_nerfstudio.draws import own_draws
from pds_nerfstudio.objectives.cameras import CAMERA_NUMBERS
from pds_nerfstudio.priors.folder import CAMERA_SETTINGS
from pds_nerfstudio.priors.view_attention import Groups, ViewAttention

VALID_GROUPS = 64
"""Drawn from the scenes held out; a multiple of 16."""
CURVE = ("step", "minutes", "seconds_per_step", "shards", "kind", "t_0_250", "t_250_500", "t_500_750", "t_750_1000")


@dataclass
class ViewData:
    """Groups of four latents [groups 4 C h w], their cameras [groups 4 4 4] and the numbers of their scenes."""

    latents: Tensor
    cameras: Tensor
    specs: Tensor
    shards: int


@dataclass(frozen=True)
class Process:
    """What noises the latents and what the U-Net predicts of it: tables over t in [0, 1000)."""

    signal: Tensor
    noise: Tensor
    weights: Tensor
    """Of the squared error."""
    is_flow: bool

    @classmethod
    def diffusion(cls, alphas: Tensor) -> "Process":
        """Noise under ᾱ, with SNR weights capped at 5 (Hang et al. 2023), as in the first edition."""
        return cls(alphas.sqrt(), (1 - alphas).sqrt(), (5 * (1 - alphas) / alphas).clamp_max(1), False)

    @classmethod
    def flow(cls, device: str) -> "Process":
        """Velocity along straight lines, σ = (t + 1)/1000."""
        sigmas = (torch.arange(1000, device=device) + 1) / 1000
        return cls(1 - sigmas, sigmas, torch.ones_like(sigmas), True)

    def noisy(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t, or x_σ."""
        return self.signal[t][:, None, None, None] * x0 + self.noise[t][:, None, None, None] * noise

    def times(self, t: Tensor) -> Tensor:
        """What the U-Net is told: t, or 1000 σ."""
        return t + 1 if self.is_flow else t

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        """ε, or v."""
        return noise - x0 if self.is_flow else noise


@dataclass
class Batch:
    """Rows of a U-Net batch: first the single views, then the groups' views."""

    x0: Tensor
    t: Tensor
    noise: Tensor
    cameras: Tensor
    texts: Tensor
    groups: Groups

    def predict(self, unet: UNet2DConditionModel, process: Process) -> Tensor:
        """What the U-Net sees in it: noise, or velocity."""
        kind = self.x0.device.type
        attention = sdpa_kernel(SDPBackend.MATH) if kind == "cpu" else nullcontext()  # there the fastest
        with torch.autocast(kind, torch.bfloat16), attention:
            output = unet(
                process.noisy(self.x0, self.t, self.noise),
                process.times(self.t),
                self.texts,
                class_labels=self.cameras,
                cross_attention_kwargs={"groups": self.groups},
            ).sample
        return output.float()

    def errors(self, unet: UNet2DConditionModel, process: Process) -> Tensor:
        """Mean squared error of every row."""
        return (self.predict(unet, process) - process.target(self.x0, self.noise)).square().mean((1, 2, 3))


def config_of(unet: UNet2DConditionModel, **changes: object) -> dict[str, object]:
    """A U-Net's configuration with changes, without diffusers' note of what was a default, which would undo them."""
    return {name: value for name, value in unet.config.items() if not name.startswith("_")} | changes


def with_cameras(plain: UNet2DConditionModel) -> UNet2DConditionModel:
    """A U-Net with attention across views, and its camera embedding or one that adds nothing yet."""
    unet = UNet2DConditionModel.from_config(
        config_of(plain, class_embed_type="projection", projection_class_embeddings_input_dim=CAMERA_NUMBERS)
    )
    missing, unexpected = unet.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("class_embedding.") for name in missing)
    first, last = unet.class_embedding.linear_1, unet.class_embedding.linear_2
    with torch.no_grad():
        if missing:
            # u, v and s are a tenth of the other numbers; they matter as much.
            first.weight[:, 12:15] *= 10
            last.weight.zero_()
        # Without biases, no camera (zeros) adds nothing at all; every camera has a 1 that serves as one.
        for layer in (first, last):
            layer.bias.zero_().requires_grad_(False)
    unet.set_attn_processor(ViewAttention())
    return unet.train()


class Sampler:
    """Draws batches from the data.

    Args:
        caption: a caption, drawn by chance, of the scene of that number.
        embed: what the U-Net is told of captions [captions tokens width].
    """

    def __init__(
        self,
        data: ViewData,
        caption: Callable[[int], str],
        embed: Callable[[list[str]], Tensor],
        device: torch.device | str,
    ) -> None:
        self.data, self.caption, self.embed, self.device = data, caption, embed, device

    def text(self, groups: Tensor) -> Tensor:
        return self.embed([self.caption(number) for number in self.data.specs[groups].tolist()])

    def draw(self, singles: int, groups: int) -> Batch:
        """`singles` views without a camera, as many with one, and `groups` of four views that share t and caption."""
        alone, joint = (torch.randint(len(self.data.specs), (n,)) for n in (2 * singles, groups))
        view = torch.randint(VIEWS, (2 * singles,))
        repeats = torch.tensor([1] * (2 * singles) + [VIEWS] * groups)
        cameras = self.data.cameras[alone, view].flatten(1)
        cameras[:singles] = 0
        x0 = torch.cat([self.data.latents[alone, view], self.data.latents[joint].flatten(0, 1)]).float()
        rows = (
            x0,
            torch.cat([torch.randint(1000, (2 * singles,)), torch.randint(1000, (groups,)).repeat_interleave(VIEWS)]),
            torch.randn_like(x0),
            torch.cat([cameras, self.data.cameras[joint].flatten(2).flatten(0, 1)]),
        )
        texts = self.text(torch.cat([alone, joint])).to(self.device)
        return Batch(
            *(row.to(self.device) for row in rows),
            texts.repeat_interleave(repeats.to(texts.device), 0, output_size=len(x0)),
            ((2 * singles, 1), (groups, VIEWS)),
        )


@torch.no_grad()
def validate(unet: UNet2DConditionModel, sampler: Sampler, process: Process, seed: int = 1) -> dict[str, list[float]]:
    """Mean squared error by quarter of the timesteps, of the same noisy views asked for in three ways."""
    groups = VALID_GROUPS
    results: dict[str, list[float]] = {}
    with own_draws(torch.device(sampler.device), seed):
        batch = sampler.draw(0, groups)
        quarter = torch.arange(groups) % 4
        batch.t = (250 * quarter + torch.randint(250, (groups,))).repeat_interleave(VIEWS).to(batch.t.device)
    rows = torch.arange(groups * VIEWS).split(64)
    for kind in ("alone", "camera", "four"):
        parts = []
        for some in rows:
            cameras = torch.zeros_like(batch.cameras) if kind == "alone" else batch.cameras
            runs = ((16, VIEWS),) if kind == "four" else ((64, 1),)
            part = Batch(batch.x0[some], batch.t[some], batch.noise[some], cameras[some], batch.texts[some], runs)
            parts.append(part.errors(unet, process))
        by_row = torch.cat(parts).cpu()
        results[kind] = [float(by_row[quarter.repeat_interleave(VIEWS) == q].mean()) for q in range(4)]
    return results


def write_unet(unet: UNet2DConditionModel, folder: Path) -> None:
    """A stock U-Net and the camera's embedding beside it, in half precision, as parts of a diffusers folder.

    diffusers loads it as an ordinary pipeline, which without cameras predicts what the U-Net does at sixteen zeros.
    """
    weights = {name: value.detach().cpu().half().contiguous() for name, value in unet.state_dict().items()}
    prefix = "class_embedding."
    embedding = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    stock = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    config = {"in_channels": CAMERA_NUMBERS, "camera_embed_dim": unet.time_embedding.linear_2.out_features}
    for part, tensors in (("unet", stock), ("camera_proj", embedding)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / part / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    without_cameras = config_of(unet, class_embed_type=None, projection_class_embeddings_input_dim=None)
    UNet2DConditionModel.from_config(without_cameras).save_config(folder / "unet")
    (folder / "camera_proj" / "config.json").write_text(json.dumps(config) + "\n")
    (folder / CAMERA_SETTINGS).write_text('{"framing": true}\n')


def note_errors(training: LongTraining, seconds: float, shards: int, errors: dict[str, list[float]]) -> None:
    """A line of the curve for each kind of query."""
    rows = [
        [training.step, f"{training.minutes:.1f}", f"{seconds:.2f}", shards, kind, *(f"{e:.5f}" for e in by_quarter)]
        for kind, by_quarter in errors.items()
    ]
    training.add_to_curve(CURVE, rows)
