"""`pds dreambooth`: teach a prior the subject of a scene, from the photographs that the scene was made of.

dataset or run ─► photographs ─► DreamBooth ─► OUT ─► ns-train …-edit --pipeline.prior OUT
"""

import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.dreambooth_settings import DreamBooth, check_out, check_settings


@dataclass(frozen=True)
class Dreambooth(DreamBooth):
    """Teach a prior the subject of a scene under a rare word (Ruiz et al. 2023).

    The same command again continues a training that was interrupted; with more --steps, one that is finished. On
    several GPUs: accelerate launch $(which pds) dreambooth …
    """

    data: Path | None = None
    """A nerfstudio dataset, of which the training photographs are taken, or a folder of images."""
    load_config: Path | None = None
    """Or a run: its config.yml, whose dataset is taken."""
    out: Path = Path("outputs/dreambooth")
    """Folder for the finished prior, which --pipeline.prior takes, and for what the training keeps."""

    def run(self) -> None:
        """Check, train, and say what to type next."""
        from pds_nerfstudio.priors.check import check_prior
        from pds_nerfstudio.scenes.photographs import find_photographs

        first = os.environ.get("RANK", "0") == "0"  # of several processes, as torchrun and accelerate count them
        console = Console(soft_wrap=True, quiet=not first)
        check_settings(self)
        if (self.data is None) == (self.load_config is None):
            raise UserError("Name the photographs: --data with a dataset, or --load-config with a run's config.yml.")
        check_prior(self.prior)
        photographs = find_photographs([Path(self.data or self.load_config or "")], views=None).paths
        if len(photographs) == 1:
            raise UserError(
                f"There is one photograph ({photographs[0]}), and from one a prior learns the picture instead of the "
                "subject: give at least 2, better 10 to 100 from all sides."
            )
        check_out(self.out, self, photographs)
        if self.token.lower() not in self.instance_prompt.lower().split():
            console.print(
                f"[yellow]The rare word {self.token!r} is not in the instance prompt {self.instance_prompt!r}: the "
                "words that are there will come to mean the subject. Put it in, or name yours with --token."
            )

        from pds_nerfstudio.priors.dreambooth import dreambooth

        dreambooth(self, photographs, self.out)
        console.print(f"[green]Done.[/] The prior is {self.out}; its samples are in {self.out / 'training/samples'}.")
        console.print("To edit a scene with it:", highlight=False)
        console.print(
            f"  ns-train pds-edit --load-dir RUN/nerfstudio_models --pipeline.prior {self.out} --pipeline.src-prompt "
            f'"{self.instance_prompt}" --pipeline.tgt-prompt "{self.instance_prompt} …"',
            highlight=False,
            markup=False,
        )
