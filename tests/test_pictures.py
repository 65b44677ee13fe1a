"""Sheets and films as files."""

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from pds_nerfstudio.files import distinct_names, written
from pds_nerfstudio.pictures import contact_sheet, heat, read_photograph, save_image, side_by_side, video


def test_a_sheet_holds_its_pictures_and_grows_with_its_words(tmp_path):
    red = torch.zeros(1, 3, 8, 16)
    red[:, 0] = 1.0
    rows = {"a long label that needs to be broken into several lines of text": red, "two": torch.cat([red, 1 - red])}
    contact_sheet(rows, tmp_path / "plain.png", "title")
    contact_sheet(rows, tmp_path / "headed.png", "a title " * 30, columns=["first", "a heading that is broken too"])
    plain, headed = (Image.open(tmp_path / name) for name in ("plain.png", "headed.png"))
    assert headed.height > plain.height
    assert headed.width > plain.width
    colours = plain.convert("RGB").getcolors(1 << 20)
    counts = {colour: count for count, colour in colours}
    assert counts[(255, 0, 0)] == 2 * 160 * 80
    assert counts[(0, 255, 255)] == 160 * 80


def test_a_film_has_its_frames_and_their_size(tmp_path):
    shades = [torch.full((3, 32, 48), value) for value in (0.0, 0.5, 1.0)]
    with video(tmp_path / "film.mp4", fps=5) as add:
        for shade in shades:
            add(shade)
    frames = iio.imread(tmp_path / "film.mp4", plugin="FFMPEG")
    assert frames.shape == (3, 32, 48, 3)
    assert [round(frame.mean() / 255, 1) for frame in frames] == [0.0, 0.5, 1.0]


def test_a_film_for_pages_plays_for_ever(tmp_path):
    with video(tmp_path / "film.webp", fps=5) as add:
        for value in (0.0, 0.5, 1.0):
            add(torch.full((3, 32, 48), value))
    with Image.open(tmp_path / "film.webp") as film:
        assert (film.n_frames, film.size, film.info["loop"]) == (3, (48, 32), 0)
        shades = [np.asarray(frame.convert("L")).mean() / 255 for frame in ImageSequence.Iterator(film)]
    assert shades == pytest.approx([0.0, 0.5, 1.0], abs=0.02)


def test_two_pictures_side_by_side_are_labelled_below():
    both = side_by_side([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)], ("before", "after"))
    assert both.shape[-1] == 512
    assert both.shape[-2] > 256
    assert both.shape[-2] % 2 == 0
    assert float(both[:, :256, :256].max()) == 0.0
    assert float(both[:, :256, 256:].min()) == 1.0


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "deep" / "picture.png"
    save_image(torch.zeros(3, 4, 4), path)
    before = path.read_bytes()

    def interrupted() -> None:
        with written(path) as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_files_that_share_a_name_get_numbers():
    assert distinct_names(["a/1.png", "b/2.jpg"]) == ["1", "2"]
    assert distinct_names(["a/1.png", "b/1.jpg"]) == ["000_1", "001_1"]


def test_heat_is_black_where_nothing_changed_and_white_at_half():
    base = torch.full((1, 3, 2, 2), 0.25)
    assert heat(base, base).max() == 0
    assert heat(base + 0.5, base).min() == 1


def test_a_users_photograph_is_read_as_viewers_show_it(tmp_path):
    """Turned as its EXIF says, 16 bits of gray as 8, nothing of what transparency hides; a scene's as it is stored."""
    turned, gray, clear = (tmp_path / name for name in ("turned.png", "gray.png", "clear.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).save(turned, exif=exif)
    Image.fromarray(np.full((2, 2), 65535 // 5, np.uint16)).save(gray)
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(clear)
    assert read_photograph(turned, 1, 1)[0, 0, :, 0].tolist() == [1.0, 0.0]
    assert read_photograph(turned, 1, 1, stored=True)[0, 0, 0].tolist() == [1.0, 0.0]
    cut_out = tmp_path / "cut out.png"
    Image.new("RGBA", (1, 1), (255, 0, 0, 0)).save(cut_out)
    for stored in (False, True):
        assert read_photograph(cut_out, 1, 1, stored).flatten().tolist() == [1.0, 1.0, 1.0]
    assert read_photograph(gray, 2, 1).unique().tolist() == pytest.approx([0.2])
    assert read_photograph(clear, 2, 1).min() == 1.0
