"""Pages of a running edit in a real browser: Chromium, without a screen or a GPU.

Screenshots are kept in outputs/panel/ (or PDS_ARTEFACTS), to be looked at.
"""

import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pds_nerfstudio.pipelines.trainer import EditTrainer

ARTEFACTS = Path(os.environ.get("PDS_ARTEFACTS", Path(__file__).parents[2] / "outputs" / "panel"))
SOFTWARE_GL = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
PATIENCE = 240_000
"""Milliseconds that a page may take for anything: what is tested is not speed."""
WORDS = 40
"""Pixels at the top of a picture that may show what its halves are."""


@contextmanager
def chromium() -> Iterator:
    """A browser; without one the test is skipped, loudly."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("NO BROWSER, THE PANEL IS NOT TESTED: install Chromium (Debian and Ubuntu: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*SOFTWARE_GL, "--ignore-gpu-blocklist"])
        yield browser
        browser.close()


class RunningEdit(threading.Thread):
    """An edit with a viewer, in a thread of its own so that the test can be in the browser."""

    def __init__(self, train: Callable, arguments: tuple, port: int):
        super().__init__(daemon=True)
        self.port = port
        self.trainer: EditTrainer | None = None
        self.error: BaseException | None = None
        self.sent: np.ndarray | None = None
        """The last picture that went to a page."""
        self._train, self._arguments = train, arguments

    def run(self) -> None:
        viewer = ("--vis", "viewer", "--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", self.port)
        try:
            self._train(*self._arguments, *viewer)
        except BaseException as error:
            self.error = error

    def open(self, browser, **options):
        """A page of it, with the panel in view."""
        assert self.trainer is not None
        server: Any = self.trainer.viewer_state
        page = browser.new_page(viewport={"width": 1400, "height": 900}, **options)
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://127.0.0.1:{server.viser_server.get_port()}")  # the next one, if the port was taken meanwhile
        page.get_by_role("button", name="Back to the source").wait_for()
        return page


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def row(page, label: str):
    """The row with this label."""
    return page.locator(".mantine-Flex-root", has=page.get_by_text(label, exact=True)).last


def field(page, label: str):
    """The input in it."""
    return row(page, label).locator("input").last


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def after(
    edit: RunningEdit, action: Callable[[], object], expected: Callable[[np.ndarray], bool] = lambda picture: True
) -> np.ndarray:
    """The first whole picture, [height, width, 3], that goes to a page after `action` and is as expected.

    One that was being made before may come first.
    """
    edit.sent = None
    action()

    def arrived() -> bool:
        return edit.sent is not None and 512 in edit.sent.shape and expected(edit.sent)

    wait(arrived)
    assert edit.sent is not None
    return edit.sent


def screenshot(page) -> np.ndarray:
    """What the page shows in place of the scene, in [0, 255].

    At a fiftieth of its size: with software GL the page lowers its own resolution as it sees fit.
    """
    shown = Image.open(io.BytesIO(page.locator("canvas").first.screenshot())).convert("RGB")
    return np.asarray(shown.resize((shown.width // 50, shown.height // 50), Image.Resampling.BOX)).astype(int)


def choose(page, label: str, option: re.Pattern) -> None:
    """Take an entry of a list."""
    row(page, label).locator("input:not([type=hidden])").click()
    page.get_by_role("option", name=option).click()


def divide(page, share: str) -> None:
    """Let the source have this share of the view."""
    slider = field(page, "Source | edited")
    slider.fill(share)
    slider.press("Enter")


def keep(page, name: str) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png")
