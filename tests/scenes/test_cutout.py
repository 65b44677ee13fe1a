"""Outlines from coarse maps."""

import torch
import torch.nn.functional as F

from pds_nerfstudio.scenes.cutout import cut_out


def discs() -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of two red discs on noisy gray, and which pixels the left one covers."""
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    left, right = (((rows - 48) ** 2 + (columns - x) ** 2).sqrt() < 17 for x in (26, 74))
    image = 0.5 + 0.05 * torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    image[0, :, left | right] = torch.tensor([0.8, 0.1, 0.1])[:, None]
    return image.clamp(0, 1), left


def test_a_map_of_eight_pixels_a_cell_is_brought_to_the_outline_of_one_of_two_like_things():
    image, truth = discs()
    coarse = F.avg_pool2d(truth.float()[None, None], 12)[0, 0]
    assert coarse.shape == (8, 8)
    found = cut_out(image, 3 + 0.1 * coarse) > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.95


def test_a_map_that_says_nothing_finds_nothing():
    image, _ = discs()
    assert cut_out(image, torch.full((8, 8), 0.3)).sum() == 0
