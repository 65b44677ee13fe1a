"""Pictures of docs/ that are drawn by rules show what the code says."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "data_scripts"))

import draw_choice  # noqa: E402


def test_the_picture_of_the_choice_is_what_its_script_draws():
    assert draw_choice.OUT.read_text(encoding="utf8") == draw_choice.draw()


def test_the_choice_says_what_the_recipes_set():
    said = [column.does() for column in draw_choice.COLUMNS]
    assert ["frozen" in text for text in said] == [True, True, False, False, False]
    assert ["perturbs nothing" in text for text in said] == [True, False, False, True, False]


def test_the_commands_of_the_choice_are_read_as_they_stand():
    import shlex

    from pds_nerfstudio.cli.edit import Edit
    from pds_nerfstudio.flags import parser_of

    for column in draw_choice.COLUMNS:
        line = ["RUN", "--from", "a", "--to", "b", *shlex.split(column.command)]
        parser_of(Edit).parse_args(line)
