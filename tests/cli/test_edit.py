"""`pds edit`: the commands of a chain, what is refused before the first of them, and going on after a failure."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from processes import started, wait_for_files
from safetensors.torch import save_file

from pds_nerfstudio.children import Ended
from pds_nerfstudio.cli import command_of
from pds_nerfstudio.cli.dreambooth import Dreambooth
from pds_nerfstudio.cli.edit import Edit
from pds_nerfstudio.cli.evaluate import Evaluate
from pds_nerfstudio.cli.preview import Preview
from pds_nerfstudio.cli.render import Render
from pds_nerfstudio.cli.stages import Stage, progress
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.source import find_run, fingerprint

FROM, TO = "a photo of a sks can", "a photo of a sks cone"


def edit(run, out, **changes) -> Edit:
    return Edit(run, **({"src_prompt": FROM, "tgt_prompt": TO, "prior": "toybox", "out": out} | changes))


def stop(*_, **__):
    raise InterruptedError


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tgt_prompt": " "}, "target prompt is empty"),
        ({"src_prompt": ""}, "source prompt is empty"),
        ({"tgt_prompt": FROM}, "are the same"),
        ({"prior": "nowhere"}, "nowhere"),
        ({"lora": ("gone.safetensors:0.5",)}, "--lora gone.safetensors does not exist"),
        ({"embedding": (Path("gone.safetensors"),)}, "--embedding gone.safetensors does not exist"),
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


def test_another_edits_folder_is_refused_before_arguments_are_read(toy_splats, tmp_path):
    begun = edit(toy_splats.parent, tmp_path)
    begun.record.keep(begun.stages(), {"edit": 1.0})
    with pytest.raises(UserError, match=r"holds an(other)? edit"):
        edit(toy_splats.parent, tmp_path, tgt_prompt="a photo of a sks ball", edit_args="--no-such-flag").run()


def test_arguments_of_finished_stages_are_not_read_again(toy_splats, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("pds_nerfstudio.cli.edit.refuse_unknown", lambda stage, *_: read.append(stage.name))
    monkeypatch.setattr("pds_nerfstudio.cli.edit.Record.lock", stop)
    given = {"edit_args": "--max-num-iterations 7", "render_args": "--frames 3"}
    begun = edit(toy_splats.parent, tmp_path, **given)
    begun.record.keep(begun.stages(), {"edit": 1.0})
    with pytest.raises(InterruptedError):
        edit(toy_splats.parent, tmp_path, **given).run()
    assert read == ["render"]


def test_every_stage_is_a_command_that_its_program_reads(toy_splats, tmp_path):
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    detail = tmp_path / "add detail.safetensors"
    save_file({"lora_unet_mid_block.lora_down.weight": torch.zeros(1, 1)}, detail)
    stages = edit(
        toy_splats.parent,
        tmp_path / "an out",
        lora=(f"{detail}:0.5", str(detail)),
        class_prompt="a photo of a can",
        region="the can",
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
    assert config.pipeline.network.lora == (f"{detail}:0.5", str(detail))
    assert (config.max_num_iterations, config.pipeline.region.region) == (7, "the can")
    assert config.load_dir == find_run(toy_splats).checkpoint_path.parent
    assert config.get_base_dir() == stages[1].result
    refined = tyro.cli(AnnotatedBaseConfigUnion, args=words["refinement"][1:])
    assert refined.method_name == "sdedit-refine-splat"
    assert refined.load_dir == stages[1].result / "nerfstudio_models"
    assert refined.get_base_dir() == stages[2].result
    assert tyro.cli(Render, args=words["render"][2:]).run_folder == stages[2].result
    assert tyro.cli(Evaluate, args=words["evaluate"][2:]).run_folders == (stages[2].result,)


def test_prompts_are_tried_on_a_photograph_first_and_the_same_command_then_goes_on(
    toy_splats, tmp_path, monkeypatch, capfd
):
    ran = []

    def run_child(command, *_):
        ran.append(command[4:6])
        made = tmp_path / "out" / "preview" / "sheet.png"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text("{}")
        return Ended(0 if command[4] == "preview" else 3)

    monkeypatch.setattr("pds_nerfstudio.cli.edit.run_child", run_child)
    chain = edit(toy_splats.parent, tmp_path / "out", preview_first=True, method="dds-edit")
    previewed = tyro.cli(Preview, args=shlex.split(chain.stages()[0].line)[2:])
    assert (previewed.src_prompt, previewed.tgt_prompt) == (FROM, (TO,))
    assert previewed.objective == ("dds",)
    chain.run()  # nobody is there to be asked
    assert ran == [["preview", str(toy_splats.parent)]]
    assert "The same command again edits the scene" in capfd.readouterr().out
    assert chain.record._lock is not None
    chain.record._lock.close()  # as its process does
    with pytest.raises(UserError, match="stage edit ended with 3"):
        edit(toy_splats.parent, tmp_path / "out", preview_first=True, method="dds-edit").run()
    assert [words[0] for words in ran] == ["preview", "dds-edit-splat"]

    # Nor is it asked again for what an earlier call was told.
    again = edit(toy_splats.parent, tmp_path / "out", src_prompt="", method="dds-edit")
    again._complete_prompts()
    assert again.src_prompt == FROM


@pytest.mark.parametrize(("answer", "taken"), [("", "a photo of a can"), (" a photo of a tin ", "a photo of a tin")])
def test_a_source_prompt_is_proposed_and_asked_for(toy_splats, tmp_path, monkeypatch, answer, taken):
    shown = []

    def propose(folder, photographs):
        shown.extend(photographs)
        return "a photo of a can"

    monkeypatch.setattr("pds_nerfstudio.priors.caption.find_captioner", lambda name: Path("blip"))
    monkeypatch.setattr("pds_nerfstudio.priors.caption.propose_caption", propose)
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    with pytest.raises(UserError, match=r"is empty: .*blip proposes 'a photo of a can'"):
        edit(toy_splats.parent, tmp_path / "out", src_prompt="").run()
    assert not asked
    assert 1 <= len(shown) <= 3
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    chain = edit(toy_splats.parent, tmp_path / "out", src_prompt="")
    chain._complete_prompts()
    assert asked == ["What does the scene show? [a photo of a can] "]
    assert chain.src_prompt == taken


def test_a_chain_without_refinement_shows_the_edit(toy_splats, tmp_path):
    stages = edit(toy_splats.parent, tmp_path / "out", refine=False).stages()
    assert [stage.name for stage in stages] == ["edit", "render", "evaluate"]
    assert str(stages[0].result) in stages[1].command


@pytest.fixture
def begun(tmp_path) -> tuple[Edit, Stage]:
    """An edit whose stage `edit` was begun, and has left something."""
    chain = Edit(tmp_path / "run", out=tmp_path / "out")
    command = ("ns-train", "pds-edit-splat", "--load-dir", "base", *WHAT, *WHERE)
    stage = Stage("edit", command, chain.out / "edit" / "pds-edit-splat" / "run", trains=True)
    stage.result.mkdir(parents=True)
    (stage.result / "config.yml").touch()
    chain.record.started.add("edit")
    return chain, stage


WHAT = ("--pipeline.src-prompt", "a", "--pipeline.tgt-prompt=b", "--pipeline.box", "0", "0", "0", "1", "1", "1")
WHERE = ("--output-dir", "out", "--pipeline.prior-device=cuda:1", "--vis", "viewer", "--machine.device-type", "cpu")


def stopped_at(run: Path, steps: int, of: int, copied: Path) -> None:
    """Let `run` be a copy of a run, as a training of so many steps that has had so many."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(copied, run)
    config = run / "config.yml"
    config.write_text(re.sub(r"max_num_iterations: \d+", f"max_num_iterations: {of}", config.read_text()))
    (checkpoint,) = run.glob("*/step-*.ckpt")
    checkpoint.rename(checkpoint.with_name(f"step-{steps - 1:09d}.ckpt"))


