"""The rasteriser against resvg, its gradients against finite differences of resvg, and laws."""

import math
from pathlib import Path

import pytest
import torch

from pds_nerfstudio.vector import read_drawing, render, write_drawing
from pds_nerfstudio.vector.drawing import Values

from .drawings import DRAWINGS, by_resvg, svg

SIZE = 192


@pytest.fixture
def read(tmp_path):
    def reader(text: str):
        path = tmp_path / "drawing.svg"
        path.write_text(text)
        return read_drawing(path)

    return reader


def size_of(drawing) -> tuple[int, int]:
    unit = SIZE / min(drawing.height, drawing.width)
    return round(drawing.height * unit), round(drawing.width * unit)


def leaves(drawing) -> Values:
    return drawing.source.map(lambda value: value.clone().requires_grad_(True))


def test_there_are_thirty_drawings():
    assert len(DRAWINGS) >= 30


@pytest.mark.parametrize("name", DRAWINGS)
def test_pictures_are_those_of_resvg(read, name):
    drawing = read(DRAWINGS[name])
    assert drawing.remarks == ()
    ours = render(drawing, drawing.source, *size_of(drawing))
    difference = (ours - by_resvg(DRAWINGS[name], *ours.shape[-2:])).abs()
    assert difference.mean() <= 0.01
    assert difference.mean(dim=(0, 1, 3)).max() <= 0.03  # of the worst row of pixels


GRADED = svg(
    "<path d='M20 25 C30 5 62 12 70 30 S50 70 33 66 Q10 50 20 25Z' fill='#c52'/>"
    "<path d='M52.3 48.1 L88.7 55.2 L61.9 90.4 Z' fill='#3a6' fill-opacity='.7'/>"
    "<path d='M12.3 88.4 C30 60 40 99 58.2 72.6' fill='none' stroke='#24c' stroke-width='5' stroke-linecap='round'/>"
)


@pytest.fixture(scope="module")
def weights():
    """Of pixels, so that a picture becomes a number: smooth, with all channels different."""
    coarse = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic")


@pytest.mark.parametrize(("name", "step"), [("points", 2.0), ("colours", 0.08), ("opacities", 0.08), ("widths", 2.0)])
def test_gradients_are_the_finite_differences_of_a_supersampled_rendering(read, tmp_path, weights, name, step):
    """By resvg, of files that `write_drawing` wrote, at eight times the size."""
    drawing = read(GRADED)
    values = leaves(drawing)
    (render(drawing, values, 64, 64) * weights).sum().backward()
    gradient = getattr(values, name).grad.flatten()
    middle = drawing.source.tensors()
    if name in ("colours", "opacities"):  # room to both sides
        middle = middle | {name: middle[name].clamp(0.1, 0.9)}

    def measured(i: int, by: float) -> float:
        moved = middle[name].clone()
        moved.view(-1)[i] += by
        write_drawing(drawing, Values(**middle | {name: moved}), tmp_path / "moved.svg")
        return float((by_resvg((tmp_path / "moved.svg").read_text(), 64, 64, finer=8) * weights).sum())

    differences = torch.tensor([(measured(i, step) - measured(i, -step)) / (2 * step) for i in range(len(gradient))])
    if name in ("colours", "opacities"):
        values = Values(**middle).map(lambda value: value.clone().requires_grad_(True))
        (render(drawing, values, 64, 64) * weights).sum().backward()
        gradient = getattr(values, name).grad.flatten()
    assert torch.cosine_similarity(gradient, differences, dim=0) >= 0.98
    assert differences.norm() == pytest.approx(float(gradient.norm()), rel=0.1)


def covered(read, body: str, size: int = 100) -> torch.Tensor:
    """Share of each pixel that black shapes on white cover."""
    drawing = read(svg(body))
    return 1 - render(drawing, drawing.source, size, size)[0, 0]


def test_coverage_sums_to_the_area(read):
    """Of a thin, slanted, sub-pixel sliver too: the box filter loses nothing."""
    assert covered(read, "<path d='M10 10 L90 20.5 L90 20.7 Z'/>").sum() == pytest.approx(80 * 0.2 / 2, rel=1e-3)
    assert covered(read, "<circle cx='50' cy='50' r='30'/>").sum() == pytest.approx(math.pi * 900, rel=1e-3)


