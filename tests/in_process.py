"""What users type, run in this process: a new one takes up to half a minute to import what it needs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

import pytest

PICTURES = "pds_nerfstudio.pipelines.trainer.LOGGED_VIEWS", "pds_nerfstudio.pipelines.conclusion.SHEET_VIEWS"
"""How many views an edit shows of itself: drawing them takes longer than the three steps of a test."""
FEW_SAMPLES = {"pipeline.model.num_proposal_samples_per_ray": (24, 12), "pipeline.model.num_nerf_samples_per_ray": 8}
"""With which a NeRF of a few steps is rendered in a third of the time."""


@contextmanager
def one_picture_of_each() -> Iterator[None]:
    """Within this block an edit logs one view, and puts one on its sheet."""
    with pytest.MonkeyPatch.context() as patched:
        for number in PICTURES:
            patched.setattr(number, 1)
        yield


def ns_train(*args: object) -> Any:
    """`ns-train …`: its configuration as it ran."""
    import tyro
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
    from nerfstudio.scripts import train

    with pytest.MonkeyPatch.context() as patched, one_picture_of_each():  # an edit asks what the command line named
        patched.setattr(sys, "argv", ["ns-train", *map(str, args)])
        config = tyro.cli(AnnotatedBaseConfigUnion)
        train.main(config)
    return config


def console_script(name: str, *args: object) -> None:
    """Any console script of this environment, as it is."""
    (script,) = entry_points(group="console_scripts", name=name)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [name, *map(str, args)])
        script.load()()


def pds(*args: object) -> None:
    """`pds …`."""
    from pds_nerfstudio.cli import command_of

    words = [str(arg) for arg in args]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["pds", *words])
        command_of(words).run()