def test_a_training_without_a_checkpoint_begins_anew(begun):
    chain, stage = begun
    chain.record.begin(stage)
    assert stage.next_command() == stage.command
    assert not stage.result.exists()
    assert stage.next_command() == stage.command


def test_an_interrupted_training_goes_on_from_its_last_checkpoint_wherever_it_is_killed(begun, toy_splats):
    _, stage = begun
    first, second = (stage.result.with_suffix(f".{number}") for number in (1, 2))
    going_on = ("ns-train", "pds-edit-splat", "--load-dir")
    stopped_at(stage.result, 6, 10, toy_splats.parent)
    assert not stage.has_result()
    assert stage.next_command() == (*going_on, str(first), *WHERE)
    stage.result.mkdir()  # killed before its first checkpoint
    assert stage.next_command() == (*going_on, str(first), *WHERE)
    stopped_at(stage.result, 8, 10, toy_splats.parent)
    assert stage.next_command() == (*going_on, str(second), *WHERE)
    assert (progress(first), progress(second)) == ((6, 10), (8, 10))
    stopped_at(stage.result, 10, 10, toy_splats.parent)
    assert stage.has_result()


def test_a_training_is_finished_if_it_says_so_itself(toy_splats, tmp_path):
    chain = edit(toy_splats.parent, tmp_path / "out", method="pds-edit")
    stages = chain.stages()
    trained, refined = (stage for stage in stages if stage.trains)
    chain.record.started = {"edit", "refinement"}
    stopped_at(trained.result, 10, 10, toy_splats.parent)
    chain.record.keep(stages, {})
    assert list(chain.record.finished(stages)) == ["edit"]
    stopped_at(trained.result, 9, 10, toy_splats.parent)
    stopped_at(refined.result, 10, 10, toy_splats.parent)
    chain.record.keep(stages, dict.fromkeys(("edit", "refinement", "render", "evaluate"), 3.0))
    assert chain.record.finished(stages) == {}
    with pytest.raises(UserError, match="was not made by this edit"):
        chain.record.begin(refined)  # which went on from half an edit

    other = edit(toy_splats.parent, tmp_path / "out", method="pds-edit", edit_args="--max-num-iterations 7")
    with pytest.raises(UserError, match="was another command"):
        other.record.finished(other.stages())


