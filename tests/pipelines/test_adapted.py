"""Piva and VSD through `ns-train`: adapters learn with the edit, are saved and resumed with it, and leave the scene."""

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers import ControlNetModel

from pds_nerfstudio.images import depth_picture
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.priors.learning import LearningPrior
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.source import find_run, load_source_state

from .conftest import PROMPTS
from .test_edit import TOYBOX, scene_of

pytestmark = pytest.mark.slow


def adapters_of(config) -> dict[str, torch.Tensor]:
    state = load_source_state(find_run(config.get_base_dir()))
    return {name: value for name, value in state.items() if name.startswith("_adapters.")}


@pytest.mark.parametrize("method", ["vsd-edit-splat", "piva-edit-splat", "vsd-edit", "piva-edit"])
def test_adapters_learn_beside_the_scene(ns_train, toy_nerf, toy_splats, method):
    run = toy_splats if method.endswith("-splat") else toy_nerf
    config = ns_train(method, "--load-dir", run.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 3)
    source, edited = load_source_state(find_run(run)), scene_of(config)
    assert any(not torch.equal(value, source[name]) for name, value in edited.items())
    learned = {name: value for name, value in adapters_of(config).items() if ".lora_B." in name}
    moved = {which: any(v.any() for n, v in learned.items() if f".{which}." in n) for which in ("source", "edited")}
    assert moved == {"source": method.startswith("piva"), "edited": True}  # B begins at zero


def test_a_resumed_edit_goes_on_with_its_adapters(ns_train, toy_splats):
    edit = (*PROMPTS, *TOYBOX, "--pipeline.adapter-rank", 4)
    straight = ns_train(
        *("piva-edit-splat", "--load-dir", toy_splats.parent, *edit, "--max-num-iterations", 8),
        *("--steps-per-save", 4, "--save-only-latest-checkpoint", "False"),
    )
    resumed = ns_train(
        *("piva-edit-splat", "--load-dir", straight.get_base_dir(), "--load-step", 4, *edit),
        *("--max-num-iterations", 8),
    )
    a, b = adapters_of(straight), adapters_of(resumed)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, atol=2e-5, rtol=0, msg=name)


