"""What a call of `pds edit` is told for its stages, what it refuses of that, and the line that it prints to go on."""

import shlex
import signal
import subprocess
import sys

import pytest
from rich.console import Console
from test_edit import edit

from pds_nerfstudio.cli import command_of
from pds_nerfstudio.cli.edit import _answer
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.prompts import check_prompts


@pytest.mark.parametrize(
    ("flag", "words", "said"),
    [
        (
            "edit_args",
            "--pipeline.objectve.guidance-scale 3",
            "pnr-edit-splat has no .* did you mean --pipeline.objective",
        ),
        ("edit_args", "--max-num-iterations 3 nerfstudio-data --zzzz 3", "pnr-edit-splat has no --zzzz"),
        ("edit_args", "--max-num-iterations 0", "--max-num-iterations is 0: give at least 1"),
        ("edit_args", "--pipeline.views-per-step 0", "--pipeline.views-per-step is 0"),
        ("edit_args", "--output-dir elsewhere", "--edit-args holds --output-dir, which pds edit sets itself"),
        ("edit_args", "--pipeline.src_prompt='a cube'", "which pds edit sets itself"),
        ("render_args", "--out=elsewhere", "--render-args holds --out, which pds edit sets itself"),
        ("refine_args", "--pipeline.gudance-scale=3", "sdedit-refine-splat has no .* did you mean --pipeline.guidance"),
    ],
)
def test_a_flag_that_a_stage_does_not_have_is_refused_before_the_first_one(toy_splats, tmp_path, flag, words, said):
    with pytest.raises(UserError, match=said):
        edit(toy_splats.parent, tmp_path / "out", **{flag: words}).run()
    assert not (tmp_path / "out").exists()


def test_what_pds_edit_leaves_open_in_a_stage_can_be_set(toy_splats, tmp_path):
    prior = edit(toy_splats.parent, tmp_path / "out", refine_args="--pipeline.prior toybox-flow")
    prior._check_arguments(prior.stages())
    viewer = edit(toy_splats.parent, tmp_path / "out", edit_args="--viewer.quit-on-train-completion False")
    viewer._check_arguments(viewer.stages())


def test_values_that_a_stage_cannot_read_are_refused_before_the_first_one(toy_splats, tmp_path, capsys):
    with pytest.raises(UserError, match="--edit-args holds what pnr-edit-splat cannot read"):
        edit(toy_splats.parent, tmp_path / "out", edit_args="--max-num-iterations abc").run()
    assert "--max-num-iterations" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_line_that_is_printed_is_the_same_edit_and_names_no_link(toy_splats, tmp_path):
    (tmp_path / "latest").symlink_to(toy_splats.parent)
    given = edit(
        tmp_path / "latest",
        tmp_path / "out",
        refine=False,
        recipe=("colour", "quick"),
        region="the can",
        edit_args="--vis tensorboard",
    )
    words = shlex.split(given.line())
    assert words[:3] == ["pds", "edit", str(toy_splats.parent)]
    again = command_of(words[1:])
    for name in ("src_prompt", "tgt_prompt", "prior", "refine", "recipe", "region", "edit_args", "out"):
        assert getattr(again, name) == getattr(given, name), name


def test_what_is_likely_a_mistake_is_said(toy_splats, tmp_path, capsys):
    edit(toy_splats.parent, tmp_path / "out", tgt_prompt="a photo of a red conee", region="the dog")._warn(
        Console(soft_wrap=True)
    )
    assert "does not know 'sks', 'conee' or 'dog'" in " ".join(capsys.readouterr().out.split())


def test_ctrl_c_while_a_stage_is_starting_is_answered_in_a_sentence(tmp_path):
    program = tmp_path / "ns-train"
    program.write_text("import sys, time\nprint(sys.argv, flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "pds_nerfstudio.launch", str(program), "method", "--flag"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{[str(program), 'method', '--flag']}\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "Stopped while it was starting: the same command begins again.\n")


def test_a_question_whose_input_ends_is_answered_with_nothing(monkeypatch):
    def ends(question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", ends)
    assert _answer("Edit the scene with these prompts? [y/N] ") == ""


def test_a_prompt_in_another_encoding_is_refused():
    with pytest.raises(UserError, match=r"The prompt of --from is not in UTF-8"):
        check_prompts("a b\udce4ll", "a cone")
