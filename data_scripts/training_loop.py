"""Training loops for the scripts that make networks: AdamW, checkpoints, resumption."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent.parent / "pds_nerfstudio" / "toybox" / "weights"
"""Where the package keeps what these scripts make."""


@dataclass
class Run:
    """What every training has."""

    out: Path = Path("outputs/toybox")
    """Checkpoints, sheets and the finished folders."""
    checkpoint_every: int = 250
    seed: int = 0
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    install: bool = False
    """Copy what is finished into the package."""


def save_atomically(state: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def train(
    stage: str,
    settings: Run,
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
        saved = torch.load(path, "cpu", weights_only=True)
        start = saved["step"]
        modules.load_state_dict(saved["modules"])
        optimizer.load_state_dict(saved["optimizer"])
        if ema is not None:
            ema.load_state_dict(saved["ema"])
            ema.to(settings.device)
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
