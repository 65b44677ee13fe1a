"""Edited files in Chromium: they open, and look as our rasteriser says.

Screenshots are kept in outputs/svg/ (or PDS_ARTEFACTS), to be looked at.
"""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pds_nerfstudio.pictures import save_image
from pds_nerfstudio.toybox.drawing import draw_scene
from pds_nerfstudio.toybox.spec import SceneSpec
from pds_nerfstudio.vector import read_drawing, render, write_drawing

from .drawings import DRAWINGS
from .test_write import moved

ARTEFACTS = Path(os.environ.get("PDS_ARTEFACTS", Path(__file__).parents[2] / "outputs" / "svg"))
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
SIZE = 256
FEATURES = ("arcs", "evenodd", "round", "tight", "transforms", "user space", "group opacity", "style sheet", "blobs 1")


@pytest.fixture(scope="module")
def page() -> Iterator:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("NO BROWSER, DRAWINGS ARE NOT COMPARED: install Chromium (Debian and Ubuntu: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser.new_page(viewport={"width": SIZE, "height": SIZE}, java_script_enabled=False)
        browser.close()


@pytest.mark.parametrize("name", [*FEATURES, "toybox"])
def test_an_edited_file_looks_in_a_browser_as_it_was_rendered(page, tmp_path, name):
    text = DRAWINGS[name] if name != "toybox" else draw_scene(SceneSpec("man", "blue"))
    (tmp_path / "in.svg").write_text(text)
    drawing = read_drawing(tmp_path / "in.svg")
    values = moved(drawing, points=5.0)
    write_drawing(drawing, values, tmp_path / "out.svg")
    page.goto((tmp_path / "out.svg").as_uri())
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    seen = torch.from_numpy(np.array(shot)).movedim(-1, 0)[None].float() / 255
    ours = render(drawing, values, SIZE, SIZE)
    save_image(torch.cat([ours, seen], dim=-1)[0], ARTEFACTS / f"{name.replace(' ', '_')}.png")
    difference = (ours - seen).abs()
    assert difference.mean() <= 0.01
    assert difference.mean(dim=(0, 1, 3)).max() <= 0.03
