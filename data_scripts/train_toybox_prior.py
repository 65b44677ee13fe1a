"""Trains the toybox prior and the toybox CLIP from scratch, on procedural scenes alone.

    python data_scripts/train_toybox_prior.py --out outputs/toybox_prior
    python data_scripts/train_toybox_prior.py --out outputs/toybox_prior --install   # into the package when done

In turn, each resumable from its last checkpoint: a bank of traced geometry, the VAE, the CLIP, the U-Net with its text
encoder; then the diffusers and transformers folders and a sample sheet. One to two hours on two CPU cores, minutes on a
GPU. The colour and shape pairs of `toybox.spec.is_held_out` are never shown to the U-Net.
"""

import math
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn, track
from torch import Tensor, nn
from torchvision.utils import save_image
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pds_nerfstudio.toybox.geometry import Material
from pds_nerfstudio.toybox.render import LOOK_AT, ORBIT_RADIUS, TracedViews, orbit_cameras, palette, shade, trace
from pds_nerfstudio.toybox.spec import (
    COLOURS,
    FLOORS,
    HATS,
    SHAPES,
    SceneSpec,
    Shape,
    all_specs,
    held_out_captions,
    is_held_out,
)
from pds_nerfstudio.toybox.tokenizer import MAX_TOKENS, build_tokenizer

IMAGE_SIZE = 64
SUPERSAMPLE = 2
Stage = Literal["clip", "unet"]
WEIGHTS = Path(__file__).parent.parent / "pds_nerfstudio" / "toybox" / "weights"


@dataclass
class Settings:
    """Everything the training depends on."""

    out: Path = Path("outputs/toybox_prior")
    """Checkpoints, sheets and the finished folders."""
    stages: tuple[Stage, ...] = ("clip", "unet")
    """What to train once the geometry is traced and the VAE trained."""
    vae_steps: int = 2400
    clip_steps: int = 900
    unet_steps: int = 2750
    batch_size: int = 64
    unet_channels: tuple[int, ...] = (64, 96, 128)
    text_width: int = 96
    num_latents: int = 24_000
    """Coloured images whose latents the U-Net is trained on."""
    checkpoint_every: int = 250
    seed: int = 0
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    install: bool = False
    """Copy the finished folders into the package."""


# ---- data: traced geometry, coloured on the fly -------------------------------------------------------------------


@dataclass(frozen=True)
class Bank:
    """Traced views as bytes; `shape` and `hat` say of what."""

    material: Tensor
    diffuse: Tensor
    highlight: Tensor
    shape: Tensor
    hat: Tensor

    def to(self, device: str) -> "Bank":
        return Bank(*(getattr(self, name).to(device) for name in ("material", "diffuse", "highlight", "shape", "hat")))


def views_of(shape: str) -> int:
    """More views for objects that look different from every side."""
    return 320 if shape.startswith("man") else 200 if shape in ("cube", "ring") else 120


def random_cameras(count: int, generator: torch.Generator) -> Tensor:
    """Cameras [count 3 4] on an orbit, at 12 to 50 degrees, that look somewhere about the object's middle."""

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=generator)

    return orbit_cameras(
        uniform(0, 2 * math.pi, count),
        uniform(math.radians(12), math.radians(50), count),
        ORBIT_RADIUS * uniform(0.9, 1.1, count),
        torch.tensor(LOOK_AT) + uniform(-0.07, 0.07, count, 3),
    )


