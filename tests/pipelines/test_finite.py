"""What of a step has to be finite, and draws that disturb no others."""

import pytest
import torch

from pds_nerfstudio.draws import own_draws
from pds_nerfstudio.pipelines.distributed import NonFiniteGradient
from pds_nerfstudio.pipelines.finite import FiniteChecks


def test_the_first_tensor_that_is_not_finite_is_named_once():
    checks = FiniteChecks()
    for name, value in (("a", 1.0), ("b", torch.inf), ("c", torch.nan)):
        checks.watch(torch.tensor([0.0, value]), lambda name=name: f"gradient {name}")
    with pytest.raises(NonFiniteGradient, match=r"^gradient b is not finite$"):
        checks.require()
    checks.require()


def test_what_an_unfinished_step_left_behind_does_not_count():
    checks = FiniteChecks()
    checks.watch(torch.tensor(torch.nan), lambda: "the gradient")
    checks.forget()
    checks.watch(torch.ones(2, requires_grad=True), lambda: pytest.fail("it is finite"))
    checks.require()


def test_draws_of_ones_own_leave_all_others_as_they_were():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with own_draws(torch.device("cpu"), 7):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(7)))
