"""`pds dreambooth`: teach a prior the subject of a scene, from the photographs that the scene was made of.

dataset or run ─► photographs ─► DreamBooth ─► OUT ─► ns-train …-edit --pipeline.prior OUT
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import require_writable
from pds_nerfstudio.priors.dreambooth_settings import SAMPLES, DreamBooth, check_out, check_settings
from pds_nerfstudio.text import in_rich, printable

ROOM = 4 << 20
"""Bytes that a training takes at least."""


@dataclass(frozen=True)
class Dreambooth(DreamBooth):
    """Teach a prior the subject of a scene under a rare word (Ruiz et al. 2023).

    Run the same command again to continue an interrupted training, or, with more --steps, a finished one. On several
    GPUs: accelerate launch $(which pds) dreambooth …
    """

    data: Path | None = None
    """A nerfstudio dataset, of which the training photographs are taken, or a folder of images."""
    load_config: Path | None = None
    """A run's config.yml, in place of --data: its dataset is taken."""
    out: Path = Path("outputs/dreambooth")
    """Folder for the finished prior, which --pipeline.prior takes, and for what the training keeps."""

    def run(self) -> None:
        """Check, train, and say what to type next."""
        from pds_nerfstudio.priors.check import check_prior, trains_its_text_encoder
        from pds_nerfstudio.scenes.photographs import find_photographs

        first = os.environ.get("RANK", "0") == "0"  # of several processes, as torchrun and accelerate count them
        console = Console(soft_wrap=True, quiet=not first)
        check_settings(self)
        if (self.data is None) == (self.load_config is None):
            raise UserError("Name the photographs: --data with a dataset, or --load-config with a run's config.yml.")
        check_prior(self.prior)
        if self.train_text_encoder and not trains_its_text_encoder(self.prior):
            raise UserError(f"The text encoders of {self.prior} are not trained here: leave --train-text-encoder out.")
        found = find_photographs([Path(self.data or self.load_config or "")], views=None)
        photographs = found.paths
        if len(photographs) == 1:
            raise UserError(
                f"There is one photograph ({photographs[0]}), and from one a prior learns the picture instead of the "
                "subject: give at least 2, better 10 to 100 from all sides."
            )
        check_out(self.out, self, photographs)
        require_writable(self.out, room=ROOM)
        if self.token.lower() not in self.instance_prompt.lower().split():
            console.print(
                f"[yellow]The rare word “{in_rich(self.token)}” is not in the instance prompt "
                f"“{in_rich(self.instance_prompt)}”: the words that are there will come to mean the subject. Put it "
                "in, or name yours with --token."
            )

        from pds_nerfstudio.priors.dreambooth import dreambooth

        dreambooth(self, photographs, self.out, found.stored)
        console.print(
            f"[green]Done.[/] The prior is {in_rich(self.out)}; its samples are in {in_rich(self.out / SAMPLES)}."
        )
        console.print("To edit a scene with it:", highlight=False)
        command = ["ns-train", "pds-edit", "--load-dir", "RUN/nerfstudio_models", "--pipeline.prior", str(self.out)]
        command += ["--pipeline.src-prompt", self.instance_prompt, "--pipeline.tgt-prompt", f"{self.instance_prompt} …"]
        console.print(f"  {printable(shlex.join(command))}", highlight=False, markup=False)
