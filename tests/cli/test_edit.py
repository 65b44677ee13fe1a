"""`pds edit`: the commands of a chain, what is refused before the first of them, and going on after a failure."""

import json
import shlex

import pytest
import tyro

from pds_nerfstudio.cli.dreambooth import Dreambooth
from pds_nerfstudio.cli.edit import Edit, Stage
from pds_nerfstudio.cli.evaluate import Evaluate
from pds_nerfstudio.cli.render import Render
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.source import find_run, fingerprint

FROM, TO = "a photo of a sks can", "a photo of a sks cone"


def edit(run, out, **changes) -> Edit:
    return Edit(run, **({"src_prompt": FROM, "tgt_prompt": TO, "prior": "toybox", "out": out} | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tgt_prompt": " "}, "target prompt is empty"),
        ({"src_prompt": ""}, "source prompt is empty"),
        ({"tgt_prompt": FROM}, "are the same"),
        ({"prior": "nowhere"}, "nowhere"),
        ({"method": "source"}, "no method 'source'"),
        ({"method": "source-splatfacto"}, "no method 'source-splatfacto'"),
        ({"run_folder": "gone"}, "RUN .*gone does not exist"),
    ],
)
def test_what_cannot_work_is_one_sentence(toy_splats, tmp_path, changes, sentence):
    run = tmp_path / changes.pop("run_folder") if "run_folder" in changes else toy_splats.parent
    with pytest.raises(UserError, match=sentence):
        edit(run, tmp_path / "out", **changes).run()
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(toy_splats, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty"):
        edit(toy_splats.parent, tmp_path).run()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_every_stage_is_a_command_that_its_program_reads(toy_splats, tmp_path):
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    stages = edit(
        toy_splats.parent,
        tmp_path / "an out",
        class_prompt="a photo of a can",
        edit_args="--max-num-iterations 7",
        dreambooth_args="--rank 4",
    ).stages()
    words = {stage.name: shlex.split(stage.line) for stage in stages}
    assert list(words) == ["dreambooth", "edit", "refinement", "render", "evaluate"]
    taught = tyro.cli(Dreambooth, args=words["dreambooth"][2:])
    assert (taught.instance_prompt, taught.class_prompt, taught.rank) == (FROM, "a photo of a can", 4)
    config = tyro.cli(AnnotatedBaseConfigUnion, args=words["edit"][1:])
    assert config.method_name == "pnr-edit-splat"
    assert (config.pipeline.src_prompt, config.pipeline.tgt_prompt) == (FROM, TO)
    assert config.pipeline.prior == str(taught.out)
    assert config.max_num_iterations == 7
    assert config.load_dir == find_run(toy_splats).checkpoint_path.parent
    assert config.get_base_dir() == stages[1].result
    refined = tyro.cli(AnnotatedBaseConfigUnion, args=words["refinement"][1:])
    assert refined.method_name == "sdedit-refine-splat"
    assert refined.load_dir == stages[1].result / "nerfstudio_models"
    assert refined.get_base_dir() == stages[2].result
    assert tyro.cli(Render, args=words["render"][2:]).run_folder == stages[2].result
    assert tyro.cli(Evaluate, args=words["evaluate"][2:]).run_folders == (stages[2].result,)


def test_a_chain_without_refinement_shows_the_edit(toy_splats, tmp_path):
    stages = edit(toy_splats.parent, tmp_path / "out", refine=False).stages()
    assert [stage.name for stage in stages] == ["edit", "render", "evaluate"]
    assert str(stages[0].result) in stages[1].command


@pytest.fixture
def begun(tmp_path) -> tuple[Edit, Stage]:
    """An edit whose stage `edit` was begun, and has left something."""
    chain = Edit(tmp_path / "run", out=tmp_path / "out")
    stage = Stage("edit", ("ns-train",), chain.out / "edit" / "pds-edit-splat" / "run")
    stage.result.mkdir(parents=True)
    (stage.result / "config.yml").touch()
    chain._started.add("edit")
    return chain, stage


def test_what_an_interrupted_stage_left_is_removed(begun):
    chain, stage = begun
    chain._clear(stage)
    assert not stage.result.exists()
    chain._clear(stage)


def test_a_folder_that_no_stage_began_is_left_alone(begun):
    chain, stage = begun
    chain._started.clear()
    with pytest.raises(UserError, match="was not made by this edit"):
        chain._clear(stage)
    assert (stage.result / "config.yml").exists()


@pytest.mark.parametrize("part", ["run", "pds-edit-splat", "edit"])
def test_a_link_in_a_stages_place_is_not_followed(begun, tmp_path, part):
    chain, stage = begun
    place = next(path for path in (stage.result, *stage.result.parents) if path.name == part)
    mine = tmp_path / "mine"
    place.rename(mine)
    place.symlink_to(mine)
    with pytest.raises(UserError, match="was not made by this edit"):
        chain._clear(stage)
    assert list(mine.rglob("config.yml"))


def test_a_folder_that_a_stage_of_an_earlier_call_still_writes_to_is_left_alone(begun):
    chain, _ = begun
    other = Edit(chain.run_folder, out=chain.out)
    other._lock()
    with pytest.raises(UserError, match="still writing to --out"):
        chain._lock()
    assert other._held is not None
    other._held.close()
    chain._lock()


def test_a_stage_that_was_interrupted_or_left_no_result_is_not_finished(begun, monkeypatch):
    chain, stage = begun
    for code, message in ((-2, None), (143, None), (0, "ended with no result"), (3, "ended with 3")):
        monkeypatch.setattr("pds_nerfstudio.cli.edit.run_child", lambda *_, code=code: code)
        with pytest.raises(UserError if message else SystemExit) as stop:
            chain._execute(stage)
        if message:
            assert message in str(stop.value)
        else:
            assert stop.value.code == {-2: 130}.get(code, code)
    (stage.result / "step-000000001.ckpt").touch()
    monkeypatch.setattr("pds_nerfstudio.cli.edit.run_child", lambda *_: 0)
    chain._execute(stage)


@pytest.mark.slow
def test_a_chain_goes_on_with_the_stage_that_failed(run_command, toy_splats, tmp_path):
    before, out = fingerprint(toy_splats.parent), tmp_path / "out"
    command = [
        *("pds", "edit", toy_splats.parent, "--from", FROM, "--to", TO, "--prior", "toybox", "--out", out),
        *("--method", "pds-edit", "--class-prompt", "a photo of a can"),
        "--dreambooth-args=--steps 2 --class-images 1 --empty-images 0 --sample-steps 1 --resolution 32",
        "--edit-args=--max-num-iterations 2",
        "--refine-args=--max-num-iterations 2 --pipeline.num-steps 1 --pipeline.resolution 32",
        "--render-args=--paths interpolated --frames 2",
    ]
    failed = run_command(*command, "--evaluate-args=--frames 1", fails=True)
    assert "The stage evaluate ended with 1" in failed.stderr
    assert "Traceback" not in failed.stderr
    weights = (out / "prior/pytorch_lora_weights.safetensors").stat().st_mtime_ns

    done = run_command(*command, "--evaluate-args=--frames 2")
    assert done.stdout.count("finished before") == 4
    assert weights == (out / "prior/pytorch_lora_weights.safetensors").stat().st_mtime_ns
    assert all(entry["seconds"] > 0 for entry in json.loads((out / "edit.json").read_text()))
    for file in ("renders", "evaluation/report.html", "edit/pds-edit-splat/run/config.yml"):
        assert (out / file).exists()
    assert fingerprint(toy_splats.parent) == before

    assert "another command" in run_command(*command, "--render-args=--frames 3", fails=True).stderr