def trace_random_views(shape: Shape, hat: bool, count: int, seed: int) -> dict[str, Tensor]:
    """Views from random orbit cameras, as bytes."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)

    cameras = random_cameras(count, generator)
    size = IMAGE_SIZE * SUPERSAMPLE
    traced = trace(SceneSpec(shape, hat=hat), cameras, size, size)
    return {
        "material": traced.material,
        "diffuse": (traced.diffuse * 255).round().to(torch.uint8),
        "highlight": (traced.highlight * 255).round().to(torch.uint8),
        "shape": torch.full((count,), SHAPES.index(shape)),
        "hat": torch.full((count,), int(hat)),
    }


def build_bank(settings: Settings) -> Bank:
    path = settings.out / "bank.pt"
    if not path.exists():
        torch.multiprocessing.set_sharing_strategy("file_system")
        jobs = [(s, h, 20) for s in SHAPES for h in HATS for _ in range(views_of(s) // 20)]
        with ProcessPoolExecutor(mp_context=torch.multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(trace_random_views, *job, settings.seed + i) for i, job in enumerate(jobs)]
            parts = [future.result() for future in track(futures, "tracing")]
        save_atomically({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, path)
    return Bank(**torch.load(path, weights_only=True))


class World:
    """Draws coloured images and their specs from a bank."""

    def __init__(self, bank: Bank, seed: int, held_out: bool) -> None:
        """With `held_out`, only the colour and shape pairs kept from the U-Net; without, only the others."""
        self.bank = bank
        self.device = bank.material.device
        self.generator = torch.Generator().manual_seed(seed)
        self.colours = [
            [c for c, colour in enumerate(COLOURS) if is_held_out(SceneSpec(shape, colour)) == held_out]
            for shape in SHAPES
        ]
        shapes = bank.shape.cpu()
        self.views = [
            [((shapes == s) & (bank.hat.cpu() == h)).nonzero()[:, 0] for h in HATS] for s in range(len(SHAPES))
        ]

    def integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.generator))

    def draw(self, count: int) -> tuple[Tensor, list[SceneSpec], Tensor]:
        """Images [count 3 H W] in [0, 1], what they show, and the share of each pixel that is object [count 1 H W].

        Shapes are equally frequent; two in five wear a hat.
        """
        specs, rows, palettes = [], [], []
        for _ in range(count):
            shape = self.integer(len(SHAPES))
            hat = self.integer(5) < 2
            colour = self.colours[shape][self.integer(len(self.colours[shape]))]
            spec = SceneSpec(SHAPES[shape], COLOURS[colour], FLOORS[self.integer(len(FLOORS))], hat)
            views = self.views[shape][hat]
            specs.append(spec)
            rows.append(views[self.integer(len(views))])
            jitter = 0.03 * torch.randn(len(Material), 3, generator=self.generator)
            jitter[Material.BACKGROUND] = 0
            palettes.append((palette(spec) + jitter).clamp(0, 1))
        index = torch.stack(rows).to(self.device)
        traced = TracedViews(
            self.bank.material[index],
            self.bank.diffuse[index].float() / 255,
            self.bank.highlight[index].float() / 255,
            torch.zeros(0, 0, 0),
        )
        colours = torch.stack(palettes).to(self.device)
        offset = len(Material) * torch.arange(count, device=self.device)[:, None, None]
        flat = TracedViews(traced.material.long() + offset, traced.diffuse, traced.highlight, traced.depth)
        images = shade(flat, colours.flatten(0, 1)).permute(0, 3, 1, 2)
        is_object = (traced.material >= Material.OBJECT).float()[:, None]
        return nn.functional.avg_pool2d(images, SUPERSAMPLE), specs, nn.functional.avg_pool2d(is_object, SUPERSAMPLE)

    def caption(self, spec: SceneSpec) -> str:
        """A true caption: always shape and hat, mostly the colour, the floor as often as not."""
        return spec.prompt(colour=self.integer(8) > 0, floor=self.integer(2) > 0)


# ---- a training loop with checkpoints -----------------------------------------------------------------------------


def save_atomically(state: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def train(
    stage: str,
    settings: Settings,
    modules: nn.Module,
    loss_of_step: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    ema: EMAModel | None = None,
    on_checkpoint: Callable[[int], None] = lambda step: None,
) -> None:
    """Minimises `loss_of_step` by AdamW (warm-up, cosine decay to zero), resuming from the last checkpoint."""
    path = settings.out / f"{stage}.pt"
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=1e-2, betas=(0.9, 0.99))

    def rate(step: int) -> float:
        return learning_rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))

    start = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        start = saved["step"]
        modules.load_state_dict(saved["modules"])
        optimizer.load_state_dict(saved["optimizer"])
        if ema is not None:
            ema.load_state_dict(saved["ema"])
    columns = (
        *Progress.get_default_columns()[:3],
        TimeRemainingColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    torch.manual_seed(settings.seed + start)
    running = math.nan
    with Progress(*columns) as progress:
        task = progress.add_task(stage, total=steps, completed=start, note="")
        for step in range(start, steps):
            loss = loss_of_step()
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if ema is not None:
                ema.step(parameters)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(f"The {stage} loss is {value} at step {step}; lower the learning rate.")
            running = value if math.isnan(running) else 0.99 * running + 0.01 * value
            progress.update(task, advance=1, note=f"loss {running:.4f}")
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == steps:
                state = {"step": step + 1, "modules": modules.state_dict(), "optimizer": optimizer.state_dict()}
                if ema is not None:
                    state["ema"] = ema.state_dict()
                save_atomically(state, path)
                progress.console.log(f"{stage} step {step + 1}: loss {running:.4f}")
                on_checkpoint(step + 1)


# ---- the models ---------------------------------------------------------------------------------------------------


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def make_unet(settings: Settings) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=settings.unet_channels,
        layers_per_block=1,
        cross_attention_dim=settings.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def text_config(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=96,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "projection_dim": 96,
    }
    text = text_config(tokenizer, 96, 2).to_dict()
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str], device: str) -> Tensor:
    batch = tokenizer(prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return batch.input_ids.to(device)


# ---- the stages ---------------------------------------------------------------------------------------------------


def train_vae(settings: Settings, bank: Bank) -> AutoencoderKL:
    """Reconstruction by L1 and squared error with a light KL term; the object, a tenth of the picture, counts more."""
    vae = make_vae().to(settings.device)
    world = World(bank, settings.seed + 1, held_out=False)

    def loss() -> Tensor:
        images, _, share = world.draw(32)
        images = 2 * images - 1
        with torch.autocast(settings.device, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            output = vae.decode(posterior.sample()).sample
        error = output.float() - images
        error = (1 + 6 * share) * (error.abs() + 2 * error.square())
        return error.mean() + 2e-5 * posterior.kl().float().mean() / 1024

    train("vae", settings, vae, loss, settings.vae_steps, 2e-3)
    vae.requires_grad_(False).eval()
    with torch.no_grad():
        probe = 2 * world.draw(256)[0] - 1
        vae.register_to_config(scaling_factor=float(1 / vae.encode(probe).latent_dist.mean.std()))
        held_out = World(bank, settings.seed + 2, held_out=True).draw(64)[0]
        output = (vae.decode(vae.encode(2 * held_out - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
    psnr = -10 * (output - held_out).square().mean((1, 2, 3)).log10().mean()
    print(f"VAE: {psnr:.2f} dB on held-out pairs, scaling factor {vae.config.scaling_factor:.4f}")
    save_image(torch.cat([held_out[:16], output[:16]]), settings.out / "vae.png", nrow=16)
    return vae


def train_clip(settings: Settings, bank: Bank, tokenizer: CLIPTokenizer, vae: AutoencoderKL) -> CLIPModel:
    """Contrastive, with every caption of the batch that is true of an image as its positive.

    Half of the images come out of the VAE, some with noise, because the judge will see generated ones.
    """
    clip = make_clip(tokenizer).to(settings.device)
    worlds = [World(bank, settings.seed + 3, held_out=False), World(bank, settings.seed + 4, held_out=True)]

    def loss() -> Tensor:
        drawn = [world.draw(count) for world, count in zip(worlds, (72, 24), strict=True)]
        images = torch.cat([images for images, _, _ in drawn])
        specs = [spec for _, several, _ in drawn for spec in several]
        with torch.no_grad():
            images[::2] = vae.decode(vae.encode(2 * images[::2] - 1).latent_dist.sample()).sample / 2 + 0.5
            images = images + 0.04 * torch.rand(len(images), 1, 1, 1).to(images) * torch.randn_like(images)
        silent = [(worlds[0].integer(4) == 0, worlds[0].integer(2) == 0) for _ in specs]
        captions = [spec.prompt(not c, not f) for spec, (c, f) in zip(specs, silent, strict=True)]
        true = [
            [spec.prompt(not c, not f) == caption for caption, (c, f) in zip(captions, silent, strict=True)]
            for spec in specs
        ]
        positive = torch.tensor(true, dtype=torch.float32, device=images.device)
        logits = clip(
            input_ids=token_ids(tokenizer, captions, settings.device), pixel_values=2 * images - 1
        ).logits_per_image
        losses = [
            -(p / p.sum(1, keepdim=True) * x.log_softmax(1)).sum(1).mean()
            for p, x in ((positive, logits), (positive.T, logits.T))
        ]
        return (losses[0] + losses[1]) / 2

    train("clip", settings, clip, loss, settings.clip_steps, 1e-3)
    return clip.requires_grad_(False).eval()


def encode_latents(settings: Settings, bank: Bank, vae: AutoencoderKL) -> tuple[Tensor, list[SceneSpec]]:
    """Latents of random trained scenes, kept on disk: resuming does not encode them again."""
    path = settings.out / "latents.pt"
    every = list(all_specs())
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return saved["latents"].to(settings.device), [every[i] for i in saved["specs"].tolist()]
    world = World(bank, settings.seed + 5, held_out=False)
    latents, specs = [], []
    with torch.no_grad():
        for _ in track(range(settings.num_latents // 100), "latents"):
            images, some, _ = world.draw(100)
            latents.append(vae.encode(2 * images - 1).latent_dist.mean * vae.config.scaling_factor)
            specs += some
    save_atomically(
        {"latents": torch.cat(latents).cpu(), "specs": torch.tensor([every.index(spec) for spec in specs])}, path
    )
    return torch.cat(latents), specs


def train_unet(
    settings: Settings, bank: Bank, tokenizer: CLIPTokenizer, vae: AutoencoderKL
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Noise prediction with SNR weights capped at 5 (Hang et al. 2023), one caption in ten empty."""
    torch.manual_seed(settings.seed)
    unet = make_unet(settings).to(settings.device)
    text_encoder = CLIPTextModel(text_config(tokenizer, settings.text_width, 3)).to(settings.device)
    modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    scheduler = make_scheduler()
    alphas = scheduler.alphas_cumprod.to(settings.device)
    weights = (5 * (1 - alphas) / alphas).clamp_max(1)
    captions = World(bank, settings.seed + 6, held_out=False)
    finished = (settings.out / "unet.pt").exists() and torch.load(settings.out / "unet.pt", weights_only=True)["step"]
    latents, specs = encode_latents(settings, bank, vae) if finished < settings.unet_steps else (torch.zeros(0), [])
    ema = EMAModel(list(modules.parameters()), decay=0.9985, use_ema_warmup=True, power=0.75)

    def loss() -> Tensor:
        index = torch.randint(len(latents), (settings.batch_size,))
        x0 = latents[index.to(latents.device)]
        noise = torch.randn_like(x0)
        t = torch.randint(1000, (len(x0),), device=x0.device)
        prompts = ["" if captions.integer(10) == 0 else captions.caption(specs[i]) for i in index.tolist()]
        with torch.autocast(settings.device, torch.bfloat16):
            condition = text_encoder(token_ids(tokenizer, prompts, settings.device))[0]
            predicted = unet(scheduler.add_noise(x0, noise, t), t, condition).sample
        return (weights[t] * (predicted.float() - noise).square().mean((1, 2, 3))).mean()

    def save_samples(step: int) -> None:
        if step % 500 and step != settings.unet_steps:
            return
        ema.store(modules.parameters())
        ema.copy_to(modules.parameters())
        write_prior(settings, tokenizer, vae, unet, text_encoder)
        sample_sheet(settings, settings.out / f"samples_{step:06d}.png")
        ema.restore(modules.parameters())

    train("unet", settings, modules, loss, settings.unet_steps, 1.2e-3, ema, save_samples)
    ema.copy_to(modules.parameters())
    return unet.eval(), text_encoder.eval()


