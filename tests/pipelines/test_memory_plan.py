"""An edit says beforehand what it will take, and takes less where it has to, with the same result."""

import weakref
from types import SimpleNamespace

import pytest
import torch
from tiny_priors import PROMPTS as WORDS
from tiny_priors import write_flux, write_sana, write_sdxl
from torch.utils.flop_counter import FlopCounterMode

from pds_nerfstudio.estimates import CONTEXT, GIB, UNCOUNTED
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.objectives.base import differentiated_now
from pds_nerfstudio.pipelines.base import EditPipeline
from pds_nerfstudio.pipelines.memory_plan import Demand, available_memory, plan_memory
from pds_nerfstudio.pipelines.settings import NerfCompute
from pds_nerfstudio.pipelines.trainer import EditTrainer
from pds_nerfstudio.priors import footprint
from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.footprint import count
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.work import count_work
from pds_nerfstudio.scenes.memory import kept_for_backward

from .conftest import PROMPTS
from .test_edit import TOYBOX as FLAGS
from .test_edit import scene_of

CPU = {"dtype": torch.float32, "vae_dtype": torch.float32}


@pytest.mark.parametrize("recompute", [False, True])
def test_what_the_encoder_is_counted_to_keep_is_what_autograd_saves(recompute):
    prior = load_prior("toybox", "cpu", recompute_encoder=recompute)
    image = torch.rand(2, 3, 64, 96, requires_grad=True)
    with kept_for_backward(prior.vae.parameters()) as kept:
        prior.encode(image)
    counted = count(TOYBOX, 64, 96, views=2, recompute_encoder=recompute, **CPU)
    assert counted.kept_by_encoder == pytest.approx(kept.bytes, rel=0.1)


def test_what_is_differentiated_now_keeps_nothing_and_changes_no_gradient():
    """Beside another loss of the same picture."""
    prior, given = load_prior("toybox", "cpu"), torch.rand(1, 3, 32, 32)
    made: list[weakref.ref] = []

    def compared(image: torch.Tensor) -> torch.Tensor:
        features = prior.features(image)
        made.extend(map(weakref.ref, features))
        return 3 * sum(feature.square().sum() for feature in features)

    gradients, values = [], []
    for now in (True, False):
        image = given.clone().requires_grad_()
        loss = differentiated_now(compared, image) if now else compared(image)
        assert all((feature() is None) == now for feature in made)
        (loss + prior.encode(image).square().sum()).backward()
        gradients.append(image.grad)
        values.append(loss.detach())
        made.clear()
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(*values)
    assert differentiated_now(compared, given) == values[0]


def test_features_run_again_in_backward_have_the_same_gradient():
    gradients = []
    for recompute in (False, True):
        prior, image = load_prior("toybox", "cpu", recompute_encoder=recompute), torch.full((1, 3, 32, 32), 0.3)
        image[..., 8:] = 0.6
        sum(feature.square().sum() for feature in prior.features(image.requires_grad_())).backward()
        gradients.append(image.grad)
    torch.testing.assert_close(*gradients)


def test_memory_that_runs_out_twice_is_answered_by_each_mend_once():
    """Where the encoder runs again already, a NeRF's rays are fewer still."""
    pipeline = EditPipeline.__new__(EditPipeline)
    torch.nn.Module.__init__(pipeline)
    compute = NerfCompute(recompute_encoder=True)
    pipeline.config = SimpleNamespace(compute=compute)
    pipeline.__dict__["prior"] = None
    pipeline.__dict__["_model"] = None
    chunks = SimpleNamespace(chunks=lambda given: SimpleNamespace(rays=given or 4096))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(EditPipeline, "scene", chunks)
        assert pipeline.economise() == "1024 rays are rendered at once"
        assert pipeline.economise() is None
    assert compute.rays_per_chunk == 1024


def test_a_step_is_counted_as_the_package_runs_it():
    prior, image = load_prior("toybox", "cpu"), torch.rand(1, 3, 64, 96, requires_grad=True)
    prior.embed(""), prior.embed("a ball")
    with FlopCounterMode(display=False) as counter:
        x0 = prior.encode(image)
        t = torch.tensor([500])
        prior.predict_noise([Query(x0.detach(), t, "a ball", 7.5)])
        x0.sum().backward()
    work = count_work(TOYBOX, 64, 96)
    assert counter.get_total_flops() == pytest.approx(work.of_step(rows=2, lessons=0), rel=0.01)
    assert work.of_step(rows=3, lessons=2) == 7 * work.row + work.encoder + work.back


def test_weights_are_counted_to_the_byte():
    prior = load_prior("toybox", "cpu")
    networks = (prior.vae, prior.unet, prior.text_encoder)
    held = sum(value.nbytes for network in networks for value in network.parameters())
    assert count(TOYBOX, 64, 64, **CPU).weights == held