def test_the_sources_adapter_learns_before_the_edit_where_asked(ns_train, toy_splats):
    edit = ("piva-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 1)
    learned = adapters_of(ns_train(*edit, "--pipeline.adapter-warmup", 6))
    plain = adapters_of(ns_train(*edit))
    moved = {name for name, value in learned.items() if not torch.equal(value, plain[name])}
    assert moved
    assert all(".source." in name for name in moved)


def test_adapters_learn_under_a_controlnet_where_one_is_given(ns_train, toy_splats, tmp_path, capfd):
    prior = load_prior("toybox", "cpu")
    control = ControlNetModel.from_unet(prior.unet, conditioning_embedding_out_channels=(8, 8, 8))
    for block in (*control.controlnet_down_blocks, control.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(block.weight, std=0.1)
    control.save_pretrained(tmp_path / "control")
    edit = ("piva-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 2)
    plain = adapters_of(ns_train(*edit))
    assert "ControlNet" in capfd.readouterr().out  # what is lost without
    controlled = adapters_of(ns_train(*edit, "--pipeline.control", tmp_path / "control"))
    for which in ("source", "edited"):
        names = [name for name in plain if f".lora_B.{which}." in name]
        assert any(not torch.equal(plain[name], controlled[name]) for name in names), which
    with pytest.raises(SystemExit) as ended:
        ns_train(*edit, "--pipeline.control", tmp_path / "no" / "where")
    assert ended.value.code != 0
    assert "neither a folder nor a hub id" in capfd.readouterr().err


def test_a_rank_of_zero_is_refused_in_one_sentence(ns_train, toy_splats, capfd):
    with pytest.raises(SystemExit) as ended:
        ns_train(
            *("piva-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX),
            *("--max-num-iterations", 2, "--pipeline.adapter-rank", 0),
        )
    assert ended.value.code != 0
    assert "rank is 0" in capfd.readouterr().err


def test_a_probe_leaves_adapters_as_they_were(toy_splats, tmp_path):
    config = copy.deepcopy(METHODS["piva-edit-splat"].config)
    config.load_dir, config.output_dir, config.vis = toy_splats.parent, tmp_path, "tensorboard"
    config.pipeline.src_prompt, config.pipeline.tgt_prompt = PROMPTS[1], PROMPTS[3]
    config.pipeline.prior, config.pipeline.view.resolution = "toybox", 32
    config.pipeline.run.recipe = ("none",)
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    before = {name: value.clone() for name, value in trainer.pipeline.state_dict().items()}
    assert len(set(trainer.probe(4))) == 4
    after = trainer.pipeline.state_dict()
    assert any(name.startswith("_adapters.") for name in after)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("changes", "views", "together"),
    [({}, {4}, 1), ({"views": "orbit"}, {4}, 4), ({"view_words": True, "tell_cameras": False}, {1}, 1)],
)
def test_the_source_is_learned_as_the_edit_will_show_it(toy_splats, tmp_path, monkeypatch, changes, views, together):
    config = copy.deepcopy(METHODS["piva-edit-splat"].config)
    config.load_dir, config.output_dir, config.vis = toy_splats.parent, tmp_path, "tensorboard"
    config.pipeline.src_prompt, config.pipeline.tgt_prompt = PROMPTS[1], PROMPTS[3]
    config.pipeline.prior, config.pipeline.view.resolution = "toybox", 32
    config.pipeline.run.recipe = ("none",)
    for name, value in changes.items():
        setattr(config.pipeline.view, name, value)
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    asked = []
    learner = SimpleNamespace(teach=lambda optimizer: None)
    monkeypatch.setattr(LearningPrior, "of_step", lambda prior, names, edit: asked.append(edit) or learner)
    trainer.pipeline.learn_source(3)
    assert {len(edit.x0_src) for edit in asked} == views
    assert all(edit.src_prompt.startswith(PROMPTS[1]) for edit in asked)
    assert all((edit.src_prompt != PROMPTS[1]) is bool(changes.get("view_words")) for edit in asked)
    told = [edit.cameras for edit in asked if edit.cameras is not None]
    assert {cameras.together for cameras in told} <= {together}
    assert bool(told) is changes.get("tell_cameras", True)
    assert all(len(set(edit.t.tolist())) == 1 for edit in asked if together == 4)


def test_after_a_hundred_steps_each_adapter_knows_its_scene_and_the_unet_is_what_it_was(toy_splats, tmp_path):
    config = copy.deepcopy(METHODS["piva-edit-splat"].config)
    config.load_dir, config.output_dir, config.vis = toy_splats.parent, tmp_path, "tensorboard"
    config.viewer.quit_on_train_completion, config.max_num_iterations = True, 100
    config.pipeline.src_prompt, config.pipeline.tgt_prompt = PROMPTS[1], PROMPTS[3]
    config.pipeline.prior = config.pipeline.adapter.control = "toybox"
    config.pipeline.view.resolution, config.pipeline.adapter.adapter_warmup = 32, 50
    config.optimizers["adapters"]["optimizer"].lr = 2e-3
    config.pipeline.run.recipe = ("none",)
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    prior, views = trainer.pipeline.prior, trainer.pipeline.views

    def own() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in prior.unet.state_dict().items() if "lora" not in name}

    unet = own()
    trainer.train()
    assert all(torch.equal(value, unet[name]) for name, value in own().items())

    @torch.no_grad()
    def loss(model, prompt: str, adapter: str | None) -> float:
        generator, total = torch.Generator().manual_seed(0), 0.0
        for i in range(0, len(views), 4):
            shown = render(model, views.camera(i, 32, 32))
            x0 = prior.encode(shown.image).expand(8, -1, -1, -1)
            depth = depth_picture(shown.depth, shown.accumulation).expand(8, -1, -1, -1)
            t = torch.randint(100, 900, (8,), generator=generator)
            eps = torch.randn(x0.shape, generator=generator)
            query = Query(prior.schedule.add_noise(x0, t, eps), t, prompt, adapter=adapter, control=depth)
            total += float((prior.predict_noise([query])[0] - eps).square().mean())
        return total

    source, edited = trainer.pipeline.source_scene(), trainer.pipeline.model
    assert loss(source, PROMPTS[1], "source") < 0.8 * loss(source, PROMPTS[1], None)
    assert loss(edited, PROMPTS[3], "edited") < 0.8 * loss(edited, PROMPTS[3], "source")
