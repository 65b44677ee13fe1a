"""A prior on another device than the scene, stood in for by torch's meta device.

What is brought back from that device has the right shape and arbitrary values. Methods with adapters are left out: peft
does not put adapters on the meta device.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pds_nerfstudio.pipelines import plan
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.scenes.source import find_run, load_source_state

from .conftest import PROMPTS
from .test_edit import TOYBOX, scene_of

SPLATS = "_model.gauss_params.features_dc"


class BroughtBack(TorchDispatchMode):
    """Within this block a meta tensor can be copied to the CPU, in backward as well, and any other operation on both is
    an error, as between two GPUs: torch itself lets some of them pass."""

    MAY_MIX = ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put", "aten::index_put_")

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.copies = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.dim() or tensor.is_meta}
        if len(devices) > 1 and func._schema.name not in self.MAY_MIX:
            raise RuntimeError(f"{func} was given tensors on {sorted(devices)}")
        if func is torch.ops.aten._to_copy.default and args[0].is_meta:
            device = torch.device(kwargs.get("device") or "meta")
            if device.type == "cpu":
                self.copies += 1
                values = torch.rand(args[0].shape, generator=self.generator)
                return values.to(kwargs.get("dtype") or args[0].dtype)
        return func(*args, **kwargs)


def test_the_stand_in_notices_what_two_devices_do_not_forgive():
    near, far = torch.ones(3, requires_grad=True), torch.ones(3, device="meta")
    with BroughtBack() as copies:
        with pytest.raises(RuntimeError, match="tensors on"):
            near[None] @ far[:, None]
        with pytest.raises(RuntimeError, match="meta"):
            far.sum().item()
        (near.to("meta") * far).to("cpu").sum().backward()
        assert near.grad.device.type == "cpu"
    assert copies.copies == 2


def test_what_a_prior_returns_lies_where_its_input_did():
    with BroughtBack():
        prior = load_prior("toybox", "meta")
        images = torch.rand(1, 3, 32, 32, requires_grad=True)
        latents = prior.encode(images)
        decoded, features = prior.decode(latents.detach()), prior.features(images)
        latents.sum().backward()
    assert prior.device.type == "meta"
    assert all(tensor.device.type == "cpu" for tensor in (latents, decoded, *features, images.grad))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("pds-edit-splat", ()),
        ("pnr-edit-splat", ("--pipeline.refine-steps", 1, "--pipeline.eta", 0.1, "--pipeline.hold-details", 0.1)),
        ("sdedit-refine-splat", ("--pipeline.num-steps", 2)),
        ("idu-edit-splat", ("--pipeline.num-steps", 2)),
    ],
)
def test_an_edit_with_its_prior_on_another_device_runs_to_its_end(ns_train, toy_splats, monkeypatch, method, settings):
    monkeypatch.setattr(plan, "require_device", lambda *_: None)  # nobody computes on the meta device
    with BroughtBack() as copies:
        config = ns_train(
            *(method, "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX[:6], "--max-num-iterations", 3),
            *("--pipeline.prior-device", "meta", *settings),
        )
    assert copies.copies > 0
    before, after = load_source_state(find_run(toy_splats))[SPLATS], scene_of(config)[SPLATS]
    assert after.isfinite().all()
    assert not torch.equal(before, after)