def test_more_views_rows_and_adapters_take_more():
    one = count(TOYBOX, 64, 64, **CPU)
    assert count(TOYBOX, 64, 64, views=2, **CPU).kept_by_encoder == pytest.approx(2 * one.kept_by_encoder, rel=0.01)
    assert count(TOYBOX, 64, 64, rows=8, **CPU).denoiser > 1.8 * one.denoiser
    two = count(TOYBOX, 64, 64, adapters=2, **CPU)
    assert two.kept_by_adapters == 2 * count(TOYBOX, 64, 64, adapters=1, **CPU).kept_by_adapters > 0
    assert count(TOYBOX, 64, 64, differentiated=False, **CPU).kept_by_encoder == 0


def test_the_encoder_is_run_twice_only_where_the_step_would_not_fit():
    def planned(available: float):
        return plan_memory(
            TOYBOX, (64, 64), Demand(views=64), [torch.zeros(1000)], available, recompute_encoder=False, **CPU
        )

    roomy = planned(100 * GIB)
    assert roomy.fits
    assert not roomy.recompute_encoder
    tight = planned(roomy.total - 1)
    assert tight.recompute_encoder
    assert tight.fits
    assert tight.prior.kept_by_encoder < roomy.prior.kept_by_encoder
    hopeless = planned(CONTEXT)
    assert not hopeless.fits
    assert "--pipeline.vae-precision bf16" in str(hopeless)
    assert roomy.scene == 5 * 4000
    assert roomy.total == UNCOUNTED * (roomy.prior.total + roomy.scene) + CONTEXT


def test_nobody_asks_without_a_gpu():
    assert available_memory("off", torch.device("cuda")) is None
    assert available_memory("auto", torch.device("cpu")) is None
    assert available_memory(12, torch.device("cpu")) == 12 * GIB


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "sana"])
def test_an_edit_that_runs_out_of_memory_once_ends_where_it_would_have(
    ns_train, toy_splats, monkeypatch, capfd, tmp_path, family
):
    """Whatever family's encoder is then run again: SANA's autoencoder has blocks of its own kind."""
    prior = "toybox" if family == "sd" else write_sana(tmp_path / "sana")
    told = ("--pipeline.src-prompt", WORDS[0], "--pipeline.tgt-prompt", WORDS[1], "--pipeline.recipe", "none")
    edit = ("--load-dir", toy_splats.parent, *told, "--pipeline.prior", prior, "--pipeline.resolution", 32)
    edit += ("--max-num-iterations", 3)
    straight = scene_of(ns_train("pds-edit-splat", *edit, "--timestamp", "straight"))
    step_of = EditTrainer.__mro__[1].train_iteration
    failed: list[int] = []

    def short_of_memory(self, step):
        if step == 1 and not failed:
            failed.append(step)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return step_of(self, step)

    monkeypatch.setattr(EditTrainer.__mro__[1], "train_iteration", short_of_memory)
    config = ns_train("pds-edit-splat", *edit, "--timestamp", "short", "--pipeline.fit", 12)
    printed = " ".join(capfd.readouterr().out.split())
    assert failed == [1]
    assert "GiB expected on the prior's device" in printed
    assert "Memory ran out at step 1, which is run again" in printed
    ended = scene_of(config)
    for name, value in straight.items():
        assert torch.allclose(ended[name], value, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("write", [write_sdxl, write_flux])
def test_a_family_whose_guidance_is_distilled_is_asked_once_where_others_are_asked_twice(write, tmp_path, monkeypatch):
    asked, inputs_of = [], footprint.inputs_of

    def noted(denoiser, family, rows, *rest):
        asked.append(rows)
        return inputs_of(denoiser, family, rows, *rest)

    monkeypatch.setattr(footprint, "inputs_of", noted)
    count(write(tmp_path / "prior"), 64, 64, views=3, rows=2, differentiated=False, **CPU)
    assert asked == [3 if write is write_flux else 6]


@pytest.mark.slow
def test_an_edit_that_runs_out_of_memory_again_says_what_needs_less(ns_train, toy_splats, monkeypatch, capfd):
    def never(self, step):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    monkeypatch.setattr(EditTrainer.__mro__[1], "train_iteration", never)
    with pytest.raises(SystemExit):
        ns_train(
            *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *FLAGS, "--max-num-iterations", 3),
            "--pipeline.recompute-encoder",
            "True",
        )
    said = capfd.readouterr().err
    assert "does not fit into the GPU's memory" in said
    assert "Traceback" not in said


def test_an_edit_by_a_prior_in_eight_bits_takes_its_steps(toy_splats, ns_train):
    edit = ("--load-dir", toy_splats.parent, "--pipeline.prior", "toybox", "--pipeline.weights", "8bit")
    prompts = ("--pipeline.src-prompt", "a photo of a red can", "--pipeline.tgt-prompt", "a photo of a red cone")
    config = ns_train("pds-edit-splat", *edit, *prompts, "--max-num-iterations", 2)
    assert list(config.get_base_dir().rglob("step-*.ckpt"))
