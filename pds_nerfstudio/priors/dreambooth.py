"""DreamBooth (Ruiz et al. 2023): a prior learns the photographs of one subject under a rare word.

    L = ‖ε_φ(x_t, t, y) − ε‖² + λ ‖ε_φ(x′_t, t, y′) − ε′‖²

x are photographs, y says "a photo of a sks man"; x′ are samples of the prior itself under y′, "a photo of a man", made
once. Why it works: the rare word has next to no meaning, so that it is free to mean the subject; the second term holds
everything else where it was. The trap: without it (λ = 0) every man becomes this man. Guidance subtracts what the empty
prompt predicts, which neither term guards: some of x′ can be drawn, and learned, under that one.

Draws depend on seed, step and process alone, so that a training that was interrupted ends where it would have ended.
"""

import importlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Module, Parameter

from pds_nerfstudio.checkpoints import load_tensors
from pds_nerfstudio.draws import generator_at, own_draws
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole, written
from pds_nerfstudio.objectives import Latents
from pds_nerfstudio.pictures import contact_sheet, read_images, read_photograph, save_image
from pds_nerfstudio.priors.check import local_folder
from pds_nerfstudio.priors.dreambooth_settings import (
    CARD,
    CHECKPOINT,
    CLASS_IMAGES,
    EMPTY_IMAGES,
    LEARNING_RATE,
    SAMPLES,
    SETTINGS,
    DreamBooth,
    record,
)
from pds_nerfstudio.priors.lora import ATTENTION, LAYERS, TEXT_ATTENTION, add_lora, save_lora
from pds_nerfstudio.priors.recipe import COMMON, recipe_of
from pds_nerfstudio.priors.text_encoders import Text
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.priors.latent import LatentPrior

SAMPLES_PER_PROMPT = 4

Prompted = tuple[Float[Tensor, "_ channels height width"], str]
"""Latents, of any number, and what they show."""


