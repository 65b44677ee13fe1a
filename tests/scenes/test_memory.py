"""Chunks of rays are as large as the memory allows, and what a recomputed rendering keeps does not grow with them."""

import pytest
import torch

from pds_nerfstudio.scenes import nerf
from pds_nerfstudio.scenes.families import render, scene_of
from pds_nerfstudio.scenes.memory import (
    CHUNK_BYTES,
    FEWEST_RAYS,
    MOST_RAYS,
    MOST_UNSEEN,
    kept_for_backward,
    rays_that_fit,
)


def test_a_ray_is_measured_as_a_whole_rendering_keeps_it(nerfacto, camera):
    model = nerfacto().train()
    with kept_for_backward(model.parameters()) as kept:
        rendering = render(model, camera(1), recompute=False, regularise=True)
    with torch.no_grad():  # as in a probe that takes no step
        per_ray = scene_of(model).bytes_per_ray(regularise=True)
    assert abs(kept.bytes / rendering.image[0, 0].numel() / per_ray - 1) < 0.1


def test_measuring_leaves_randomness_and_gradients_alone(nerfacto):
    model = nerfacto().train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    scene_of(model).bytes_per_ray(regularise=True)
    assert torch.equal(torch.rand(2), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_recomputed_rendering_keeps_next_to_nothing_beside_its_image(nerfacto, camera):
    model = nerfacto().train()
    kept_by_size = []
    for height, width in ((8, 8), (16, 16)):
        with kept_for_backward(model.parameters()) as kept:
            rendering = render(model, camera(0, height, width), recompute=True, rays_per_chunk=16, regularise=True)
            loss = rendering.image.square().sum() + sum(rendering.regulariser.values())
        del loss
        kept_by_size.append(kept.bytes / (height * width))
    assert max(kept_by_size) < 100 < scene_of(model).bytes_per_ray() / 10


def test_no_more_than_one_chunk_of_tiny_cuda_nns_buffers_lives_at_a_time(nerfacto, camera, native, monkeypatch):
    model = nerfacto(implementation="tcnn").train()
    most, build = 0, native.Context.__init__

    def counted(context, *args):
        nonlocal most
        build(context, *args)
        most = max(most, len(native.Context.alive))

    def most_alive(chunks: int) -> int:
        nonlocal most
        most = 0
        model.zero_grad()
        rendering = render(model, camera(0, 8, 8), rays_per_chunk=64 // chunks, regularise=True)
        assert not native.Context.alive
        (rendering.image.square().sum() + sum(rendering.regulariser.values())).backward()
        return most

    monkeypatch.setattr(native.Context, "__init__", counted)
    assert most_alive(2) == most_alive(8) > 0
    assert model.field.mlp_base.model.params.grad.any()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chunks_fit_a_quarter_of_the_memory_within_bounds(device):
    assert rays_that_fit(2.0**20, device=device) == CHUNK_BYTES[device] // 2**20
    assert rays_that_fit(2.0**20, 2.0**30, device) == 256
    assert rays_that_fit(2.0**20, 0.0, device) == FEWEST_RAYS
    assert rays_that_fit(1.0, device=device) == MOST_RAYS[device]
    assert rays_that_fit(1.0, device=device, most=MOST_UNSEEN) == MOST_UNSEEN


def test_chunks_keep_within_a_budget(nerfacto):
    scene = scene_of(nerfacto().train())
    per_ray = nerf.BACKWARD * scene.bytes_per_ray()
    assert scene.chunks(None, budget=800 * per_ray).rays == 200


def test_tiny_cuda_nn_is_given_no_more_rays_than_it_trains_on(nerfacto, native, monkeypatch):
    del native  # stands in for it
    given = []
    monkeypatch.setattr(nerf, "rays_that_fit", lambda per_ray, free, device, most: given.append(most) or 64)
    for implementation in ("torch", "tcnn"):
        scene_of(nerfacto(implementation=implementation).train()).chunks(None)
    assert given == [None, MOST_UNSEEN]
