"""Trains the toybox prior's second edition: one U-Net for single views, views with a camera, and four views at once.

    python data_scripts/toybox_views.py --folder outputs/toybox_views                          # data first
    python data_scripts/train_toybox_views.py --folder outputs/toybox_views                    # stop at any time
    python data_scripts/train_toybox_views.py --folder outputs/toybox_views --finish 1500      # then: rate to zero;
                                                               --install puts the result into the package
    python data_scripts/train_toybox_views.py --folder outputs/toybox_views --flow             # toybox's flow prior

It begins as the packaged U-Net. Where that takes no cameras yet (the first edition, train_toybox_prior.py), the last
layer of the camera's embedding starts at zero. Biases stay there, so that sixteen zeros, "no camera", add nothing.
Text encoder and VAE stay as they are. A batch is a quarter single views without a camera, a quarter single views with
one, and half groups of four (joint training of MVDream, Shi et al. 2023, section 3.1). The learning rate is constant
after a warm-up, and what is written out is an average of the weights, so the training can be stopped anywhere;
`--finish` continues a copy of it with a rate that falls to zero. A checkpoint every few minutes; the same command
resumes.

Every `valid_every` steps a line of `curve.csv`: loss on scenes of their own, of the averaged weights.

With `--flow` the same U-Net learns a rectified flow (Liu et al. 2023) on the same latents, beginning as the packaged
prior, whose noise it predicts, or with `--start toybox-flow` as the packaged flow: x_σ = (1 − σ) x⁰ + σ ε, v = ε − x⁰,
σ uniform, told as 1000 σ.
"""

import csv
import json
import math
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from toybox_networks import make_flow_scheduler
from toybox_views import ViewData
from training_loop import WEIGHTS, save_atomically
from view_groups import VIEWS

from pds_nerfstudio.objectives.cameras import CAMERA_NUMBERS
from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.folder import CAMERA_SETTINGS
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.priors.view_attention import Groups, ViewAttention
from pds_nerfstudio.toybox.spec import SceneSpec, all_specs

WARM_UP = 200
CURVE = ("step", "minutes", "seconds_per_step", "shards", "kind", "t_0_250", "t_250_500", "t_500_750", "t_750_1000")


@dataclass
class Settings:
    """Everything the training depends on."""

    folder: Path = Path("outputs/toybox_views")
    """Data, checkpoints, curve and the finished U-Net."""
    steps: int = 1_000_000
    """Where to stop, counted from the start of the training; by default nowhere."""
    finish: int = 0
    """Continue a copy of the training for that many steps with a learning rate that falls to zero."""
    singles: int = 16
    """Single views without a camera in a batch, and as many with one."""
    groups: int = 8
    """Groups of four views in a batch."""
    learning_rate: float = 6e-4
    ema_decay: float = 0.9995
    checkpoint_every: int = 150
    valid_every: int = 300
    seed: int = 0
    install: bool = False
    """With `finish`: copy what comes of it into the package."""
    flow: bool = False
    """Train the flow prior, under `folder`/flow, in place of the second edition."""
    start: Literal["toybox", "toybox-flow"] = "toybox"
    """The packaged prior whose U-Net the training begins as."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


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


def make_unet(prior: StableDiffusionPrior) -> UNet2DConditionModel:
    """The prior's U-Net with attention across views, and its camera embedding or one that adds nothing yet."""
    config = dict(prior.unet.config) | {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": CAMERA_NUMBERS,
    }
    unet = UNet2DConditionModel.from_config(config)
    missing, unexpected = unet.load_state_dict(prior.unet.state_dict(), strict=False)
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
    return unet.to(prior.device).train()


