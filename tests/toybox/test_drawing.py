"""Drawings of toybox scenes show the scenes."""

import math

import pytest
import torch

from pds_nerfstudio.evaluation.metrics import psnr
from pds_nerfstudio.toybox.drawing import draw_scene
from pds_nerfstudio.toybox.render import orbit_cameras
from pds_nerfstudio.toybox.render import render as render_scene
from pds_nerfstudio.toybox.spec import SceneSpec
from pds_nerfstudio.vector import read_drawing, render


@pytest.mark.parametrize("spec", [SceneSpec("ball", "red"), SceneSpec("man raising his arms", "green", hat=True)])
def test_a_drawing_looks_like_its_scene(tmp_path, spec):
    (tmp_path / "scene.svg").write_text(draw_scene(spec))
    drawing = read_drawing(tmp_path / "scene.svg")
    assert drawing.remarks == ()
    camera = orbit_cameras(torch.tensor([math.pi / 2]), torch.tensor([math.radians(22)]))
    seen = render_scene(spec, camera, 64, 64).image.movedim(-1, 1)
    assert psnr(render(drawing, drawing.source, 64, 64), seen) > 20


def test_scenes_of_two_colours_share_every_outline():
    red, blue = (draw_scene(SceneSpec("ball", colour)).splitlines() for colour in ("red", "blue"))
    assert len(red) == len(blue)
    different = [line for line, other in zip(red, blue, strict=True) if line != other]
    assert different
    assert all('id="object-' in line for line in different)
    assert [line.partition(" d=")[2] for line in red] == [line.partition(" d=")[2] for line in blue]
