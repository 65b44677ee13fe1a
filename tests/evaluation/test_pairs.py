"""Which scene an edited run is compared with, found without loading either."""

import copy
from types import SimpleNamespace
from typing import Any

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation import before_after
from pds_nerfstudio.methods import METHODS


def test_a_refinement_is_compared_with_the_scene_before_its_edit(tmp_path, monkeypatch):
    """Its prompts speak of that scene, and its own source is the edit as it was."""
    configs = {name: copy.deepcopy(METHODS[name].config) for name in ("source-splatfacto", "pnr-edit-splat")}
    refinement: Any = copy.deepcopy(METHODS["sdedit-refine-splat"].config)
    refinement.pipeline.run.base = tmp_path / "pnr-edit-splat"
    edited: Any = configs["pnr-edit-splat"]
    edited.pipeline.run.base = tmp_path / "source-splatfacto"

    def find(path, step=None):
        if path.name not in configs:
            raise UserError("gone")
        return SimpleNamespace(config=configs[path.name], name=path.name)

    monkeypatch.setattr(before_after, "find_run", find)
    of_refinement: Any = SimpleNamespace(config=refinement)
    found: Any = before_after._before_the_edit(of_refinement)
    assert found.name == "source-splatfacto"
    of_edit: Any = SimpleNamespace(config=edited)
    assert before_after._before_the_edit(of_edit) is None
    del configs["source-splatfacto"]  # then with its own source
    assert before_after._before_the_edit(of_refinement) is None
