"""`pds studio`: what it lists, refuses and says where Mitsuba is not installed."""

import sys

import pytest
from rich.console import Console

from pds_nerfstudio.cli.studio import NOT_SAID, Studio, _say_written
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.prompts import unknown_words
from pds_nerfstudio.studio import mitsuba
from pds_nerfstudio.studio.photography import Photography
from pds_nerfstudio.studio.spec import EDITS, STILLS


def test_without_arguments_it_lists_captures_and_edits(capsys):
    Studio().run()
    said = capsys.readouterr().out
    for named in (*STILLS, *EDITS):
        assert named.name in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"edit": "vase-pink"}, "There is no studio edit 'vase-pink'"),
        ({"caption": "a photo of an elephant"}, "No studio scene has the caption"),
        ({"capture": "elephant"}, "There is no studio capture 'elephant'"),
    ],
)
def test_what_is_not_there_is_one_sentence(arguments, said, tmp_path):
    with pytest.raises(UserError, match=said):
        Studio(**arguments, out=tmp_path).run()


def test_two_scenes_at_once_are_refused():
    with pytest.raises(UserError, match="Give one of"):
        Studio(edit="vase-flower", capture="vase")
    with pytest.raises(UserError, match="--piece is for --caption"):
        Studio(edit="vase-flower", piece=7)


def test_an_edit_that_is_not_chosen_yet_has_no_unknown_words(tmp_path, capsys):
    console = Console(width=400, force_terminal=False)
    for target, warned in ((NOT_SAID, False), ("a photo of a marble bowl that sings", True)):
        _say_written(console, tmp_path, "a photo of a marble bowl", target)
        said = capsys.readouterr().out
        assert ("does not know" in said) == warned
        assert f"--prior {'ANOTHER' if warned else 'studio'}" in said


def test_what_would_be_rendered_otherwise_is_refused_of_a_capture():
    with pytest.raises(UserError, match="--capture writes photographs as they come"):
        Studio(capture="vase", how=Photography(size=128))


def test_without_mitsuba_one_sentence_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    mitsuba.load.cache_clear()
    with pytest.raises(UserError, match=r"install it with `pip install '\.\[studio\]'` in this package's checkout\.$"):
        Studio(edit="vase-flower", out=tmp_path / "out").run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("still", STILLS, ids=lambda still: still.name)
def test_an_edit_is_proposed_by_the_packaged_prior_where_that_knows_the_words(still, tmp_path, capsys):
    Studio(capture=still.name, out=tmp_path).run()
    said = capsys.readouterr().out
    edit = still.edits[0]
    knows = not unknown_words("studio", edit.source_prompt, edit.target_prompt)
    assert ("--prior studio" in said) is knows
    assert ("does not know" in said) is not knows
