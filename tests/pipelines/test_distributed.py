"""Two processes (gloo, CPU) edit as one: nerfstudio's own launch does the same, but insists on CUDA."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines import distributed
from pds_nerfstudio.pipelines.settings_tree import write

from .conftest import PROMPTS

pytestmark = pytest.mark.slow

STEPS = 3


def configured(run: Path, out: Path, **changes):
    """A perturbed splat edit, prepared as `ns-train` prepares it."""
    config = copy.deepcopy(METHODS["pnr-edit-splat"].config)
    config.load_dir, config.output_dir, config.vis = run.parent, out, "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.pipeline.src_prompt, config.pipeline.tgt_prompt = PROMPTS[1], PROMPTS[3]
    config.pipeline.prior, config.pipeline.view.resolution = "toybox", 32
    perturbation = config.pipeline.perturbation
    perturbation.eta, perturbation.probe_steps, perturbation.minimum_decrease = "auto", 20, 1e5
    perturbation.perturb = "everywhere"
    config.pipeline.edit_steps, config.pipeline.refinement.refine_steps = STEPS, 0
    for name, value in changes.items():
        write(config.pipeline, name, value)
    config.set_timestamp()
    return config


def gradients_of_first_step(trainer) -> dict[str, torch.Tensor]:
    """Mean gradient over all processes at step 0, and the views that this one showed."""
    trainer.optimizers.zero_grad_all()
    losses = trainer.pipeline.get_train_loss_dict(0)[1]
    sum(losses.values()).backward()
    parameters = dict(trainer.pipeline.model.named_parameters())
    distributed.average_gradients(list(parameters.values()))
    return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


def edit_as(rank: int, config, out: Path) -> None:
    """What each of two processes does; it leaves a file of what it saw."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/store", world_size=2, rank=rank)
    trainer = config.setup(local_rank=rank, world_size=2)
    trainer.setup()
    seen = {"gradients": gradients_of_first_step(trainer), "views": sorted(trainer.pipeline.sources.made)}

    def recorded(eta: float) -> None:
        torch.manual_seed(rank)  # the fresh draw must not depend on it
        type(trainer.pipeline).perturb_scene(trainer.pipeline, eta)
        seen["eta"] = eta
        seen["perturbed"] = {name: p.detach().clone() for name, p in trainer.pipeline.model.named_parameters()}

    trainer.pipeline.perturb_scene = recorded
    trainer.train()
    seen["edited"] = {name: p.detach().clone() for name, p in trainer.pipeline.model.named_parameters()}
    torch.save(seen, out / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(toy_splats, tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder of an edit by two processes, and what each saw."""
    out = tmp_path_factory.mktemp("distributed")
    mp.spawn(edit_as, (configured(toy_splats, out), out), nprocs=2)
    return out, [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


def test_two_processes_have_the_gradients_of_one_with_the_same_two_views(together, toy_splats, tmp_path):
    _, (first, second) = together
    config = configured(toy_splats, tmp_path, views_per_step=2)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    alone = gradients_of_first_step(trainer)
    assert first["views"] != second["views"]
    assert sorted(first["views"] + second["views"]) == sorted(trainer.pipeline.sources.made)
    assert alone.keys() == first["gradients"].keys()
    for name, gradient in alone.items():
        assert torch.equal(first["gradients"][name], second["gradients"][name]), name
        if gradient.numel():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(first["gradients"][name], gradient, atol=1e-5 * scale, rtol=0, msg=name)
    assert alone["gauss_params.means"].any()


def test_they_decide_alike_perturb_alike_and_end_alike(together, toy_splats):
    _, (first, second) = together
    source = torch.load(next(toy_splats.parent.rglob("*.ckpt")))["pipeline"]
    assert first["eta"] == second["eta"] > 0
    for state in ("perturbed", "edited"):
        for name, value in first[state].items():
            assert torch.equal(value, second[state][name]), f"{state} {name}"
    name = "gauss_params.means"
    assert not torch.equal(first["perturbed"][name], source[f"_model.{name}"])
    assert not torch.equal(first["edited"][name], first["perturbed"][name])


def test_only_the_first_writes_a_checkpoint_and_it_is_an_ordinary_one(together):
    out, _ = together
    (checkpoint,) = out.rglob("step-*.ckpt")
    assert checkpoint.name == f"step-{STEPS - 1:09d}.ckpt"
    assert not any("module." in name for name in torch.load(checkpoint)["pipeline"])
    assert not list(out.rglob(".partial-*"))
