"""`pds doctor`: what this machine has, in one page, and what keeps an edit from running."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pds_nerfstudio.machine import examine
from pds_nerfstudio.next_steps import say_next, step

FIRST_STEPS = (
    step("the whole job on two small scenes, in minutes on a CPU", "pds", "demo"),
    step("or begin with photographs of your own", "ns-train", "source-splatfacto", "--data", "DATA"),
)
PRIOR = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""What edits take by default."""


@dataclass
class Doctor:
    """Check this machine before a bug report or a long run: versions, GPU, compiled kernels, models, disk.

    Nothing is downloaded and no model is loaded. If an edit with default settings cannot run, the command says what to
    do and exits with code 1.
    """

    json: bool = False
    """Print JSON instead of a page."""

    def run(self) -> None:
        """Look, print, and exit with 1 where something has to be mended."""
        found = examine(Path.cwd(), PRIOR)
        console = Console(soft_wrap=True, highlight=False, markup=False)
        if self.json:
            said = {"can_run": found.can_run, "toybox_runs": found.toybox_runs, "mends": found.mends}
            print(json.dumps({**said, **found.sections}, indent=2))
        else:
            for section, lines in found.sections.items():
                console.print(section)
                width = max(map(len, lines), default=0)
                for name, value in lines.items():
                    console.print(f"  {name:{width}}  {value}")
            console.print("An edit can run." if found.can_run else "To be mended before an edit can run:")
            for mend in found.mends:
                console.print(f"  {mend}")
            if found.toybox_runs:
                if not found.can_run:
                    console.print("With a small prior of this package (--prior toybox), everything can run here.")
                say_next(console, FIRST_STEPS)
        if not found.can_run:
            raise SystemExit(1)
