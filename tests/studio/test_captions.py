"""The vocabulary of studio: captions, what cannot be, edits and captures."""

from collections import Counter
from dataclasses import replace

import pytest

from pds_nerfstudio.studio.spec import (
    EDITS,
    IMPOSSIBLE,
    ROOMS,
    STILLS,
    StudioSpec,
    all_specs,
    find_edit,
    find_still,
    is_held_out,
    read_caption,
    words,
)


def test_every_scene_is_read_back_from_its_caption():
    specs = list(all_specs())
    assert [read_caption(spec.prompt()) for spec in specs] == specs


def test_captions_can_be_silent_about_material_room_and_light():
    spec = StudioSpec("mug", "metal", "flower", "backdrop", "evening")
    assert spec.prompt() == "a photo of a brushed metal mug with a flower in it in a photo studio in evening light"
    assert spec.prompt(material=False, room=False, light=False) == "a photo of a mug with a flower in it"


def test_a_caption_that_no_scene_has_is_refused_with_one_that_a_scene_has():
    with pytest.raises(ValueError, match="write one such as 'a photo of a glazed ceramic vase"):
        read_caption("a photo of an elephant")


@pytest.mark.parametrize("changed", [{"thing": "chair"}, {"material": "pink"}, {"light": "neon"}, {"seed": -1}])
def test_what_is_not_known_is_refused(changed):
    with pytest.raises(ValueError, match=str(next(iter(changed.values())))):
        StudioSpec(**changed)


def test_a_figure_that_raises_its_arms_is_said_in_words_of_its_own():
    spec = StudioSpec("cheering", "wooden", "hat", "shelf")
    assert (
        spec.prompt(light=False) == "a photo of a wooden figure raising its arms wearing a hat on a shelf in a library"
    )


def test_additions_that_an_object_cannot_carry_are_refused_and_never_listed():
    for thing, addition in IMPOSSIBLE:
        with pytest.raises(ValueError, match=f"no {thing} with"):
            StudioSpec(thing, addition=addition)
    assert not {(spec.thing, spec.addition) for spec in all_specs()} & IMPOSSIBLE


def test_edits_are_as_many_of_each_kind_and_change_one_thing():
    assert Counter(edit.kind for edit in EDITS) == {"appearance": 5, "addition": 5, "shape": 5}
    for edit in EDITS:
        field = {"appearance": "material", "addition": "addition", "shape": "thing"}[edit.kind]
        differing = [f for f in vars(edit.source) if getattr(edit.source, f) != getattr(edit.target, f)]
        assert differing == [field]
        assert edit.target in edit.alternatives()
        assert edit.source in edit.alternatives()
        assert find_edit(edit.name) is edit


def test_captures_differ_in_object_material_and_setting():
    assert len({still.source.thing for still in STILLS}) == len({still.source.material for still in STILLS})
    assert len({still.source.thing for still in STILLS}) == len(STILLS)
    assert len({(still.source.room, still.source.light) for still in STILLS}) == len(STILLS)
    assert {still.source.room for still in STILLS} == set(ROOMS)
    assert find_still("vase").source.thing == "vase"
    with pytest.raises(ValueError, match="choose one of: vase, teapot"):
        find_still("chair")


def test_words_are_those_of_the_captions():
    assert {"teapot", "marble", "flower", "window"} <= words()
    assert "elephant" not in words()


def test_the_edits_scenes_are_held_out_of_training_and_no_word_with_them():
    kept = {spec for spec in all_specs() if is_held_out(spec)}
    assert kept == {spec for edit in EDITS for spec in (edit.source, edit.target)}
    assert all(is_held_out(replace(spec, seed=7)) for spec in kept)
    trained = {word for spec in all_specs() if not is_held_out(spec) for word in spec.prompt().split()}
    assert trained == words()