class Sampler:
    """Draws batches from the data; knows the texts of all captions."""

    def __init__(self, prior: StableDiffusionPrior, data: ViewData) -> None:
        self.prior, self.data, self.every = prior, data, list(all_specs())

    def caption(self, spec: SceneSpec) -> str:
        """One in ten empty, one in eight without the colour, every other without the floor."""
        empty, colour, floor = torch.rand(3).tolist()
        return "" if empty < 0.1 else spec.prompt(colour=colour > 0.125, floor=floor > 0.5)

    def text(self, groups: Tensor) -> Tensor:
        captions = (self.caption(self.every[i]) for i in self.data.specs[groups].tolist())
        return torch.stack([self.prior.embed(caption) for caption in captions]).float().cpu()

    def draw(self, singles: int, groups: int) -> Batch:
        """`singles` views without a camera, as many with one, and `groups` of four views that share t and caption."""
        alone, joint = (torch.randint(len(self.data.specs), (n,)) for n in (2 * singles, groups))
        view = torch.randint(VIEWS, (2 * singles,))
        repeats = torch.tensor([1] * (2 * singles) + [VIEWS] * groups)
        cameras = self.data.cameras[alone, view].flatten(1)
        cameras[:singles] = 0
        x0 = torch.cat([self.data.latents[alone, view], self.data.latents[joint].flatten(0, 1)]).float()
        rows = Batch(
            x0,
            torch.cat([torch.randint(1000, (2 * singles,)), torch.randint(1000, (groups,)).repeat_interleave(VIEWS)]),
            torch.randn_like(x0),
            torch.cat([cameras, self.data.cameras[joint].flatten(2).flatten(0, 1)]),
            self.text(torch.cat([alone, joint])).repeat_interleave(repeats, 0),
            ((2 * singles, 1), (groups, VIEWS)),
        )
        device = self.prior.device
        return Batch(*(getattr(rows, n).to(device) for n in ("x0", "t", "noise", "cameras", "texts")), rows.groups)


@torch.no_grad()
def validate(unet: UNet2DConditionModel, sampler: Sampler, process: Process, seed: int = 1) -> dict[str, list[float]]:
    """Mean squared error by quarter of the timesteps, of the same noisy views asked for in three ways."""
    groups = 64
    results: dict[str, list[float]] = {}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
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


