"""What users type, run in this process: a new one takes up to half a minute to import what it needs."""

import sys
from typing import Any

import pytest


def ns_train(*args: object) -> Any:
    """`ns-train …`: its configuration as it ran."""
    import tyro
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
    from nerfstudio.scripts import train

    with pytest.MonkeyPatch.context() as patched:  # an edit asks what the command line named
        patched.setattr(sys, "argv", ["ns-train", *map(str, args)])
        config = tyro.cli(AnnotatedBaseConfigUnion)
        train.main(config)
    return config


def pds(*args: object) -> None:
    """`pds …`."""
    from pds_nerfstudio.cli import command_of

    words = [str(arg) for arg in args]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["pds", *words])
        command_of(words).run()
