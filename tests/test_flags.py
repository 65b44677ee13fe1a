"""Flags as people type them: prompts by one name in every command, and the right flag for a mistyped one."""

import argparse

import pytest

from pds_nerfstudio import cli
from pds_nerfstudio.children import A_STAGE
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.flags import flags_of, parser_of, refuse_mistyped, refuse_unquoted, tidied
from pds_nerfstudio.prompts import check_prompts, require_known, require_read_differently, unknown_words

FLAGS = {"pipeline.src-prompt", "pipeline.resolution", "pipeline.objective.guidance-scale", "max-num-iterations"}


@pytest.mark.parametrize("prefix", ["--", "--pipeline."])
@pytest.mark.parametrize("typed", ["--src-prompt", "--src_prompt", "--pipeline.src-prompt", "--from"])
def test_prompts_go_by_one_name(prefix, typed):
    assert tidied(["x", typed, "a cat", "--out", "o"], prefix) == ["x", f"{prefix}src-prompt", "a cat", "--out", "o"]
    assert tidied(["x", f"{typed}=a cat"], prefix) == ["x", f"{prefix}src-prompt=a cat"]


def test_a_prompt_may_begin_with_a_dash():
    words = ["--tgt-prompt", "-a cat", "--src-prompt", "--a -- dog"]
    assert tidied(words, "--") == ["--tgt-prompt=-a cat", "--src-prompt=--a -- dog"]
    missing = ["--tgt-prompt", "--src-prompt", "a"]
    assert tidied(missing, "--") == missing
    several = ["--tgt-prompt", "-a", "-b", "--out", "o"]
    assert tidied(several, "--") == several


def test_other_words_stay_as_they_are():
    words = ["pds-edit", "--load-dir", "-x", "--vis=tensorboard", "--optimizers.to.lr", "1", "a", "--"]
    assert tidied(words, "--pipeline.") == words


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--pipeline.resolutoin", "pipeline.resolution"),
        ("--resolution", "pipeline.resolution"),
        ("--guidance-scale=3", "pipeline.objective.guidance-scale"),
        ("--pipeline.guidance_scale", "pipeline.objective.guidance-scale"),
        ("--guidanc-scale", "pipeline.objective.guidance-scale"),
        ("--max-num-iteration", "max-num-iterations"),
    ],
)
def test_a_mistyped_flag_is_answered_by_the_one_of_this_command(typed, meant):
    with pytest.raises(UserError, match=f"^ns-train x has no --.*: did you mean --{meant}\\?$"):
        refuse_mistyped([typed, "1"], "ns-train x", lambda: FLAGS)


@pytest.mark.parametrize("typed", ["--pipeline.resolution", "--max_num_iterations=3", "--help", "-h", "--"])
def test_what_is_right_is_left_to_the_parser(typed):
    refuse_mistyped([typed], "ns-train x", lambda: FLAGS)


@pytest.mark.parametrize("prompt", ["remove the tree", "\u201cremove the tree\u201d", "\u00abremove the tree\u00bb"])
def test_a_prompt_that_the_shell_has_taken_apart_is_named(prompt):
    words = ["--pipeline.tgt-prompt", *prompt.split(" "), "--vis", "viewer"]
    with pytest.raises(UserError, match=r'write --pipeline\.tgt-prompt "remove the tree"'):
        refuse_unquoted(words, lambda: {"colmap"})


def test_words_that_may_follow_a_prompt_are_left_alone():
    refuse_unquoted(["--tgt-prompt", "a ball", "colmap", "--data", "x", "y"], lambda: {"colmap"})
    refuse_unquoted(["--src-prompt", "ball", "RUN", "--tgt-prompt", "a cat", "a dog"])
    refuse_unquoted(["--tgt-prompt", "\u201cstop\u201d is written on it", "--out", "o"], set)


def test_flags_of_subcommands_count():
    parser = argparse.ArgumentParser()
    parser.add_argument("--one-flag")
    parser.add_subparsers().add_parser("below").add_argument("--two_flag")
    assert {"one-flag", "two-flag"} <= flags_of(parser)


def test_every_flag_of_a_command_is_known():
    known = flags_of(parser_of(cli.commands()["render"]))
    assert {"paths", "held-out", "no-held-out", "data", "out"} <= known


def test_prompts_that_differ_in_capitals_alone_are_refused():
    with pytest.raises(UserError, match="capitals and spaces alone"):
        check_prompts("a photo of a Red  ball", "A photo of a red ball")
    check_prompts("a photo of a Red ball", "A photo of a red ball", needs_source=False)