def write_prior(settings, tokenizer, vae, unet, text_encoder) -> None:
    """The prior in diffusers' layout, half precision, safetensors."""
    StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(settings.out / "prior", safe_serialization=True)
    copy_vocabulary(settings.out / "prior" / "tokenizer", settings)
    halve(settings.out / "prior")


def copy_vocabulary(folder: Path, settings: Settings) -> None:
    """The two files that transformers before version 5 reads; newer ones write tokenizer.json alone."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(settings.out / "tokenizer" / name, folder / name)


def halve(folder: Path) -> None:
    """Rewrites the folder's safetensors in half precision."""
    from safetensors.torch import load_file, save_file

    for path in folder.rglob("*.safetensors"):
        state = {name: t.half() if t.is_floating_point() else t for name, t in load_file(path).items()}
        save_file(state, path, metadata={"format": "pt"})


def sample_sheet(settings: Settings, path: Path) -> None:
    """A sheet of DDIM samples: every shape in a trained and in a held-out colour, with and without a hat."""
    pipe = StableDiffusionPipeline.from_pretrained(settings.out / "prior", safety_checker=None).to(settings.device)
    pipe.set_progress_bar_config(disable=True)
    prompts = [SceneSpec(s, c).prompt(floor=False) for s in SHAPES for c in ("red", "blue", "yellow")]
    prompts += [caption for _, caption in held_out_captions()[4:200:11]]
    generator = torch.Generator().manual_seed(0)
    images = pipe(prompts, num_inference_steps=25, guidance_scale=4.0, generator=generator, output_type="pt").images
    save_image(nn.functional.interpolate(images, scale_factor=2), path, nrow=12)


def export_clip(settings: Settings, clip: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    from transformers import CLIPImageProcessor

    folder = settings.out / "clip"
    clip.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)
    copy_vocabulary(folder, settings)
    halve(folder)


def main(settings: Settings) -> None:
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer(settings.out / "tokenizer")
    bank = build_bank(settings).to(settings.device)
    vae = train_vae(settings, bank)
    if "clip" in settings.stages:
        export_clip(settings, train_clip(settings, bank, tokenizer, vae), tokenizer)
    if "unet" in settings.stages:
        unet, text_encoder = train_unet(settings, bank, tokenizer, vae)
        write_prior(settings, tokenizer, vae, unet, text_encoder)
        sample_sheet(settings, settings.out / "samples.png")
    if settings.install:
        for name in ("prior", "clip"):
            shutil.copytree(settings.out / name, WEIGHTS / name, dirs_exist_ok=True)
            print(f"installed {WEIGHTS / name}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