def test_a_page_is_announced_where_one_opens(begun):
    _, stage = begun
    assert stage.opens_a_page()
    assert replace(stage, command=stage.command[:2]).opens_a_page()
    assert not replace(stage, command=(*stage.command, "--vis", "tensorboard")).opens_a_page()
    assert not replace(stage, command=(*stage.command, "--vis=wandb")).opens_a_page()
    assert replace(stage, command=(*stage.command, "--vis=viewer+wandb")).opens_a_page()


def test_a_folder_that_no_stage_began_is_left_alone(begun):
    chain, stage = begun
    chain.record.started.clear()
    with pytest.raises(UserError, match="was not made by this edit"):
        chain.record.begin(stage)


@pytest.mark.parametrize("part", ["run", "run.1", "pds-edit-splat", "edit"])
def test_a_link_in_a_stages_place_is_not_followed(begun, tmp_path, part):
    chain, stage = begun
    places = (stage.result, stage.result.with_suffix(".1"), *stage.result.parents)
    place = next(path for path in places if path.name == part)
    mine = tmp_path / "mine"
    place.rename(mine) if place.exists() else mine.mkdir()
    place.symlink_to(mine)
    with pytest.raises(UserError, match="was not made by this edit"):
        chain.record.begin(stage)


def test_the_lock_follows_no_link(begun, tmp_path):
    chain, _ = begun
    (tmp_path / "mine").write_text("years of work")
    (chain.out / "edit.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="a folder that is your own"):
        chain.record.lock()
    assert (tmp_path / "mine").read_text() == "years of work"


def test_a_folder_that_a_stage_of_an_earlier_call_still_writes_to_is_left_alone(begun):
    chain, _ = begun
    other = Edit(chain.run_folder, out=chain.out)
    other.record.lock()
    with pytest.raises(UserError, match="still writing to --out"):
        chain.record.lock()
    assert other.record._lock is not None
    other.record._lock.close()
    chain.record.lock()


@pytest.mark.parametrize(
    ("ended", "said", "code"),
    [
        (Ended(-2), "Interrupted in the stage edit. To go on:\n  pds edit", 130),
        (Ended(143), "Interrupted in", 143),
        (Ended(0, signal.SIGTERM), "Interrupted in", 143),
        (Ended(0), "ended with no result", None),
        (Ended(3), "ended with 3", None),
    ],
)
def test_a_stage_that_was_interrupted_or_left_no_result_is_not_finished(begun, monkeypatch, capfd, ended, said, code):
    chain, stage = begun
    monkeypatch.setattr("sys.argv", ["pds", "edit"])
    monkeypatch.setattr("pds_nerfstudio.cli.edit.run_child", lambda *_: ended)
    done: dict[str, float] = {}
    with pytest.raises(UserError if code is None else SystemExit) as stop:
        chain._execute(stage, stage.command, [stage], done)
    assert not done
    assert said in (str(stop.value) if code is None else capfd.readouterr().err)
    assert code in (None, getattr(stop.value, "code", None))


def test_a_stage_that_ends_with_0_before_its_last_step_is_not_finished(begun, monkeypatch, toy_splats):
    chain, stage = begun
    monkeypatch.setattr("pds_nerfstudio.cli.edit.run_child", lambda *_: Ended(0))
    done: dict[str, float] = {}
    stopped_at(stage.result, 9, 10, toy_splats.parent)
    with pytest.raises(UserError, match="ended with 9 steps of 10"):
        chain._execute(stage, stage.command, [stage], done)
    assert not done
    stopped_at(stage.result, 10, 10, toy_splats.parent)
    chain._execute(stage, stage.command, [stage], done)
    assert list(done) == ["edit"]


@pytest.mark.slow
def test_ctrl_c_and_kill_9_of_pds_edit_end_its_stage_with_a_checkpoint_from_which_the_same_command_goes_on(
    toy_splats, tmp_path
):
    out, before = tmp_path / "out", fingerprint(toy_splats.parent)
    command = [str(Path(sys.executable).parent / "pds"), "edit", str(toy_splats.parent), "--from", FROM, "--to", TO]
    command += ["--prior", "toybox", "--out", str(out), "--method", "pds-edit", "--no-refine"]
    command += ["--edit-args=--max-num-iterations 100000 --pipeline.resolution 32 --steps-per-save 5 --vis tensorboard"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "400"}

    def stopped_after(pattern: str, number: signal.Signals) -> str:
        with started(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ran:
            wait_for_files(ran, out, pattern)
            ran.send_signal(number)
            output, _ = ran.communicate(timeout=120)  # until its stage has ended too
        assert ran.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[number], output[-3000:]
        assert "Traceback" not in output
        assert "Stopped after" in output
        return output

    output = stopped_after("edit/pds-edit-splat/run/*/step-*.ckpt", signal.SIGINT)
    (printed,) = re.findall(r"To go on:\n  pds (.*)\n", output)
    assert command_of(shlex.split(printed)).line() == command_of(command[1:]).line()
    first = progress(out / "edit/pds-edit-splat/run")
    assert "Interrupted before" in stopped_after("edit/pds-edit-splat/run.1/../run/*/step-*.ckpt", signal.SIGKILL)
    second = progress(out / "edit/pds-edit-splat/run")
    assert first is not None
    assert second is not None
    assert first == progress(out / "edit/pds-edit-splat/run.1")
    assert first[0] < second[0] < second[1] == 100_000
    assert json.loads((out / "edit.json").read_text())[0]["seconds"] is None
    assert fingerprint(toy_splats.parent) == before


@pytest.mark.slow
def test_a_chain_goes_on_with_the_stage_that_failed(run_command, toy_splats, tmp_path):
    before, out = fingerprint(toy_splats.parent), tmp_path / "out"
    command = [
        *("pds", "edit", toy_splats.parent, "--from", FROM, "--to", TO, "--prior", "toybox", "--out", out),
        *("--method", "pds-edit", "--class-prompt", "a photo of a can"),
        "--dreambooth-args=--steps 2 --class-images 1 --empty-images 0 --sample-steps 1 --resolution 32",
        "--edit-args=--max-num-iterations 2 --vis tensorboard",
        "--refine-args=--vis tensorboard --max-num-iterations 2 --pipeline.num-steps 1 --pipeline.resolution 32",
        "--render-args=--paths interpolated --frames 2",
    ]
    failed = run_command(*command, "--evaluate-args=--clip nowhere", fails=True)
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

    assert "holds another edit" in run_command(*command, "--render-args=--frames 3", fails=True).stderr


def test_nobody_is_asked_where_there_is_no_standard_input(monkeypatch):
    from pds_nerfstudio.cli.edit import _is_asked

    monkeypatch.setattr("sys.stdin", None)  # `<&-` in a shell
    assert not _is_asked()
