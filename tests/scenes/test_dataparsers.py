"""Settings of dataparsers, told by what lies in a folder."""

from pathlib import Path

import pytest
from PIL import Image

from pds_nerfstudio.scenes.dataparsers import dataparser_of


def save(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.mark.parametrize(
    ("scaled_down", "factor", "rounding"),
    [
        ((801, 501), 2, "floor"),
        ((802, 501), 2, "round"),  # half of 1603 and of 1002; the first of those that fit
        ((801, 502), 1, "floor"),
        (None, 1, "floor"),
    ],
)
def test_sizes_of_photographs_that_were_scaled_down_tell_how_they_were_rounded(tmp_path, scaled_down, factor, rounding):
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "sparse" / "0" / "cameras.bin").touch()
    save(tmp_path / "images" / "left" / "1.png", (1603, 1002))
    if scaled_down is not None:
        save(tmp_path / "images_2" / "left" / "1.png", scaled_down)
    parser = dataparser_of(tmp_path)
    assert (parser.downscale_factor, parser.downscale_rounding_mode) == (factor, rounding)


@pytest.mark.parametrize("name", [".DS_Store", "._1.png", ".thumbs/1.png"])
def test_hidden_files_are_no_photographs(tmp_path, name):
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "sparse" / "0" / "cameras.bin").touch()
    save(tmp_path / "images" / "1.png", (16, 20))
    (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "images" / name).write_text("no picture")
    assert dataparser_of(tmp_path).downscale_factor == 1
