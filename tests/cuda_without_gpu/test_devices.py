"""Whether the pretended GPU notices what a real one would."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from .devices import PretendedCuda


@pytest.fixture
def cuda():
    with PretendedCuda(2) as pretended:
        yield pretended


def kinds(cuda: PretendedCuda) -> list[str]:
    return [event.kind for event in cuda.events]


def test_tensors_say_that_they_are_on_the_device_they_were_sent_to(cuda):
    x = torch.ones(3, device="cuda")
    assert x.is_cuda
    assert not x.is_cpu
    assert (2 * x).sum().device == torch.device("cuda:0")
    assert x.to("cuda:1").get_device() == 1
    assert x.half().to("cpu", torch.float64).device == torch.device("cpu")
    assert x.new_zeros(2).is_cuda
    assert torch.zeros_like(x).is_cuda
    assert torch.nn.Linear(3, 3).to("cuda")(x).is_cuda
    assert torch.nn.Linear(3, 3).to(x)(x).is_cuda
    assert torch.nn.Linear(3, 3).to(device="cuda", dtype=torch.float64)(x.double()).is_cuda
    assert "mismatch" not in kinds(cuda)


@pytest.mark.parametrize(
    "planted",
    [
        lambda x: x + torch.ones(3),
        lambda x: x + x.to("cuda:1"),
        lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
        lambda x: torch.zeros(()).add_(x.sum()),
        lambda x: torch.nn.Linear(3, 3)(x),
        lambda x: x.numpy(),
        lambda x: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda x: x.normal_(generator=torch.Generator()),
        lambda x: torch.ones(3)[x.long()],
    ],
)
def test_what_a_gpu_refuses_is_noticed(cuda, planted):
    planted(torch.ones(3, device="cuda"))
    assert kinds(cuda).count("mismatch") >= 1


def test_a_mismatch_in_backward_is_noticed(cuda):
    weight = torch.ones(3, device="cuda", requires_grad=True)
    (weight * weight).sum().backward()
    assert kinds(cuda) == []
    weight.register_hook(lambda gradient: gradient * torch.ones(3))
    weight.sum().backward()
    assert kinds(cuda) == ["mismatch"]


@pytest.mark.parametrize(
    "planted",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.isfinite().all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: torch.equal(x, x),
        lambda x: torch.unique(x),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_what_the_host_waits_for_is_noticed(cuda, planted):
    x = torch.ones(3, device="cuda")
    planted(x)
    assert set(kinds(cuda)) == {"wait"}


def test_copies_to_a_gpu_are_noticed_and_arithmetic_with_numbers_is_not(cuda):
    x = torch.ones(3, device="cuda")
    y = 2 * x + torch.tensor(1.0)  # a number on the CPU goes along with the call
    assert kinds(cuda) == []
    torch.ones(3).to(y)
    y[torch.tensor([0, 2])]
    torch.tensor([1.0], device="cuda")
    assert kinds(cuda) == ["fetch", "fetch", "fetch"]


def test_gradients_come_back_to_where_their_tensors_are(cuda):
    near = torch.ones(3, requires_grad=True)
    far = torch.ones(3, device="cuda:1", requires_grad=True)
    checkpoint(lambda x: (near.to(x) * x).sum(), far, use_reentrant=False).backward()
    assert near.grad is not None
    assert far.grad is not None
    assert (near.grad.device.type, far.grad.device) == ("cpu", torch.device("cuda:1"))
    assert "mismatch" not in kinds(cuda)


def test_an_optimiser_step_under_autocast_and_a_scaler_mismatches_nothing(cuda):
    layer = torch.nn.Linear(3, 1).to("cuda")
    optimizer, scaler = torch.optim.Adam(layer.parameters()), torch.amp.GradScaler("cuda", init_scale=8)
    with torch.autocast("cuda"):
        out = layer(torch.ones(2, 3, device="cuda"))
    assert out.dtype == torch.float16
    before = layer.weight.detach().clone()
    scaler.scale(out.float().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, layer.weight)
    assert "mismatch" not in kinds(cuda)


def test_an_event_knows_its_place(cuda):
    torch.ones(3, device="cuda").sum().item()
    assert cuda.events[0].place.endswith("test_an_event_knows_its_place")


def test_the_machine_is_itself_again_afterwards():
    before = torch.cuda.is_available, torch.autocast
    with PretendedCuda():
        x = torch.ones(2, device="cuda")
    assert x.device.type == "cpu"
    assert (torch.cuda.is_available, torch.autocast) == before


def test_what_backward_computes_again_knows_its_device(cuda):
    weight = torch.ones(3, device="cuda", requires_grad=True)

    def chunk(x: torch.Tensor) -> torch.Tensor:
        assert x.is_cuda
        return (x * torch.arange(3, device=x.device)).sum()

    checkpoint(chunk, weight, use_reentrant=False).backward()
    assert kinds(cuda) == []
