"""A training that may be stopped at any time and goes on later: constant rate, averaged weights, checkpoints, a curve.

The learning rate is constant after a warm-up, and what is written out is an average of the weights, so it is useful
wherever the training stands; a finish continues a copy of it with a rate that falls to zero.
"""

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from training_loop import save_atomically

WARM_UP = 200
NEVER = 1_000_000_000


@dataclass
class Pace:
    """How long a training goes on and what it keeps."""

    steps: int = NEVER
    """Where to stop, counted from the start of the training; by default nowhere."""
    finish: int = 0
    """Continue a copy of the training for that many steps with a learning rate that falls to zero."""
    learning_rate: float = 6e-4
    ema_decay: float = 0.9995
    checkpoint_every: int = 150
    valid_every: int = 300
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


class LongTraining:
    """Networks, optimiser and average of the weights, with their checkpoint.

    Args:
        name: what the checkpoint calls the networks' weights.
        folder: for training.pt, and finish.pt of a finish.
    """

    def __init__(self, name: str, folder: Path, modules: nn.Module, pace: Pace) -> None:
        self.name, self.folder, self.modules, self.pace = name, folder, modules, pace
        folder.mkdir(parents=True, exist_ok=True)
        self.parameters = [parameter for parameter in modules.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, pace.learning_rate, weight_decay=1e-2, betas=(0.9, 0.99))
        self.ema = EMAModel(self.parameters, decay=pace.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.step, self.minutes, self.finish_from, self.noted = 0, 0.0, -1, -1
        self._repeats_note = False
        self._resume()

    @property
    def path(self) -> Path:
        return self.folder / ("finish.pt" if self.pace.finish else "training.pt")

    @property
    def last(self) -> int:
        return self.finish_from + self.pace.finish if self.pace.finish else self.pace.steps

    def _resume(self) -> None:
        """From its checkpoint; a finish that has none, or one of an earlier training, begins at the training's."""
        saved = self._load(self.path)
        if self.pace.finish and (training := self._load(self.folder / "training.pt")) is not None:
            if saved is not None and saved["finish_from"] != training["step"]:
                began, now = saved["finish_from"], training["step"]
                print(f"{self.path} began at step {began}, the training is at {now}: finishing from there.", flush=True)
                saved = None
            saved = saved or training
        if saved is not None:
            self.modules.load_state_dict(saved[self.name])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.ema.load_state_dict(saved["ema"])
            self.ema.to(self.pace.device)
            self.step, self.minutes, self.finish_from = saved["step"], saved["minutes"], saved["finish_from"]
            self.noted = saved.get("noted", self.step)
        if self.pace.finish and self.finish_from < 0:
            self.finish_from = self.step

    @staticmethod
    def _load(path: Path) -> dict[str, Any] | None:
        """A checkpoint on the CPU, where AdamW keeps its step counts whatever the device; None if there is none."""
        return torch.load(path, "cpu", weights_only=True) if path.exists() else None

    def _save(self) -> None:
        state = {
            self.name: self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
            "finish_from": self.finish_from,
            "noted": self.noted,
        }
        save_atomically(state, self.path)

    def _rate(self) -> float:
        if self.pace.finish:
            return self.pace.learning_rate * max(0.0, 1 - (self.step - self.finish_from) / self.pace.finish)
        return self.pace.learning_rate * min(1.0, (self.step + 1) / WARM_UP)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the networks have the average of their weights, and are in evaluation mode."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.modules.eval()
        try:
            yield
        finally:
            self.ema.restore(self.parameters)
            self.modules.train()

    def add_to_curve(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Lines at the end of curve.csv, unless a run that was stopped has already written this step's."""
        curve = self.folder / "curve.csv"
        written = curve.read_text().splitlines() if curve.exists() else []
        if self._repeats_note and written and written[-1].partition(",")[0] == str(self.step):
            return
        with curve.open("a", newline="") as file:
            csv.writer(file).writerows(rows if written else [header, *rows])

    def _assert_finite(self, loss: float) -> None:
        """Before anything is saved. A loss that was not finite leaves weights that make all later ones so too."""
        if not math.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss} at step {self.step}; lower the learning rate.")

    @property
    def _is_due(self) -> bool:
        """Whether `note` is called at this step."""
        return self.step % self.pace.valid_every == 0 or self.step == self.last

    def _note(self, note: Callable[[float], None], seconds: float) -> None:
        """Call `note`. A run that is stopped within it calls it again for the same step when it is resumed."""
        note(seconds)
        self.noted = self.step
        if self.step:
            self._save()

    def run(self, loss_of_step: Callable[[], Tensor], note: Callable[[float], None]) -> None:
        """To the last step, with a checkpoint now and then; `note` is told the seconds of a step, 0 before any."""
        pace = self.pace
        self.modules.train()
        torch.manual_seed(pace.seed + self.step)
        if self._is_due and self.noted != self.step:
            self._repeats_note = True
            self._note(note, 0.0)
            self._repeats_note = False
        mark, since = time.monotonic(), self.step
        running = torch.tensor(math.nan, device=pace.device)
        while self.step < self.last:
            loss = loss_of_step()
            self.optimizer.zero_grad()
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.ema.step(self.parameters)
            self.step += 1
            running = torch.where(running.isnan(), loss.detach(), running.lerp(loss.detach(), 0.01))
            if self.step % pace.checkpoint_every and self.step != self.last:
                continue  # without asking for a number, so that a GPU need not wait for the next batch
            self._assert_finite(float(loss.detach()))
            seconds = (time.monotonic() - mark) / (self.step - since)
            self.minutes += (time.monotonic() - mark) / 60
            self._save()
            print(f"step {self.step}: loss {running:.4f}, {seconds:.2f} s a step, {self.minutes:.0f} min", flush=True)
            if self._is_due:
                self._note(note, seconds)
            mark, since = time.monotonic(), self.step
