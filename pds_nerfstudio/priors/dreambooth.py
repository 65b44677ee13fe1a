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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import Module, Parameter

from pds_nerfstudio.draws import generator_at, own_draws
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.objectives import Latents
from pds_nerfstudio.priors.dreambooth_files import restored, save_checkpoint, saving, write_prior
from pds_nerfstudio.priors.dreambooth_pictures import (
    SAMPLES_PER_PROMPT,
    Framing,
    Prompted,
    encoded,
    preserved_latents,
    sample_sheet,
)
from pds_nerfstudio.priors.dreambooth_settings import (
    CARD,
    LEARNING_RATE,
    SETTINGS,
    DreamBooth,
    record,
)
from pds_nerfstudio.priors.lora import ATTENTION, LAYERS, TEXT_ATTENTION, add_lora
from pds_nerfstudio.priors.text_encoders import Text
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.priors.latent import LatentPrior


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


def dreambooth(settings: DreamBooth, photographs: Sequence[Path], out: Path, stored: bool = False) -> dict[str, Any]:
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
        with saving(out, "The settings"):
            write_whole(out / SETTINGS, json.dumps(record(settings, photographs), indent=2) + "\n")

    console.print(f"[cyan]Loading the prior {in_rich(settings.prior)}")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    prior = load_prior(settings.prior, accelerator.device, torch.float32 if settings.train == "full" else dtype)
    short_side = settings.resolution or prior.trained_size
    framing = Framing.of(photographs, short_side, prior.size_multiple, stored)
    if framing.cropped:
        console.print(
            f"[yellow]{framing.cropped:d} of {len(photographs)} photographs have another shape than most: they are "
            f"cropped to the centre, at {framing.width:d}x{framing.height:d} pixels."
        )
    instance = encoded(prior, photographs, (framing.height, framing.width), framing.pictures)
    shown = framing.pictures(photographs[:SAMPLES_PER_PROMPT])
    preserved = preserved_latents(settings, prior, accelerator, out, instance.shape[-2:])

    learner = Learner(prior, settings)
    optimizer = _optimizer(settings, learner.parameters())
    step = restored(settings, out, learner, optimizer, accelerator.scaler, console)
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
                with saving(out, f"The checkpoint of step {step}"):
                    save_checkpoint(out, step, learner, optimizer, accelerator.scaler)
            if first and (step == settings.steps or (settings.sample_every and step % settings.sample_every == 0)):
                sample_sheet(settings, prior, shown, out, step)
    accelerator.wait_for_everyone()
    facts = {
        "photographs": len(photographs),
        "cropped": framing.cropped,
        "size": f"{framing.width}x{framing.height}",
        "learning rate": _rate(settings),
        "precision": precision,
        "processes": accelerator.num_processes,
        "parameters": sum(parameter.numel() for parameter in learner.parameters()),
    }
    if losses:
        facts["loss"] = round(sum(losses[-50:]) / len(losses[-50:]), 5)
    if first and (losses or not (out / CARD).is_file()):
        with saving(out, "The finished prior"):
            write_prior(settings, learner, out)
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
    # Of cards before Ampere torch says by itself that they have bf16: they emulate it, slowly.
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


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
