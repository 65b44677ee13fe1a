"""Perturb-and-Revise through `ns-train`: the perturbation, the probe, the two stages, and resuming in either."""

import contextlib
import copy
import re
from types import SimpleNamespace

import pytest
import torch

from pds_nerfstudio.draws import seed_apart
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.objectives import DDS, DVRF, SDS
from pds_nerfstudio.objectives.perturb import loss_increase
from pds_nerfstudio.pipelines.distillation import DistillationPipeline
from pds_nerfstudio.pipelines.revise import ReviseConfig, RevisePipeline
from pds_nerfstudio.pipelines.settings import Perturbation, Refinement
from pds_nerfstudio.pipelines.source_views import SourceView
from pds_nerfstudio.scenes.rendering import Rendering
from pds_nerfstudio.scenes.source import find_run, fingerprint, load_source_state

from .conftest import PROMPTS
from .test_edit import TOYBOX, scene_of

pytestmark = pytest.mark.slow

SHORT = ("--pipeline.refine-steps", 2, "--max-num-iterations", 4)


def test_splats_are_perturbed_everywhere_or_where_relevant_and_the_source_run_never(ns_train, toy_splats):
    before = fingerprint(toy_splats.parent)
    source = load_source_state(find_run(toy_splats))["_model.gauss_params.means"]
    still = ("--pipeline.refine-steps", 0, "--max-num-iterations", 1)
    moved = {}
    for eta, where in ((0.0, "everywhere"), (0.5, "everywhere"), (0.5, "relevant")):
        config = ns_train(
            *("pnr-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, *still),
            *("--pipeline.eta", eta, "--pipeline.perturb", where, "--pipeline.resolution", 64),
        )
        distance = (scene_of(config)["_model.gauss_params.means"] - source).norm(dim=-1)
        moved[eta, where] = float((distance > 0.01).float().mean())  # one step of Adam is shorter
    assert moved[0.0, "everywhere"] == 0
    assert moved[0.5, "everywhere"] > 0.9
    assert 0.02 < moved[0.5, "relevant"] < 0.6
    assert fingerprint(toy_splats.parent) == before


@pytest.mark.parametrize("method", ["pnr-edit", "pnr-edit-splat"])
def test_both_stages_run_and_the_log_says_what_was_done(ns_train, toy_nerf, toy_splats, method, capsys):
    run = toy_splats if method.endswith("-splat") else toy_nerf
    config = ns_train(method, "--load-dir", run.parent, *PROMPTS, *TOYBOX, *SHORT, "--pipeline.eta", 0.3)
    output = " ".join(capsys.readouterr().out.split())
    assert "η = 0.3" in output
    assert "perceptual loss" in output
    assert (config.pipeline.edit_steps, config.pipeline.refinement.refine_steps) == (2, 2)
    assert find_run(config.get_base_dir()).step == 3
    assert all(value.isfinite().all() for value in scene_of(config).values())


def test_an_edit_resumed_in_either_stage_goes_on_in_it(ns_train, toy_splats):
    """A perturbation at the second start would leave the two far apart."""
    edit = (*PROMPTS, *TOYBOX, "--pipeline.eta", 0.4, "--pipeline.refine-steps", 6, "--max-num-iterations", 12)
    straight = ns_train(
        *("pnr-edit-splat", "--load-dir", toy_splats.parent, *edit),
        *("--steps-per-save", 3, "--save-only-latest-checkpoint", "False"),
    )
    straight_scene = scene_of(straight)
    folder = straight.get_base_dir() / straight.relative_model_dir
    for step in (3, 9):
        resumed = ns_train("pnr-edit-splat", "--load-dir", folder, "--load-step", step)
        assert find_run(resumed.get_base_dir()).step == 11
        for name, value in scene_of(resumed).items():
            if "gauss_params" in name and value.numel():
                assert (value - straight_scene[name]).abs().max() < 0.05 * value.std() + 1e-3, (step, name)


def test_auto_probes_says_what_it_measured_and_forgets_what_it_probed(ns_train, toy_splats, capsys, monkeypatch):
    begun, seen = RevisePipeline.begin, {}

    def watched(self, probe):
        def recorded(steps):
            before = {name: value.clone() for name, value in self.model.state_dict().items()}
            seen["losses"] = probe(steps)
            seen["same"] = all(torch.equal(value, before[name]) for name, value in self.model.state_dict().items())
            return seen["losses"]

        begun(self, recorded)

    monkeypatch.setattr(RevisePipeline, "begin", watched)
    ns_train(
        *("pnr-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX),
        *("--pipeline.eta", "auto", "--pipeline.probe-steps", 20, "--pipeline.minimum-decrease", 5.0),
        *("--pipeline.refine-steps", 0, "--max-num-iterations", 1),
    )
    output = " ".join(capsys.readouterr().out.split())
    assert seen["same"]
    assert len(set(seen["losses"])) == 20
    assert re.search(r"Probe of 20 steps.*Δ_min 5.*η = 0\.\d+", output)
    assert f"{abs(loss_increase(seen['losses'])):.4g}" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--pipeline.refine-steps", 50, "--max-num-iterations", 40), "leaves no step for the edit"),
        (("--pipeline.eta", 1.5), "eta is 1.5"),
        (("--pipeline.minimum-decrease", 0.0), "--pipeline.minimum-decrease is 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(ns_train, toy_splats, flags, message, capfd):
    with pytest.raises(SystemExit) as ended:
        ns_train("pnr-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, *flags)
    assert ended.value.code != 0
    assert message in " ".join(capfd.readouterr().err.replace("│", " ").split())


def test_the_command_line_chooses_the_revising_objective(ns_train, toy_splats):
    config = ns_train(
        *("pnr-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, *SHORT, "--pipeline.by", "dds"),
        *("--pipeline.eta", 0.0),
    )
    assert config.pipeline.objective == DDS(guidance_scale=7.5)
    resumed = ns_train(
        "pnr-edit-splat", "--load-dir", config.get_base_dir(), "--pipeline.refine-steps", 4, "--max-num-iterations", 6
    )
    assert resumed.pipeline.objective == DDS(guidance_scale=7.5)
    adapted = ns_train(
        *("pnr-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, *SHORT, "--pipeline.by", "piva"),
    )
    assert "adapters" in adapted.optimizers


def test_the_release_of_objects_is_sds_by_reconstruction_and_of_no_other_objective():
    config = ReviseConfig(by="sds", reconstruction=True)
    config.choose_objective()
    assert config.objective == SDS(weighting="reconstruction", guidance_rescale=0.5)
    config.choose_objective()  # as in a resumed run
    assert config.objective == SDS(weighting="reconstruction", guidance_rescale=0.5)
    with pytest.raises(UserError, match=r"--pipeline\.by sds, not dds"):
        ReviseConfig(by="dds", reconstruction=True).choose_objective()


def test_identity_weighs_as_in_the_release_beside_a_score_loss_of_one_view(monkeypatch):
    """There: 4,096 latent values summed and averaged over 4 views, L1 averaged over them, LPIPS summed."""
    pipeline = RevisePipeline.__new__(RevisePipeline)
    torch.nn.Module.__init__(pipeline)
    pipeline.config = ReviseConfig(edit_steps=10, refinement=Refinement(refine_steps=10, spare_relevant=False))
    pipeline.__dict__["perceptual"] = lambda a, b: torch.tensor(0.01)
    image, original = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.4)
    source = SourceView(0, original, torch.zeros(1, 4, 32, 32))
    monkeypatch.setattr(DistillationPipeline, "further_losses", lambda *_: {})
    loss = pipeline.further_losses(10, Rendering(image, image[:, :1], image[:, :1], {}), source)["identity_loss"]
    views = 4
    assert float(loss) == pytest.approx(30_000 * 0.1 + 300 * views * 0.01, rel=1e-5)


def test_any_objective_revises():
    config = ReviseConfig(
        objective=DDS(guidance_scale=7.5), anneal=True, edit_steps=10, refinement=Refinement(refine_steps=10)
    )
    pipeline = RevisePipeline.__new__(RevisePipeline)
    torch.nn.Module.__init__(pipeline)
    pipeline.config = config
    first, last, again = (pipeline.objective_at(step) for step in (0, 9, 10))
    assert isinstance(first, DDS)
    assert first.guidance_scale == 7.5
    assert (first.min_step_percent, first.max_step_percent) == (0.75, 0.75)
    assert (last.min_step_percent, last.max_step_percent) == pytest.approx((0.02, 0.40))
    assert again == first
    assert [pipeline.stage_at(step) for step in (9, 10)] == ["edit", "refinement"]
    assert pipeline.objective_at(-50) == first


@pytest.mark.parametrize("method", ["pnr-edit", "pnr-edit-splat"])
def test_every_rank_perturbs_alike_whatever_its_own_seed(toy_nerf, toy_splats, tmp_path, method):
    """nerfstudio seeds each rank differently; the perturbation follows --pipeline.seed alone."""
    scenes = []
    for rank in (0, 1):
        config = copy.deepcopy(METHODS[method].config)
        config.load_dir = (toy_splats if method.endswith("-splat") else toy_nerf).parent
        config.output_dir, config.vis = tmp_path, "tensorboard"
        config.pipeline.src_prompt, config.pipeline.tgt_prompt = PROMPTS[1], PROMPTS[3]
        config.pipeline.prior, config.pipeline.view.resolution = "toybox", 64
        config.set_timestamp()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        torch.manual_seed(rank)
        before = [parameter.detach().clone() for parameter in trainer.pipeline.model.parameters()]
        trainer.pipeline.perturb_scene(0.0)
        assert all(map(torch.equal, trainer.pipeline.model.parameters(), before))
        trainer.pipeline.perturb_scene(0.4)
        scenes.append([parameter.detach().clone() for parameter in trainer.pipeline.model.parameters()])
    assert any(not torch.equal(a, b) for a, b in zip(before, scenes[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*scenes, strict=True))


def test_dvrfs_falling_timestep_is_not_annealed():
    pipeline = RevisePipeline.__new__(RevisePipeline)
    torch.nn.Module.__init__(pipeline)
    pipeline.config = ReviseConfig(objective=DVRF(), anneal=True, edit_steps=10)
    assert pipeline.objective_at(5) == DVRF().at(0.5)


def test_a_nerf_is_moved_towards_another_beginning_than_its_own(toy_nerf, tmp_path, monkeypatch):
    """Where source and edit have one seed, that seed's draw is what the source began with."""
    drawn = []
    monkeypatch.setattr(RevisePipeline, "build_model", lambda self, seed: drawn.append(seed))
    pipeline = RevisePipeline.__new__(RevisePipeline)
    torch.nn.Module.__init__(pipeline)
    pipeline.config = ReviseConfig(perturbation=Perturbation(perturb="everywhere"))
    pipeline.decisions = {}
    pipeline.__dict__["scene"] = SimpleNamespace(
        keeping_frozen=contextlib.nullcontext, perturb=lambda etas, build, seed, where: build() or "moved"
    )
    for seed in (0, 42):
        pipeline.config.run.seed = seed
        pipeline.perturb_scene(0.5)
    assert drawn == [seed_apart(0), seed_apart(42)]
    assert all(2**62 <= seed < 2**63 for seed in drawn)


def test_densification_works_after_a_perturbation_and_across_a_resume(ns_train, toy_splats):
    source = load_source_state(find_run(toy_splats))["_model.gauss_params.means"]
    grow = ("--pipeline.densify-from", 1, "--pipeline.densify-until", 60, "--pipeline.densify-every", 5)
    grow = (*grow, "--pipeline.model.split-screen-size", 10.0)  # at 32 pixels everything is large
    edit = (*PROMPTS, *TOYBOX, *grow, "--pipeline.refine-steps", 10)
    first = ns_train("pnr-edit-splat", "--load-dir", toy_splats.parent, *edit, "--max-num-iterations", 30)
    grown = scene_of(first)["_model.gauss_params.means"]
    assert 1.05 * len(source) < len(grown) < 2 * len(source)
    resumed = ns_train("pnr-edit-splat", "--load-dir", first.get_base_dir(), "--max-num-iterations", 60)
    grown_further = scene_of(resumed)["_model.gauss_params.means"]
    assert len(grown_further) > len(grown)
    assert grown_further.isfinite().all()