def write_prior(unet: UNet2DConditionModel, folder: Path, is_flow: bool = False) -> None:
    """The toybox prior with this U-Net, in half precision: a stock U-Net, and the camera's embedding beside it.

    An ordinary pipeline that diffusers loads, which without cameras predicts what the U-Net does at sixteen zeros.
    """
    others = ("unet", "recipe.json") if is_flow else ("unet",)  # a flow has a recipe of its own, in the package
    shutil.copytree(TOYBOX, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*others))
    weights = {name: value.detach().cpu().half().contiguous() for name, value in unet.state_dict().items()}
    prefix = "class_embedding."
    embedding = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    stock = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    config = {"in_channels": CAMERA_NUMBERS, "camera_embed_dim": unet.time_embedding.linear_2.out_features}
    for part, tensors in (("unet", stock), ("camera_proj", embedding)):
        (folder / part).mkdir(exist_ok=True)
        save_file(tensors, folder / part / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    shutil.copy(TOYBOX / "unet" / "config.json", folder / "unet")
    (folder / "camera_proj" / "config.json").write_text(json.dumps(config) + "\n")
    (folder / CAMERA_SETTINGS).write_text('{"framing": true}\n')
    if is_flow:
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        make_flow_scheduler().save_pretrained(folder / "scheduler")


class Training:
    """U-Net, optimiser and average of the weights, with their checkpoint."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.prior = load_prior(settings.start, settings.device)
        alphas = self.prior.schedule.alphas_cumprod.float().to(settings.device)
        self.process = Process.flow(settings.device) if settings.flow else Process.diffusion(alphas)
        self.folder = settings.folder / "flow" if settings.flow else settings.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.unet = make_unet(self.prior)
        self.parameters = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, weight_decay=1e-2, betas=(0.9, 0.99)
        )
        self.ema = EMAModel(self.parameters, decay=settings.ema_decay, use_ema_warmup=True, power=0.75)
        self.step, self.minutes, self.finish_from = 0, 0.0, -1
        self.resume()

    @property
    def path(self) -> Path:
        return self.folder / ("finish.pt" if self.settings.finish else "training.pt")

    def resume(self) -> None:
        """From its checkpoint; a finish that has none begins at the training's."""
        path = self.path if self.path.exists() else self.folder / "training.pt"
        if path.exists():
            saved = torch.load(path, self.settings.device, weights_only=True)
            self.unet.load_state_dict(saved["unet"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.ema.load_state_dict(saved["ema"])
            self.step, self.minutes, self.finish_from = saved["step"], saved["minutes"], saved["finish_from"]
        if self.settings.finish and self.finish_from < 0:
            self.finish_from = self.step

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "unet": self.unet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
            "finish_from": self.finish_from,
        }
        save_atomically(state, self.path)

    def rate(self) -> float:
        settings = self.settings
        if settings.finish:
            return settings.learning_rate * max(0.0, 1 - (self.step - self.finish_from) / settings.finish)
        return settings.learning_rate * min(1.0, (self.step + 1) / WARM_UP)

    @property
    def last(self) -> int:
        return self.finish_from + self.settings.finish if self.settings.finish else self.settings.steps

    def run(self) -> None:
        """To the last step, with a checkpoint and a line of the curve now and then."""
        settings = self.settings
        data = ViewData.load(settings.folder)
        sampler = Sampler(self.prior, data)
        valid = Sampler(self.prior, ViewData.load(settings.folder, "valid.pt"))
        torch.manual_seed(settings.seed + self.step)
        if self.step == 0:
            self.note(valid, data.shards, 0.0)
        mark, since, running = time.monotonic(), self.step, math.nan
        while self.step < self.last:
            batch = sampler.draw(settings.singles, settings.groups)
            loss = (self.process.weights[batch.t] * batch.errors(self.unet, self.process)).mean()
            self.optimizer.zero_grad()
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.ema.step(self.parameters)
            self.step += 1
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(f"The loss is {value} at step {self.step}; lower the learning rate.")
            running = value if math.isnan(running) else 0.99 * running + 0.01 * value
            if self.step % settings.checkpoint_every and self.step != self.last:
                continue
            seconds = (time.monotonic() - mark) / (self.step - since)
            self.minutes += (time.monotonic() - mark) / 60
            self.save()
            print(f"step {self.step}: loss {running:.4f}, {seconds:.2f} s a step, {self.minutes:.0f} min", flush=True)
            if self.step % settings.valid_every == 0 or self.step == self.last:
                sampler.data = data = ViewData.load(settings.folder)  # there may be more by now
                self.note(valid, data.shards, seconds)
            mark, since = time.monotonic(), self.step
        if settings.finish and settings.install:
            self.install()

    def install(self) -> None:
        """Copy what is finished into the package."""
        finished = self.folder / "finished"
        if self.settings.flow:
            place = shutil.copytree(finished, WEIGHTS / "flow", dirs_exist_ok=True)
        else:
            for part in ("unet", "camera_proj"):
                shutil.copytree(finished / part, TOYBOX / part, dirs_exist_ok=True)
            place = shutil.copy(finished / CAMERA_SETTINGS, TOYBOX).parent
        print(f"installed {place}")

    def note(self, valid: Sampler, shards: int, seconds: float) -> None:
        """The averaged weights: measured, a line of the curve for each kind of query, and written out."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        curve = self.folder / "curve.csv"
        is_new = not curve.exists()
        with curve.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(CURVE)
            for kind, errors in validate(self.unet.eval(), valid, self.process).items():
                numbers = [f"{error:.5f}" for error in errors]
                writer.writerow([self.step, f"{self.minutes:.1f}", f"{seconds:.2f}", shards, kind, *numbers])
        write_prior(self.unet, self.folder / ("finished" if self.settings.finish else "prior"), self.settings.flow)
        self.ema.restore(self.parameters)
        self.unet.train()


def main(settings: Settings) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    Training(settings).run()


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
