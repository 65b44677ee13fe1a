"""Rectangles drawn on views, on a wall of Gaussians that a camera looks at."""

import math

import pytest
import torch

from pds_nerfstudio.scenes.stencil import Stencil, drawn_on

FRONT = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0)
"""Two units before the middle, looking along -z."""
LEFT_HALF = (0.0, 0.0, 0.5, 1.0)


def stencil(rectangle=LEFT_HALF, adds=True, **other) -> Stencil:
    return Stencil(**{"pose": FRONT, "fov": math.pi / 2, "aspect": 1.0, "rectangle": rectangle, "adds": adds} | other)


@pytest.fixture
def wall(monkeypatch, splats):
    """A scene that shows a wall at z = 0 wherever one looks from `FRONT`."""
    from pds_nerfstudio.scenes.rendering import Rendering

    def render(model, camera):
        size = int(camera.height[0]), int(camera.width[0])
        flat = torch.full((1, 1, *size), 2.0)
        return Rendering(torch.zeros(1, 3, *size), depth=flat, accumulation=torch.ones(1, 1, *size))

    monkeypatch.setattr("pds_nerfstudio.scenes.stencil.render", render)
    return splats()


POINTS = torch.tensor([[-1.0, 0.5, 0.0], [1.0, 0.5, 0.0], [-1.0, 0.5, -1.0], [-0.4, 0.2, 1.0]])
"""On the wall at its left and right, behind it, and before it."""


def test_a_rectangle_covers_what_it_shows_and_what_is_before_that(wall):
    assert drawn_on(wall, None, [stencil()]).contains(POINTS).tolist() == [True, False, False, True]
    lower = stencil((0.0, 0.5, 1.0, 1.0))
    assert drawn_on(wall, None, [lower]).contains(POINTS).tolist() == [False] * 4


def test_one_that_takes_away_begins_with_everything(wall):
    assert drawn_on(wall, None, [stencil(adds=False)]).contains(POINTS).tolist() == [False, True, True, False]


def test_the_later_one_is_on_top(wall):
    everything = stencil((0.0, 0.0, 1.0, 1.0))
    drawn = [everything, stencil(adds=False), stencil((0.0, 0.0, 0.26, 1.0))]
    assert drawn_on(wall, None, drawn).contains(POINTS).tolist() == [True, True, False, False]
    assert drawn_on(wall, None, []) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"pose": FRONT[:11]},
        {"fov": math.pi},
        {"aspect": math.nan},
        {"rectangle": (0.5, 0.0, 0.5, 1.0)},
        {"rectangle": (0.0, 0.0, 1.1, 1.0)},
    ],
)
def test_what_is_no_rectangle_of_a_view_is_refused(wrong):
    with pytest.raises(ValueError, match=r"stencil|rectangle"):
        stencil(**wrong)
