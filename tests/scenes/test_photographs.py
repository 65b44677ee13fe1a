"""What somebody means who names files, a folder, a dataset or a run."""

import json
import re
import shutil

import pytest

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.photographs import find_photographs


def test_image_files_are_taken_as_they_are(make_dataset):
    files = sorted((make_dataset() / "images").iterdir())[:2]
    assert find_photographs(files, views=(7,)).paths == tuple(files)


def test_of_a_dataset_training_views_are_counted(make_dataset):
    data = make_dataset()
    names = [f"images/{i:02d}.png" for i in range(4)]
    transforms = json.loads((data / "transforms.json").read_text())
    transforms |= {"train_filenames": names[1:], "val_filenames": names[:1], "test_filenames": names[:1]}
    (data / "transforms.json").write_text(json.dumps(transforms))
    found = find_photographs([data], views=(0, 2))
    assert [path.name for path in found.paths] == ["01.png", "03.png"]
    assert (found.data, found.run) == (data, None)


def test_a_folder_of_images_needs_no_cameras(make_dataset):
    folder = make_dataset() / "images"
    (folder / "._00.png").write_text("what a Mac leaves")
    found = find_photographs([folder], views=(1,))
    assert [path.name for path in found.paths] == ["01.png"]


def test_a_dataset_of_one_photograph_is_that_photograph(make_dataset):
    data = make_dataset()
    transforms = json.loads((data / "transforms.json").read_text())
    (data / "transforms.json").write_text(json.dumps(transforms | {"frames": transforms["frames"][:1]}))
    assert [path.name for path in find_photographs([data]).paths] == ["00.png"]


@pytest.mark.parametrize("place", ["", "images"])
def test_another_tools_config_makes_no_run_of_a_dataset(make_dataset, place):
    data = make_dataset()
    (data / "config.yml").write_text("tool: other")
    assert [path.name for path in find_photographs([data / place], views=(1,)).paths] == ["01.png"]


@pytest.mark.slow
def test_of_a_run_its_own_training_views_and_family(toy_splats):
    found = find_photographs([toy_splats.parent / "nerfstudio_models"], views=(3,))
    assert [path.name for path in found.paths] == ["train_003.png"]
    assert (found.run, found.family) == (toy_splats.parent, "splatfacto")


@pytest.mark.parametrize(
    ("path", "views", "sentence"),
    [
        ("nowhere", (0,), "does not exist"),
        ("empty", (0,), "no images"),
        ("data", (9,), "no view 9"),
        ("data", (-1,), "no view -1"),
        ("broken", (0,), "cannot be read"),
    ],
)
def test_what_is_not_there_is_said(make_dataset, tmp_path, path, views, sentence):
    data = make_dataset()
    (tmp_path / "empty").mkdir()
    shutil.copytree(data, tmp_path / "broken")
    (tmp_path / "broken" / "transforms.json").write_text('{"frames": [{}]}')
    with pytest.raises(UserError, match=re.escape(sentence)):
        find_photographs([tmp_path / path], views)


def test_a_text_among_the_images_is_named(make_dataset):
    data = make_dataset()
    with pytest.raises(UserError, match=r"transforms\.json is no image"):
        find_photographs([data / "images" / "00.png", data / "transforms.json"])