def read_training_images(
    paths: Sequence[Path], short_side: int, multiple: int
) -> tuple[Float[Tensor, "photographs 3 height width"], int]:
    """Photographs at one working size, RGB in [0, 1], and how many of them lost a margin for it.

    The size is that of the commonest shape among them. A photograph of another shape is scaled to cover it and cropped
    to its centre.
    """
    images = [read_photograph(path, short_side, multiple) for path in paths]
    shapes = [tuple(image.shape[-2:]) for image in images]
    height, width = max(dict.fromkeys(shapes), key=shapes.count)
    for i, (h, w) in enumerate(shapes):
        if (h, w) == (height, width):
            continue
        scale = max(height / h, width / w)
        size = max(height, round(h * scale)), max(width, round(w * scale))
        scaled = F.interpolate(images[i], size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        images[i] = scaled[..., top : top + height, left : left + width]
    return torch.cat(images), sum(shape != (height, width) for shape in shapes)


class Learner:
    """A prior of which the denoiser, and the text encoder if asked, learn."""

    def __init__(self, prior: "LatentPrior", settings: DreamBooth):
        self.prior = prior
        self.networks: dict[str, Any] = {prior.denoiser_part: prior.denoiser}
        if settings.train_text_encoder:
            self.networks |= prior.text_parts()
        with own_draws(prior.device, settings.seed):
            for part, network in self.networks.items():
                if settings.train == "full":
                    network.requires_grad_(True)
                    continue
                layers = ATTENTION if settings.layers == "attention" else LAYERS
                add_lora(network, "default", settings.rank, layers if part == prior.denoiser_part else TEXT_ATTENTION)
        for parameter in self.parameters():
            parameter.data = parameter.data.float()
        if settings.recompute:
            prior.denoiser.enable_gradient_checkpointing()
            if settings.train_text_encoder:
                for encoder in prior.text_parts().values():
                    encoder.gradient_checkpointing_enable()

    def parameters(self) -> list[Parameter]:
        """What learns."""
        return list(self._named().values())

    def state_dict(self) -> dict[str, Tensor]:
        """What learns, by name."""
        return {name: parameter.detach().cpu() for name, parameter in self._named().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        with torch.no_grad():
            for name, parameter in self._named().items():
                parameter.copy_(state[name])

    def _named(self) -> dict[str, Parameter]:
        return {
            f"{part}.{name}": parameter
            for part, network in self.networks.items()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }


def denoising_error(
    prior: "LatentPrior",
    networks: Mapping[str, Module],
    x0: Latents,
    prompts: Sequence[str],
    t: Integer[Tensor, " batch"],
    eps: Latents,
) -> Float[Tensor, " batch"]:
    """Mean squared error of what the denoiser predicts, in its own dialect, for each latent; with a graph.

    Args:
        networks: the denoiser, and the text encoder where that learns, by their names in a diffusers folder, as they
            are to be called (several processes wrap them).
    """
    dialect = prior.dialect
    noisy, times = dialect.shown(dialect.schedule.add_noise(x0, t, eps), t)
    if "text_encoder" in networks:
        ids = torch.cat([prior.token_ids(prompt) for prompt in prompts])  # pyright: ignore[reportAttributeAccessIssue]
        texts = Text(networks["text_encoder"](ids).last_hidden_state.to(prior.dtype))
    else:
        texts = Text.stack([prior.text(prompt) for prompt in prompts], prior.dtype)
    network = networks[prior.denoiser_part]
    predicted = prior.ask(network, noisy.to(prior.dtype), times, texts, **prior.without_cameras(len(noisy)))
    return (predicted.float() - dialect.target(x0, eps, t).float()).square().mean((1, 2, 3))


def dreambooth(settings: DreamBooth, photographs: Sequence[Path], out: Path) -> dict[str, Any]:
    """Train, or continue, and write what `--pipeline.prior` takes into `out`.

    Call `check_settings` and `check_out` first. Runs in every process of an `accelerate launch`.

    Returns:
        what the model card says of the training.

    Raises:
        UserError: a file cannot be read or written, or the loss is not finite; the last checkpoint stays.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from rich.console import Console

    from pds_nerfstudio.priors.load import load_prior
    from pds_nerfstudio.priors.model_card import write_card

    precision = _precision(settings.precision)
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision, gradient_accumulation_steps=settings.accumulate
    )
    set_seed(settings.seed)
    console, first = Console(soft_wrap=True, quiet=not accelerator.is_main_process), accelerator.is_main_process
    if first:
        with _saving(out, "The settings"):
            write_whole(out / SETTINGS, json.dumps(record(settings, photographs), indent=2) + "\n")

    console.print(f"[cyan]Loading the prior {in_rich(settings.prior)}")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    prior = load_prior(settings.prior, accelerator.device, torch.float32 if settings.train == "full" else dtype)
    short_side = settings.resolution or prior.trained_size
    images, cropped = read_training_images(photographs, short_side, prior.size_multiple)
    if cropped:
        console.print(
            f"[yellow]{cropped} of {len(images)} photographs have another shape than most: they are cropped to the "
            f"centre, at {images.shape[-1]}x{images.shape[-2]} pixels."
        )
    instance = _encoded(prior, images)
    preserved = _preserved(settings, prior, accelerator, out, instance.shape[-2:])

    learner = Learner(prior, settings)
    optimizer = _optimizer(settings, learner.parameters())
    step = _restored(settings, out, learner, optimizer, console)
    if first and step < settings.steps:
        (out / CARD).unlink(missing_ok=True)  # written last: with it, the prior is that of the last step
    *wrapped, optimizer = accelerator.prepare(*learner.networks.values(), optimizer)
    networks = dict(zip(learner.networks, wrapped, strict=True))
    losses: list[float] = []
    with _progress(console, accelerator.is_main_process) as bar:
        task = bar.add_task("learning", total=settings.steps, completed=step, loss="")
        while step < settings.steps:
            for network in networks.values():
                network.train()
            for part in range(settings.accumulate):
                loss = _learn(settings, accelerator, learner, networks, optimizer, instance, preserved, (step, part))
            step += 1
            losses.append(loss)
            bar.update(task, advance=1, loss=f"loss {sum(losses[-50:]) / len(losses[-50:]):.4f}")
            if first and (step % settings.save_every == 0 or step == settings.steps):
                with _saving(out, f"The checkpoint of step {step}"):
                    _save_checkpoint(out, step, learner, optimizer)
            if first and (step == settings.steps or (settings.sample_every and step % settings.sample_every == 0)):
                _sample_sheet(settings, prior, images, out, step)
    accelerator.wait_for_everyone()
    facts = {
        "photographs": len(images),
        "cropped": cropped,
        "size": f"{images.shape[-1]}x{images.shape[-2]}",
        "learning rate": _rate(settings),
        "precision": precision,
        "processes": accelerator.num_processes,
        "parameters": sum(parameter.numel() for parameter in learner.parameters()),
    }
    if losses:
        facts["loss"] = round(sum(losses[-50:]) / len(losses[-50:]), 5)
    if first and (losses or not (out / CARD).is_file()):
        with _saving(out, "The finished prior"):
            _write_prior(settings, learner, out)
            write_card(out, settings, facts)
    return facts


def _learn(
    settings: DreamBooth,
    accelerator: Any,
    learner: Learner,
    networks: Mapping[str, Module],
    optimizer: Any,
    instance: Latents,
    preserved: Sequence[Prompted],
    when: tuple[int, int],
) -> float:
    """One batch; the optimiser steps when the batches of a step are complete. Returns the loss."""
    step, part = when
    number = (step * settings.accumulate + part) * accelerator.num_processes + accelerator.process_index
    generator = generator_at(settings.seed, number)
    rows = _choose([(instance, settings.instance_prompt)], settings.batch_size, generator)
    if preserved:
        rows += _choose(preserved, settings.batch_size, generator)
    x0 = torch.stack([x for x, _ in rows]).to(accelerator.device)
    t = torch.randint(learner.prior.schedule.num_steps, (len(x0),), generator=generator)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    with accelerator.accumulate(*networks.values()):
        errors = denoising_error(learner.prior, networks, x0, [y for _, y in rows], t.to(x0.device), eps)
        loss, *class_loss = (part.mean() for part in errors.split(settings.batch_size))
        loss = loss + settings.class_weight * sum(class_loss)
        value = float(loss.detach())  # the step's one look at it
        if not math.isfinite(value):
            raise UserError(
                f"The loss of step {step} is not finite: run again with a smaller --learning-rate or --precision bf16 "
                "in a new folder."
            )
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return value


def _choose(
    sets: Sequence[Prompted], count: int, generator: torch.Generator
) -> list[tuple[Float[Tensor, "channels height width"], str]]:
    """Latents with their prompts, each of all the sets' as likely as any other."""
    everything = [(x, prompt) for latents, prompt in sets for x in latents]
    return [everything[i] for i in torch.randint(len(everything), (count,), generator=generator).tolist()]


def _rate(settings: DreamBooth) -> float:
    return LEARNING_RATE[settings.train] if settings.learning_rate is None else settings.learning_rate


def _optimizer(settings: DreamBooth, parameters: list[Parameter]) -> torch.optim.Optimizer:
    kind = importlib.import_module("bitsandbytes").optim.AdamW8bit if settings.adam_8bit else torch.optim.AdamW
    return kind(parameters, lr=_rate(settings), weight_decay=1e-2)


def _precision(asked: str) -> str:
    cuda = torch.cuda.is_available()
    if asked == "fp16" and not cuda:
        raise UserError("--precision fp16 needs a GPU: leave it out, or give bf16.")
    if asked != "auto":
        return asked
    if not cuda:
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


@torch.no_grad()
def _encoded(prior: "LatentPrior", images: Tensor) -> Latents:
    """Latents on the CPU, a few pictures at a time."""
    return torch.cat([prior.encode(part.to(prior.device)).cpu() for part in images.split(4)])


def _preserved(
    settings: DreamBooth, prior: "LatentPrior", accelerator: Any, out: Path, latent_size: Sequence[int]
) -> list[Prompted]:
    """What is preserved: latents of pictures of the class and of anything, with the prompt they were drawn under."""
    if not settings.class_images:
        return []
    draw = partial(_drawn, settings, prior, accelerator, latent_size)
    sets = [(draw(out / CLASS_IMAGES, settings.class_prompt, settings.class_images), settings.class_prompt)]
    if settings.empty_images:
        sets.append((draw(out / EMPTY_IMAGES, "", settings.empty_images), ""))
    return sets


def _drawn(
    settings: DreamBooth,
    prior: "LatentPrior",
    accelerator: Any,
    latent_size: Sequence[int],
    folder: Path,
    prompt: str,
    count: int,
) -> Latents:
    """Latents of what the prior draws under a prompt, made once and kept as files."""
    from rich.progress import track

    height, width = (side * prior.latent_stride for side in latent_size)
    files = [folder / f"{i:04d}.png" for i in range(count)]
    own = range(accelerator.process_index, count, accelerator.num_processes)
    missing = [i for i in own if not files[i].is_file()]
    parts = [missing[i : i + 8] for i in range(0, len(missing), 8)]
    guidance = settings.class_guidance_scale if prompt else 1.0
    for part in track(parts, f"drawing {folder.name}", disable=not parts or not accelerator.is_main_process):
        generator = generator_at(settings.seed, part[0])
        pictures = prior.sample([prompt] * len(part), height, width, settings.sample_steps, guidance, generator)
        with _saving(folder.parents[1], "A class image"):
            for i, image in zip(part, pictures, strict=True):
                save_image(image, files[i])
    accelerator.wait_for_everyone()
    return _encoded(prior, read_images(files))


def _sample_sheet(settings: DreamBooth, prior: "LatentPrior", images: Tensor, out: Path, step: int) -> None:
    """Samples of every prompt from the same noise, under photographs."""
    for network in prior.parts().values():
        network.eval()
    prior.forget_texts()
    height, width = images.shape[-2:]
    rows: dict[str, Tensor] = {"photographs": images[:SAMPLES_PER_PROMPT]}
    for prompt in settings.prompts:
        generator = torch.Generator().manual_seed(settings.seed)
        asked = [prompt] * SAMPLES_PER_PROMPT
        rows[prompt] = prior.sample(
            asked, height, width, settings.sample_steps, settings.guidance_scale, generator
        ).cpu()
    with _saving(out, f"The samples of step {step}"):
        contact_sheet(rows, out / SAMPLES / f"step_{step:06d}.png", f"after {step} steps")


def _save_checkpoint(out: Path, step: int, learner: Learner, optimizer: Any) -> None:
    """The whole state of the training; the previous one is replaced when this is complete."""
    state = {"step": step, "weights": learner.state_dict(), "optimizer": optimizer.state_dict()}
    with written(out / CHECKPOINT) as partial:
        torch.save(state, partial)


def _restored(settings: DreamBooth, out: Path, learner: Learner, optimizer: Any, console: Any) -> int:
    """Steps done before; what was learned in them is taken over."""
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    remedy = f"remove {path.name} to begin this training again, or give a folder that is new"
    state = load_tensors(path, remedy)
    kinds = {"step": int, "weights": dict, "optimizer": dict}
    if other := [name for name, kind in kinds.items() if not isinstance(state.get(name), kind)]:
        raise UserError(f"{path} is damaged (it has no {other[0]}): {remedy}.")
    if state["step"] > settings.steps:
        raise UserError(f"The training in {out} has had {state['step']} steps already: give --steps as many, or more.")
    try:
        learner.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} does not fit this training ({reason}): {remedy}.") from error
    console.print(f"Continuing the training in {in_rich(out)} from step {state['step']}.")
    return state["step"]


def _write_prior(settings: DreamBooth, learner: Learner, out: Path) -> None:
    """A LoRA's folder, or a whole diffusers folder."""
    if settings.train == "lora":
        folder = local_folder(settings.prior)
        local = folder is not None and Path(settings.prior).expanduser().is_dir()
        base = str(folder.resolve()) if folder is not None and local else settings.prior
        save_lora(out, base, learner.prior, learner.networks)
    else:
        learner.prior.save(out)
        recipe = recipe_of(settings.prior).path
        if recipe != COMMON:
            write_whole(out / recipe.name, recipe.read_text(encoding="utf-8"))


@contextmanager
def _saving(out: Path, what: str) -> Iterator[None]:
    """Within this block a file that cannot be written ends the training in one sentence."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, UserError) as error:
        before = out / CHECKPOINT
        at = f"step {torch.load(before, weights_only=True)['step']}" if before.is_file() else "its beginning"
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{what} could not be written to {out} ({reason}): free some space there and run the same command again, "
            f"which continues from {at}."
        ) from error


@contextmanager
def _progress(console: Any, shown: bool) -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("learning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not shown) as bar:
        yield bar
