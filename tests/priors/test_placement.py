"""Where text encoders read, and in what precision a GPU learns: as the GPU says, which is pretended here."""

from contextlib import ExitStack

import pytest
import torch

from pds_nerfstudio.priors import dreambooth
from pds_nerfstudio.priors.text_encoders import brought_to

GIB = 2**30


class Encoder(torch.nn.Module):
    """Of one GiB, without holding it."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.weight = torch.nn.Parameter(torch.empty(GIB // 4, device="meta"))

    def to(self, place):
        self.places.append(torch.device(place).type)


@pytest.mark.parametrize(("free", "kept", "place"), [(2.0, 0, "cuda"), (0.5, 0, "cpu"), (0.5, 1.0, "cuda")])
def test_an_encoder_reads_on_the_gpu_where_it_fits_beside_what_torch_really_holds(monkeypatch, free, kept, place):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GIB), 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int((8 + kept) * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 8 * GIB)
    encoder = Encoder()
    with ExitStack() as stack:
        where = stack.enter_context(brought_to(torch.device("cuda"), [encoder]))
    assert where.type == place
    assert encoder.places == [place, "cpu"]


def test_a_card_that_emulates_bfloat16_learns_in_float16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert dreambooth._precision("auto") == "fp16"
