"""CONTRIBUTING's recipe for a new objective: one file, one entry. This follows it in a copy of the package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pds_nerfstudio

pytestmark = pytest.mark.slow

MINE = '''
from dataclasses import dataclass

import torch

from pds_nerfstudio.objectives.base import Edit, Prior, ScoreDistillation, predict_pair
from pds_nerfstudio.objectives.schedule import Latents


@dataclass(frozen=True)
class Mine(ScoreDistillation):
    """Twice DDS at weight 1."""

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        target, source = predict_pair(prior, edit, self.guidance_scale)
        return 2 * (target - source)
'''
SEEN = """
import copy, json, sys
from pathlib import Path
from typing import get_args, get_type_hints
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.objectives import BY_NAME, OBJECTIVES, name_of
from pds_nerfstudio.objectives.mine import Mine
from pds_nerfstudio.cli.calibrate import CalibrateEta
from pds_nerfstudio.cli.preview import known_editors
from pds_nerfstudio.pipelines.panel import possible_objectives
from pds_nerfstudio.pipelines.revise import ReviseConfig
from pds_nerfstudio.pipelines.steering import change_setting, settings_of
pnr = copy.deepcopy(METHODS["pnr-edit-splat"].config.pipeline)
pnr.src_prompt, pnr.tgt_prompt = "a can", "a cone"
change_setting(pnr, "objective", "mine")
json.dump({
    "registry": Mine in OBJECTIVES and BY_NAME["mine"] is Mine and name_of(Mine()) == "mine",
    "--pipeline.by": "mine" in get_args(get_type_hints(ReviseConfig)["by"]),
    "pds preview": "mine" in known_editors(),
    "pds calibrate-eta": CalibrateEta(Path(), "a", "b", objective="mine").kind() is Mine,
    "panel": "mine" in possible_objectives(pnr),
    "session": settings_of(pnr)["objective"] == "mine" and pnr.by == "mine",
}, sys.stdout)
"""


def test_an_objective_that_is_added_by_the_recipe_is_offered_everywhere(tmp_path):
    package = Path(pds_nerfstudio.__file__).parent
    copied = Path(shutil.copytree(package, tmp_path / "pds_nerfstudio", ignore=shutil.ignore_patterns("__pycache__")))
    (copied / "objectives" / "mine.py").write_text(MINE)
    registry = copied / "objectives" / "__init__.py"
    text = registry.read_text()
    entry = "OBJECTIVES: tuple[type[ScoreDistillation], ...] = ("
    assert text.count(entry) == 1
    text = text.replace(entry, f"{entry}Mine, ")
    registry.write_text(
        text.replace("\nOBJECTIVES:", "\nfrom pds_nerfstudio.objectives.mine import Mine\n\nOBJECTIVES:")
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SEEN], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout[done.stdout.index("{") :])
    assert all(seen.values()), seen
