"""The two picture conventions and the working size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.images import depth_picture, details, to_channels_first, to_channels_last, working_size

sides = st.integers(1, 5000)
multiples = st.sampled_from([1, 4, 8, 16])


def test_channels_first_puts_each_pixel_where_it_belongs():
    image = torch.rand(3, 5, 3)
    first = to_channels_first(image)
    assert first.shape == (1, 3, 3, 5)
    for row, column, channel in [(0, 0, 0), (2, 1, 2), (1, 4, 1)]:
        assert first[0, channel, row, column] == image[row, column, channel]


def test_conversions_are_inverse_for_batches():
    images = torch.rand(2, 4, 6, 3)
    assert torch.equal(to_channels_last(to_channels_first(images)), images)


def test_conversion_keeps_the_graph():
    image = torch.rand(4, 6, 3, requires_grad=True)
    to_channels_first(image)[0, 2, 1, 3].backward()
    expected = torch.zeros(4, 6, 3)
    expected[1, 3, 2] = 1
    assert torch.equal(image.grad, expected)


@given(sides, sides, st.integers(1, 1024), multiples)
def test_each_side_is_a_multiple_within_half_a_stride_of_the_scaled_side(height, width, short_side, multiple):
    short_side = max(short_side, multiple)
    scale = short_side / min(height, width)
    for side, original in zip(working_size(height, width, short_side, multiple), (height, width), strict=True):
        assert side >= multiple
        assert side % multiple == 0
        assert abs(side - original * scale) <= multiple / 2 + 1e-6 * side


@given(sides, sides, st.integers(16, 1024), multiples)
def test_working_size_is_idempotent_and_turns_with_the_picture(height, width, short_side, multiple):
    size = working_size(height, width, short_side, multiple)
    assert working_size(*size, min(size), multiple) == size
    assert working_size(width, height, short_side, multiple) == size[::-1]


@pytest.mark.parametrize(
    ("size", "short_side", "multiple", "expected"),
    [((512, 512), 512, 8, (512, 512)), ((738, 994), 512, 8, (512, 688)), ((64, 64), 64, 4, (64, 64))],
)
def test_known_sizes(size, short_side, multiple, expected):
    assert working_size(*size, short_side, multiple) == expected


def test_resolution_below_the_latent_stride_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"latent stride of 8: give at least 8") as error:
        working_size(480, 640, 7, 8)
    assert "\n" not in str(error.value)


def test_empty_view_is_refused():
    with pytest.raises(UserError, match="empty"):
        working_size(0, 640, 512, 8)


def test_the_depth_picture_is_white_where_near_and_black_where_nothing_is():
    depth = torch.tensor([[1.0, 2.0, 4.0, 3.0]]).view(1, 1, 2, 2)
    accumulation = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).view(1, 1, 2, 2)
    picture = depth_picture(depth, accumulation)
    assert picture.shape == (1, 3, 2, 2)
    torch.testing.assert_close(picture[0, 0].flatten(), torch.tensor([1.0, 0.5, 0.25, 0.0]))
    torch.testing.assert_close(depth_picture(7 * depth, accumulation), picture)  # any unit
    stretched = depth_picture(depth, torch.ones_like(depth))[0, 1].flatten()
    torch.testing.assert_close(stretched, torch.tensor([1.0, 1 / 3, 0.0, 1 / 9]))
    assert torch.isfinite(depth_picture(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))).all()


def test_a_floater_near_the_camera_does_not_flatten_the_depth_of_everything_else():
    depth = torch.linspace(2.0, 4.0, 64).expand(1, 1, 64, 64).clone()
    clean = depth_picture(depth, torch.ones_like(depth))
    depth[..., :4, :4] = 0.05  # 0.4 % of the picture
    picture = depth_picture(depth, torch.ones_like(depth))
    assert (picture[..., 8:, :] - clean[..., 8:, :]).abs().max() < 0.02
    assert (picture[..., :4, :4] == 1).all()


def test_the_depth_of_an_object_that_fills_little_of_the_picture_is_stretched_over_the_object():
    depth, accumulation = torch.full((1, 1, 100, 100), 9.0), torch.zeros(1, 1, 100, 100)
    depth[..., 45:55, 45:55] = torch.linspace(2.0, 4.0, 10)  # 1 % of it
    accumulation[..., 45:55, 45:55] = 1.0
    shown = depth_picture(depth, accumulation)[0, 0, 45:55, 45:55]
    torch.testing.assert_close(shown, (2.0 / torch.linspace(2.0, 4.0, 10)).expand(10, -1))


def test_details_are_what_blocks_average_away():
    checks = (torch.arange(16)[:, None] + torch.arange(24)) % 2 - 0.5
    torch.testing.assert_close(details(checks.expand(2, 3, -1, -1), 4), checks.expand(2, 3, -1, -1))
    assert not details(torch.full((1, 3, 16, 24), 0.3), 4).any()
    ramp = torch.linspace(0, 1, 24).expand(1, 3, 16, -1)
    assert details(ramp, 4)[..., 2:-2].abs().max() < 1e-6
