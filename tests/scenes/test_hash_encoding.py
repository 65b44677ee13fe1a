"""Our lookup in hash tables beside nerfstudio's own."""

import pytest
import torch
from nerfstudio.field_components.encodings import HashEncoding

from pds_nerfstudio.scenes.hash_encoding import hash_encoding

LEVELS, FEATURES = 6, 2


@pytest.fixture
def encoding(request) -> HashEncoding:
    torch.manual_seed(0)
    module = HashEncoding(LEVELS, 4, 200, log2_hashmap_size=9, features_per_level=FEATURES, implementation="torch")
    torch.nn.init.normal_(module.hash_table)
    return module


@pytest.fixture
def positions() -> torch.Tensor:
    """Within cells, on their faces, on their corners, and at both ends."""
    inside = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(1))
    inside[0, 0] = 0
    inside[0, 1] = 1
    inside[0, 2] = torch.tensor([0.25, 0.5, 0.75])
    inside[0, 3, 0] = 0.5
    return inside


def theirs(encoding: HashEncoding, positions: torch.Tensor) -> torch.Tensor:
    """The definition, corner by corner: `hash_fn` is nerfstudio's."""
    scaled = positions[..., None, :] * encoding.scalings[:, None]
    low, offset = scaled.floor(), scaled - scaled.floor()
    features = torch.zeros(*scaled.shape[:-1], FEATURES)
    for corner in range(8):
        high = torch.tensor([corner >> axis & 1 for axis in range(3)], dtype=torch.bool)
        vertex = torch.where(high, scaled.ceil(), low).int()
        weight = torch.where(high, offset, 1 - offset).prod(-1)
        features = features + encoding.hash_table[encoding.hash_fn(vertex)] * weight[..., None]
    return features.flatten(-2)


def test_features_are_nerfstudios(encoding, positions):
    ours = hash_encoding(positions, encoding.hash_table, encoding.scalings)
    torch.testing.assert_close(ours, theirs(encoding, positions))


def test_gradients_of_the_table_and_of_positions_are_nerfstudios(encoding, positions):
    positions[0, :4] += 0.003  # on a face a slope is that of either side
    positions = positions.requires_grad_()
    direction = torch.randn(5, 7, LEVELS * FEATURES, generator=torch.Generator().manual_seed(2))
    wanted = positions, encoding.hash_table
    ours = torch.autograd.grad((hash_encoding(positions, *_of(encoding)) * direction).sum(), wanted)
    expected = torch.autograd.grad((theirs(encoding, positions) * direction).sum(), wanted)
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_nothing_but_positions_is_kept_for_the_backward_pass(encoding, positions):
    kept = []
    positions = positions.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        hash_encoding(positions, *_of(encoding))
    assert {tuple(value.shape) for value in kept} == {(35, 3), (LEVELS * 512, FEATURES), (LEVELS,)}


def test_nerfstudios_own_encoding_looks_up_so(encoding, positions):
    encoding.hash_fn = None  # what nerfstudio's own would ask
    torch.testing.assert_close(encoding(positions), hash_encoding(positions, *_of(encoding)))


def _of(encoding: HashEncoding) -> tuple[torch.Tensor, torch.Tensor]:
    return encoding.hash_table, encoding.scalings


def test_no_positions_have_no_features_and_move_nothing(encoding):
    nowhere = torch.rand(3, 0, 3)
    features = hash_encoding(nowhere, encoding.hash_table, encoding.scalings)
    assert features.shape == (3, 0, LEVELS * FEATURES)
    (gradient,) = torch.autograd.grad(features.sum(), encoding.hash_table)
    assert not gradient.any()
