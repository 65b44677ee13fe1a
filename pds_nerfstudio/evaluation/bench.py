"""The edit benchmark: every method on every edit of a suite, each against the ground truth of the edited scene.

    DIR/scenes/EDIT.SEED/          the two scenes and the reconstruction that all methods share
    DIR/cells/EDIT.METHOD.SEED/    one row's run and contact sheet, and record.json once it is done; see `cells`
    DIR/results.json, table.md …   assembled from the records

Some rows anchor the table:

    nothing      the source as it is
    ceiling      the edited scene reconstructed from its own photographs, with as many steps as source and edit had
    prior-0.4    its photographs after SDEdit by the prior at this strength: what the prior knows, without any scene
    regenerate   pnr-edit with η = 1 everywhere: a new scene, for which the source is only a camera path

What is edited is one of four kinds of `Benchmark`: `trial.Toy`, `studio_trial.Stills`, `capture.Capture` or
`image_trial.ImageTrial`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.benchmark import Benchmark
from pds_nerfstudio.evaluation.capture import Capture, CaptureSettings
from pds_nerfstudio.evaluation.image_trial import ImageTrial
from pds_nerfstudio.evaluation.studio_trial import Stills
from pds_nerfstudio.evaluation.suite import Suite
from pds_nerfstudio.evaluation.trial import SETTINGS, Toy
from pds_nerfstudio.scenes.scene import Family


def benchmark_of(suite: Suite, family: Family | Literal["2d"], given: Mapping[str, Any]) -> Benchmark:
    """The kind of benchmark that a suite is, with settings other than its own where they are not None.

    Raises:
        UserError: captures are to be edited in 2d.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if suite.of_captures or suite.of_stills:
        if family == "2d":
            raise UserError("Captures have no --family 2d: choose splatfacto or nerfacto, or use `pds pie-bench`.")
        kind = Stills if suite.of_stills else Capture
        return kind(family, replace(CaptureSettings(), **given))
    given.pop("prior", None)  # toybox scenes have toybox's
    settings = replace(SETTINGS[family], **given)
    return ImageTrial(family, settings) if family == "2d" else Toy(family, settings)
