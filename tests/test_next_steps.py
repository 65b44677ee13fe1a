"""What commands say to type next."""

import json

import pytest
from rich.console import Console

from pds_nerfstudio.children import A_STAGE
from pds_nerfstudio.next_steps import PROMPTS, after_reconstruction, described_in, say_next, step
from pds_nerfstudio.toybox.dataset import write_description
from pds_nerfstudio.toybox.spec import find_edit


def test_a_made_scene_is_edited_by_its_own_prompts_and_prior(tmp_path):
    write_description(find_edit("red-to-blue"), tmp_path, prior="toybox")
    asked = ("--from", "a photo of a red ball", "--to", "a photo of a blue ball")
    assert described_in(tmp_path / "edit.json") == (*asked, "--prior", "toybox")
    write_description(find_edit("red-to-blue"), tmp_path)
    assert described_in(tmp_path / "edit.json") == asked
    *_, edit = after_reconstruction(tmp_path / "run", tmp_path / "source")
    assert edit.command == ("pds", "edit", str(tmp_path / "run"), *asked)


@pytest.mark.parametrize("content", [None, "", "[1]", "[" * 100_000, json.dumps({"source_prompt": "a photo"})])
def test_of_any_other_it_is_said_where_prompts_belong(tmp_path, content):
    if content is not None:
        (tmp_path / "edit.json").write_text(content)
    assert described_in(tmp_path / "edit.json") == PROMPTS


def test_a_stage_leaves_what_is_next_to_the_command_that_runs_it(capsys, monkeypatch):
    say_next(Console(), [step("look at it", "pds", "runs")])
    assert capsys.readouterr().out == "Next:\n  pds runs   # look at it\n"
    monkeypatch.setenv(A_STAGE, "edit")
    say_next(Console(), [step("look at it", "pds", "runs")])
    assert capsys.readouterr().out == ""