def test_a_stroke_thinner_than_a_pixel_is_as_light_as_it_is_thin(read):
    line = "<path d='M10 50.5H90' stroke='black' stroke-width='{}'/>"
    for width in (0.01, 0.2, 0.9):
        assert covered(read, line.format(width)).sum() == pytest.approx(80 * width, rel=1e-3)


def test_a_pixel_is_covered_by_what_lies_in_it(read):
    found = covered(read, "<rect x='20.25' y='30.5' width='10' height='5'/>")
    assert float(found[32, 20]) == pytest.approx(0.75, abs=1e-5)
    assert float(found[30, 25]) == pytest.approx(0.5, abs=1e-5)
    assert float(found[35, 30]) == pytest.approx(0.125, abs=1e-5)


def test_an_overlap_of_a_path_with_itself_has_no_seam(read):
    found = covered(read, "<path d='M10 10H60V60H10Z M30 30H90V90H30Z'/>")
    assert torch.equal(found[31:59, 31:59], torch.ones(28, 28))


def test_the_inside_of_a_stroke_around_a_tight_bend_is_filled(read):
    found = covered(read, "<circle cx='50' cy='50' r='3' fill='none' stroke='black' stroke-width='20'/>")
    assert torch.allclose(found[45:55, 45:55], torch.ones(10, 10))


def test_layers_cover_in_the_order_of_the_file(read):
    drawing = read(svg("<rect width='100' height='100' fill='red'/><rect width='100' height='50' fill='blue'/>"))
    picture = render(drawing, drawing.source, 10, 10)[0]
    assert picture[:, 2, 5].tolist() == [0, 0, 1]
    assert picture[:, 7, 5].tolist() == [1, 0, 0]


def test_a_picture_at_half_the_size_is_the_average(read):
    """Exactly so while no path crosses itself within a pixel: the filter is the box."""
    drawing = read(svg("<circle cx='43' cy='57' r='31.4' fill='#369'/>"))
    fine, coarse = (render(drawing, drawing.source, size, size) for size in (128, 64))
    # The circle is cut into more lines at the larger size.
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(fine, 2), coarse, atol=0.02, rtol=0)


def test_what_lies_outside_costs_nothing_and_has_no_gradient(read):
    drawing = read(svg("<circle cx='50' cy='50' r='20' fill='red'/><circle cx='900' cy='900' r='20' fill='blue'/>"))
    values = leaves(drawing)
    render(drawing, values, 64, 64).sum().backward()
    inside, outside = values.points.grad.split(12)
    assert inside.abs().sum() > 0
    assert not outside.any()


def test_gradients_are_finite_where_points_coincide(read):
    """Zero-length segments, handles on their points, strokes that turn back."""
    drawing = read(
        svg(
            "<path d='M20 20 L20 20 C20 20 60 60 60 60 L20 20 Z' fill='red' stroke='blue' stroke-width='3'/>"
            "<path d='M50 50 L80 50 L50 50' stroke='black' stroke-width='4' stroke-linejoin='round'/>"
            "<path d='M5 5 L5 5' stroke='black' stroke-width='4'/>"
        )
    )
    values = leaves(drawing)
    render(drawing, values, 64, 64).square().sum().backward()
    assert all(value.grad.isfinite().all() for value in values.tensors().values())


def test_descending_the_difference_to_another_drawing_finds_it(read, tmp_path):
    """The whole point of the gradient: a blue disc becomes an orange one elsewhere."""
    start, goal = (
        read(svg(f"<circle cx='{x}' cy='{y}' r='{r}' fill='{fill}'/>"))
        for x, y, r, fill in ((40, 45, 20, "#0af"), (55, 52, 28, "#f80"))
    )
    target = render(goal, goal.source, 64, 64)
    values = leaves(start)
    optimizer = torch.optim.Adam([{"params": [values.points], "lr": 4.0}, {"params": [values.colours], "lr": 0.05}])
    before = (render(start, values, 64, 64) - target).square().mean().item()
    for _ in range(80):
        optimizer.zero_grad()
        (render(start, values, 64, 64) - target).square().mean().backward()
        optimizer.step()
        values.clamp_()
    after = (render(start, values, 64, 64) - target).square().mean().item()
    assert after < 0.02 * before
    write_drawing(start, values, tmp_path / "found.svg")
    assert Path(tmp_path / "found.svg").read_text().count("<path") == 1
