"""`pds check`: whether a run that somebody sent can be opened, without running anything that is in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from pds_nerfstudio.cli.runs import next_of
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.next_steps import say_loading, say_next
from pds_nerfstudio.runs import read_run


@dataclass
class Check:
    """Check a run before you open it: does it contain code, is it complete, where is its dataset?

    `ns-viewer`, `ns-export` and nerfstudio's other commands run whatever code a run's config.yml names. This command
    runs none of it, and neither do the other pds commands.
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, or its config.yml."""

    def run(self) -> None:
        """Read config.yml and every checkpoint, and say what they hold."""
        given = self.run_folder.expanduser()
        path = given / "config.yml" if given.is_dir() else given
        if not path.is_file():
            raise UserError(f"There is no {path}: name a run's folder or its config.yml.")
        run = read_run(path)
        console = Console(soft_wrap=True, highlight=False, markup=False)
        say_loading(console)
        from pds_nerfstudio.scenes.run_config import load_config

        config = load_config(path)
        folder = path.parent / config.relative_model_dir
        if not folder.resolve().is_relative_to(path.parent.resolve()):
            raise UserError(f"{path} keeps its checkpoints outside its folder, in {folder}: do not open it.")
        console.print(f"{path}: settings of {config.method_name}, no code.")
        checkpoints = sorted(folder.glob("*.ckpt"))
        for checkpoint in checkpoints:
            console.print(f"{checkpoint}: {_parts(checkpoint)}, no code.")
        if not checkpoints:
            console.print(f"{folder} holds no checkpoint.")
        recorded = config.get_base_dir()
        if recorded.resolve() != path.parent.resolve():
            console.print(
                f"It was made in {recorded}: nerfstudio's own commands look for its checkpoints there, not here."
            )
        say_next(console, next_of(run))


def _parts(checkpoint: Path) -> str:
    """How many tensors and numbers a checkpoint holds.

    Raises:
        UserError: it is damaged, or holds something other than tensors and plain values.
    """
    import torch

    from pds_nerfstudio.checkpoints import load_tensors
    from pds_nerfstudio.scenes.soundness import sound, under_present_names

    loaded = load_tensors(checkpoint, "do not open it, and ask for it again")
    state = loaded.get("pipeline")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{checkpoint} is not a checkpoint of nerfstudio: ask for it again.")
    left_out = sound(under_present_names(state), checkpoint)[1]
    said = f", {left_out} Gaussians not finite, which an edit leaves out" if left_out else ""
    return f"step {loaded.get('step')}, {len(state)} tensors{said}"
