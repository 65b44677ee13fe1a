"""Python's share of an edit step: what `step_cost.py` prints last, by the clock of this thread's processor time."""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counters import patched
from torch import Tensor

from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

PARTS = ("render", "vae", "unet", "backward", "optimiser")


class Stopwatch:
    """Milliseconds of this thread's processor time in the parts of each step; the rest of a step is Python's."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._begun = 0.0

    def time(self, function: Callable, part: str) -> Callable:
        """The same function, its time added to a part of the current step, if any has begun."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                if self.steps:  # what comes before the first step is no step's
                    self.steps[-1][part] += 1e3 * (time.thread_time() - begun)

        return timed

    def begin(self, function: Callable) -> Callable:
        """The same function, with whose calls steps begin; one lasts until the next begins."""

        def begun(*args: Any, **kwargs: Any) -> Any:
            now = time.thread_time()
            if self.steps:
                self.steps[-1]["all"] = 1e3 * (now - self._begun)
            self.steps.append(dict.fromkeys(PARTS, 0.0))
            self._begun = now
            return function(*args, **kwargs)

        return begun


def measure_overhead(method: str, steps: int) -> dict[str, Any]:
    """Median milliseconds per step of a toybox edit by `ns-train`'s own trainer and loop, by part."""
    from nerfstudio.engine.optimizers import Optimizers

    from pds_nerfstudio.evaluation import trial
    from pds_nerfstudio.pipelines.base import EditPipeline
    from pds_nerfstudio.pipelines.trainer import EditTrainer
    from pds_nerfstudio.toybox.dataset import write_edit
    from pds_nerfstudio.toybox.spec import find_edit

    watch, edit = Stopwatch(), find_edit("can-to-cone")
    family = "splatfacto" if method.endswith("-splat") else "nerfacto"
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()), patched() as patch:
        folder = Path(name)
        write_edit(edit, folder / "scene", train_views=4, test_views=1, size=64, num_points=1000)
        source = trial.reconstruct(family, folder / "scene/source", folder, steps=20, seed=0)
        patch(EditTrainer, "train_iteration", watch.begin)
        for holder, function, part in (
            (EditPipeline, "render_view", "render"),
            (StableDiffusionPrior, "encode", "vae"),
            (StableDiffusionPrior, "_forward", "unet"),
            (Tensor, "backward", "backward"),
            (Optimizers, "optimizer_scaler_step_some", "optimiser"),
        ):
            patch(holder, function, lambda old, part=part: watch.time(old, part))
        trial.run_edit(method, source, edit, folder, trial.TrialSettings(0, steps, guidance_scale=15.0), seed=0)
    whole = watch.steps[len(watch.steps) // 3 : -1]  # the first steps make source latents, the last a checkpoint
    for step in whole:
        step["rest"] = step["all"] - sum(step[part] for part in PARTS)
    return {"method": method} | {part: statistics.median(step[part] for step in whole) for part in whole[0]}


def print_overhead(rows: list[dict[str, Any]]) -> None:
    """The overhead's table."""
    labels = ("unet", "vae", "render", "backward", "optimiser", "rest")
    print("\nA step with the toybox prior at 64x64, milliseconds of processor time, medians\n")
    print("| method | U-Net | VAE | rendering | backward of both | optimiser | everything else |")
    print("|---|" + "---:|" * 6)
    for row in rows:
        print(f"| {row['method']} | {' | '.join(f'{row[label]:.1f}' for label in labels)} |")
