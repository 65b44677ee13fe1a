"""What a user is meant to read ends a command in one sentence; everything else stays what it is."""

import pytest

from pds_nerfstudio.errors import one_sentence


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("9 GiB"),
        RuntimeError("CUDA out of memory. Tried to allocate 1.00 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_a_lack_of_memory_is_one_sentence(error, capfd):
    with pytest.raises(SystemExit) as end, one_sentence():
        raise error
    assert end.value.code == 1
    said = capfd.readouterr().err
    assert said.startswith("Error: Memory has run out: close what else uses it")
    assert len(said.splitlines()) == 1


def test_an_error_of_ours_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), one_sentence():
        raise RuntimeError("shapes do not match")
