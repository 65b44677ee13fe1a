"""The `pds` command, and the subcommands it has."""

import os
import sys
from typing import Any

import tyro

from pds_nerfstudio.errors import one_sentence


def commands() -> dict[str, type]:
    """Every subcommand by the name that users type."""
    from pds_nerfstudio.cli.bench import Bench
    from pds_nerfstudio.cli.calibrate import CalibrateEta
    from pds_nerfstudio.cli.check import Check
    from pds_nerfstudio.cli.demo import Demo
    from pds_nerfstudio.cli.doctor import Doctor
    from pds_nerfstudio.cli.dreambooth import Dreambooth
    from pds_nerfstudio.cli.edit import Edit
    from pds_nerfstudio.cli.evaluate import Evaluate
    from pds_nerfstudio.cli.import_ply import ImportPly
    from pds_nerfstudio.cli.pie import PieBench
    from pds_nerfstudio.cli.preview import Preview
    from pds_nerfstudio.cli.render import Render
    from pds_nerfstudio.cli.svg import Svg

    return {
        "demo": Demo,
        "preview": Preview,
        "svg": Svg,
        "dreambooth": Dreambooth,
        "edit": Edit,
        "render": Render,
        "evaluate": Evaluate,
        "import-ply": ImportPly,
        "check": Check,
        "doctor": Doctor,
        "bench": Bench,
        "pie-bench": PieBench,
        "calibrate-eta": CalibrateEta,
    }


def main() -> None:
    """Entry point of the console script."""
    # Before torch comes: threads that spin while they wait take, on a busy machine, the time of those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with one_sentence():
        try:
            command: Any = tyro.extras.subcommand_cli_from_dict(
                commands(), prog="pds", description="Text-driven editing of nerfstudio scenes."
            )
            command.run()
        except KeyboardInterrupt:
            print("Interrupted. What was finished is kept.", file=sys.__stderr__)
            raise SystemExit(130) from None
