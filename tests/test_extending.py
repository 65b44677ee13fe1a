"""CONTRIBUTING's recipes: one entry of a table is all that a new metric or a new family of scenes needs.

Those for an objective and for a family of priors are followed in pipelines/test_registry.py and
priors/test_families.py.
"""

import io
from pathlib import Path

import pytest
from nerfstudio.configs.external_methods import ExternalMethod
from nerfstudio.models.base_model import Model, ModelConfig
from rich.console import Console

from pds_nerfstudio.evaluation import measure, report
from pds_nerfstudio.evaluation.measure import Judges, Measured, Metric
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.scenes import families
from pds_nerfstudio.scenes.nerf import NerfScene
from pds_nerfstudio.scenes.scene import Scene


def test_a_new_metric_is_in_the_table_in_the_record_and_on_the_page(monkeypatch):
    monkeypatch.setitem(measure.METRICS, "sharp", Metric("sharpness gained", "mean of s(a) − s(b)", "higher"))
    measured = Measured({"sharp": [1.0, 3.0]}, [], [], [], 2, measure.HELD_OUT)
    entry = report.Entry("a", Path("a"), Path("b"), ("a red ball", "a blue ball"), measured)
    judges = Judges(None, "none", None, "none")
    assert report.as_json([entry], judges)["runs"][0]["mean"]["sharp"] == 2.0
    assert report.as_json([entry], judges)["metrics"]["sharp"]["formula"] == "mean of s(a) − s(b)"
    console = Console(file=io.StringIO(), width=200)
    console.print(report.as_table([entry], judges))
    assert "sharpness gained" in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "sharpness gained (higher is better)" in report.as_html([entry], judges)


class Mesh(Model):
    """A model of neither family."""


class MeshConfig(ModelConfig):
    """Its settings."""


class MeshScene(NerfScene):
    """A third family of scenes."""

    model_type = Mesh
    config_type = MeshConfig


def test_a_new_family_of_scenes_is_found_by_its_model_and_settings(monkeypatch):
    model = Mesh.__new__(Mesh)
    with pytest.raises(TypeError, match="Mesh is of none of them"):
        families.scene_of(model)
    assert families.family_of_model(MeshConfig()) is None
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, MeshScene))
    assert type(families.scene_of(model)) is MeshScene
    assert families.family_of_model(MeshConfig()) == MeshScene.family


def test_a_family_that_leaves_something_out_is_none():
    class Half(Scene):
        def perturb(self, eta, fresh, seed, where):
            return ""

    with pytest.raises(TypeError, match="abstract"):
        Half(Mesh.__new__(Mesh))  # pyright: ignore[reportAbstractUsage]


def test_the_patch_for_nerfstudios_list_names_every_method():
    page = Path(__file__).parents[1] / "docs" / "nerfstudio" / "external_methods.patch"
    added = [line[1:] for line in page.read_text(encoding="utf8").splitlines() if line[:1] == "+" and line[:3] != "+++"]
    known: dict = {"external_methods": [], "ExternalMethod": ExternalMethod}
    exec("\n".join(added), known)
    (entry,) = known["external_methods"]
    described = [(name, str(method.description).rstrip(".")) for name, method in METHODS.items()]
    assert entry.configurations == described
