"""The vocabulary: captions, held-out pairs and edits."""

import pytest

from pds_nerfstudio.toybox.spec import (
    COLOURS,
    EDITS,
    SHAPES,
    SceneSpec,
    all_specs,
    find_edit,
    held_out_captions,
    is_held_out,
)


def test_every_scene_has_its_own_caption():
    specs = list(all_specs())
    assert len({spec.prompt() for spec in specs}) == len(specs)


def test_captions_can_be_silent_about_colour_and_floor():
    spec = SceneSpec("man raising his arms", "orange", "black", hat=True)
    assert spec.prompt() == "a photo of an orange man raising his arms wearing a hat on a black floor"
    assert spec.prompt(colour=False, floor=False) == "a photo of a man raising his arms wearing a hat"


def test_held_out_pairs_leave_every_colour_and_every_shape_in_training():
    trained = {(spec.shape, spec.colour) for spec in all_specs() if not is_held_out(spec)}
    assert {shape for shape, _ in trained} == set(SHAPES)
    assert {colour for _, colour in trained} == set(COLOURS)
    assert len(trained) == 60


def test_there_are_200_held_out_captions_and_none_is_trained():
    captions = [caption for _, caption in held_out_captions()]
    assert len(set(captions)) == 200
    assert not set(captions) & {spec.prompt() for spec in all_specs() if not is_held_out(spec)}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_an_edit_changes_only_what_its_kind_says(edit):
    changed = {
        field
        for field in ("shape", "colour", "floor", "hat")
        if getattr(edit.source, field) != getattr(edit.target, field)
    }
    assert changed == {{"appearance": "colour", "addition": "hat", "shape": "shape"}[edit.kind]}
    assert edit.target in edit.alternatives()
    assert edit.source in edit.alternatives()


def test_there_are_edits_of_all_three_kinds_and_the_raised_arms_are_among_them():
    assert {edit.kind for edit in EDITS} == {"appearance", "addition", "shape"}
    assert find_edit("raise-arms").target_prompt == "a photo of a blue man raising his arms"


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"choose among .*raise-arms"):
        find_edit("fly")
    with pytest.raises(ValueError, match="choose one of: ball, cube"):
        SceneSpec("teapot")  # pyright: ignore[reportArgumentType]
