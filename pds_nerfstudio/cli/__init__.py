"""The `pds` command: `pds demo`, `pds calibrate-eta`, `pds bench`."""

import tyro

from pds_nerfstudio.errors import one_sentence


def main() -> None:
    """Entry point of the console script."""
    from pds_nerfstudio.cli.bench import Bench
    from pds_nerfstudio.cli.calibrate import CalibrateEta
    from pds_nerfstudio.cli.demo import Demo

    with one_sentence():
        command = tyro.extras.subcommand_cli_from_dict(
            {"demo": Demo, "calibrate-eta": CalibrateEta, "bench": Bench},
            prog="pds",
            description="Text-driven editing of nerfstudio scenes.",
        )
        command.run()