def test_prompts_that_differ_beyond_what_is_read_are_refused():
    from transformers import CLIPTokenizer

    from pds_nerfstudio.priors.check import TOYBOX

    tokenizer = CLIPTokenizer.from_pretrained(TOYBOX, subfolder="tokenizer")
    long = "a photo of a red ball " * 8
    readers = [(tokenizer, tokenizer.model_max_length)]
    require_read_differently("a photo of a red ball", "a photo of a blue ball", readers)
    with pytest.raises(UserError, match="reads the first 24 tokens"):
        require_read_differently(long, long + "on a blue floor", readers)


def test_words_that_toybox_does_not_know_are_named():
    warning = unknown_words("toybox", "a photo of a red ball", "a photo of a Zebra, a ball")
    assert warning.startswith("The toybox prior does not know 'zebra', and")
    assert "blue, " in warning
    assert unknown_words("toybox", "a photo of a man raising his arms", "A photo of a blue ball") == ""
    assert unknown_words("owner/other", "zebra") == ""
    assert "know 'zebra' or 'stripes', and" in unknown_words("toybox", "a zebra", "a photo of stripes")


def test_a_stage_of_another_command_does_not_warn_again(monkeypatch):
    monkeypatch.setenv(A_STAGE, "edit")
    assert unknown_words("toybox", "a zebra") == ""


def test_a_flag_like_no_other_is_refused_too():
    with pytest.raises(UserError, match="ns-train x has no --xyzzy: ns-train x --help lists its flags"):
        refuse_mistyped(["--xyzzy"], "ns-train x", lambda: FLAGS)


def test_the_words_of_a_prompt_without_quotes_are_told_from_a_run_behind_it():
    refuse_unquoted(["--src-prompt", "a can", "RUN", "--to", "a cone"], behind=1)
    with pytest.raises(UserError, match='write --src-prompt "a can on RUN"'):
        refuse_unquoted(["--src-prompt", "a", "can", "on", "RUN", "--to", "a cone"], behind=1)
    with pytest.raises(UserError, match='write --from "a can on RUN"'):  # by the name that was typed
        refuse_unquoted(["--from", "a", "can", "on", "RUN", "--to", "a cone"], behind=1)


def test_arguments_for_a_stage_need_no_equals_sign():
    assert tidied(["RUN", "--edit-args", "--vis tensorboard", "--out", "x"], "--") == [
        *("RUN", "--edit-args=--vis tensorboard", "--out", "x")
    ]
    assert tidied(["--edit-args", "--pipeline.seed=3", "RUN"], "--") == ["--edit-args=--pipeline.seed=3", "RUN"]


def test_arguments_for_a_stage_that_the_shell_has_taken_apart_are_named():
    with pytest.raises(UserError, match='write --edit-args="--vis tensorboard"'):
        refuse_unquoted(["RUN", "--edit-args", "--vis", "tensorboard"], behind=1)
    refuse_unquoted(["RUN", "--edit-args", "--vis tensorboard", "--out", "x"], behind=1)
    refuse_unquoted(["--edit-args", "--pipeline.seed=3", "RUN"], behind=1)


@pytest.mark.parametrize("words", ["a cone", "the ball in blue", "photo of a cone"])
def test_words_of_one_prompt_are_told_from_several_prompts(words):
    with pytest.raises(UserError, match=f'write --to "{words}"'):
        refuse_unquoted(["RUN", "--to", *words.split()])
    refuse_unquoted(["RUN", "--to", "red", "blue", "green"])
    refuse_unquoted(["RUN", "--to", "a red ball", "a blue ball"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("--steps", "max-num-iterations"), ("--guidance", "pipeline.objective.guidance-scale"), ("--out", "output-dir")],
)
def test_what_other_programs_call_a_flag_is_known(typed, meant):
    known = {"max-num-iterations", "pipeline.objective.guidance-scale", "output-dir", "optimizers.quats.optimizer.eps"}
    with pytest.raises(UserError, match=f"did you mean --{meant}\\?"):
        refuse_mistyped([typed, "1"], "ns-train x", lambda: known)


def test_a_region_of_words_that_the_prior_does_not_know_is_refused():
    with pytest.raises(UserError, match="--region 'dog': the toybox prior knows none of these words"):
        require_known("toybox", "dog", "--region")
    require_known("toybox", "red dog", "--region")
    require_known("toybox", "", "--region")
    require_known("owner/other", "dog", "--region")
