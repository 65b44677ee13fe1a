"""The panel in a real browser: Chromium, without a screen or a GPU, on a running toybox edit.

Screenshots are kept in outputs/panel/ (or PDS_ARTEFACTS), to be looked at.
"""

import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from viser import SceneApi

from pds_nerfstudio.pipelines.session import Session
from pds_nerfstudio.pipelines.steering import SESSION_FILE, Change, read_session
from pds_nerfstudio.pipelines.trainer import EditTrainer
from pds_nerfstudio.scenes.source import find_run, load_source_state

from .conftest import PROMPTS
from .test_edit import TOYBOX

pytestmark = pytest.mark.slow

ARTEFACTS = Path(os.environ.get("PDS_ARTEFACTS", Path(__file__).parents[2] / "outputs" / "panel"))
SOFTWARE_GL = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
PATIENCE = 240_000
"""Milliseconds that a page may take for anything: what is tested is not speed."""
WORDS = 40
"""Pixels at the top of a picture that may show what its halves are."""
MEANS = "_model.gauss_params.means"


@pytest.fixture(scope="module")
def browser() -> Iterator:
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
        page = browser.new_page(viewport={"width": 1400, "height": 900}, **options)
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://127.0.0.1:{self.port}")
        page.get_by_role("button", name="Back to the source").wait_for()
        return page


@pytest.fixture
def running(ns_train, toy_splats, free_port, monkeypatch) -> Iterator[Callable[..., RunningEdit]]:
    """`running(method, …)`: an edit that goes on until the test ends it, paused before its first step."""
    started: list[RunningEdit] = []
    setup = EditTrainer.setup

    def caught(self, *arguments, **options):
        setup(self, *arguments, **options)
        started[-1].trainer = self

    send = SceneApi.set_background_image

    def watched(self, image, *arguments, **options):
        started[-1].sent = image
        send(self, image, *arguments, **options)

    monkeypatch.setattr(EditTrainer, "setup", caught)
    monkeypatch.setattr(SceneApi, "set_background_image", watched)
    shared: list[bool] = []
    monkeypatch.setattr("pds_nerfstudio.pipelines.scene_trainer.share_heaps", lambda: shared.append(True))

    def run(method: str, *arguments: object) -> RunningEdit:
        options = (*TOYBOX, "--max-num-iterations", 100_000, "--start-paused", "True", *arguments)
        edit = RunningEdit(ns_train, (method, "--load-dir", toy_splats.parent, *PROMPTS, *options), free_port())
        started.append(edit)
        edit.start()
        wait(lambda: edit.trainer is not None or edit.error is not None)
        assert edit.error is None, edit.error
        assert shared, "an edit whose pages each have a heap of their own grows with every page"
        return edit

    yield run
    for edit in started:
        if edit.trainer is not None:
            edit.trainer.shutdown()
        edit.join(120)
        assert not edit.is_alive()
        assert edit.error is None, edit.error


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


def test_an_edit_is_steered_from_the_page_and_goes_back_to_its_source(running, browser, toy_splats, monkeypatch):
    asked_at = {}
    request = Session.request

    def noting(self, change, value=None):
        asked_at[change] = self._trainer._next_step
        request(self, change, value)

    monkeypatch.setattr(Session, "request", noting)
    edit = running("pds-edit-splat")
    trainer, page = edit.trainer, edit.open(browser)
    wait(lambda: screenshot(page).std() > 10)  # it shows something
    page.wait_for_timeout(3000)  # until the page knows its own shape
    seen_at_first = screenshot(page)
    keep(page, "1_begin")
    source = after(edit, lambda: divide(page, "1"))
    divide(page, "0")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    panel = page.locator(".mantine-ScrollArea-viewport").first
    assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth")
    for group in ("Edit", "Prompt", "Strength", "History", "Region"):
        assert page.get_by_text(group, exact=True).first.bounding_box()["y"] < 900, group

    press(page, "Resume Training")
    wait(lambda: trainer._next_step > 5)
    field(page, "Should show").fill("a photo of a blue can")
    press(page, "Use these prompts")
    page.get_by_text("Before step").wait_for()
    log = trainer.base_dir / SESSION_FILE
    change = read_session(log)[-1]
    assert (change.change, change.value) == ("prompts", ["a photo of a red can", "a photo of a blue can"])
    assert 0 <= change.step - asked_at["prompts"] <= 2
    assert trainer.pipeline.config.tgt_prompt == "a photo of a blue can"

    field(page, "Name").fill("half way")
    press(page, "Keep a snapshot")
    wait(lambda: read_session(log)[-1] == Change(read_session(log)[-1].step, "snapshot", "half way"))
    reached = read_session(log)[-1].step
    wait(lambda: trainer._next_step > reached + 20)
    press(page, "Pause Training")
    wait(lambda: trainer.training_state == "paused")
    page.get_by_text("What is happening").click()
    page.get_by_alt_text("gradient").evaluate("picture => picture.scrollIntoView()")  # at once: it is replaced often
    keep(page, "2_edited")

    half = source.shape[1] // 2

    def left_is_the_source(picture: np.ndarray) -> bool:
        return np.array_equal(picture[WORDS:, :half], source[WORDS:, :half])

    divided = after(edit, lambda: divide(page, "0.5"), left_is_the_source)
    assert not np.array_equal(divided[:, half + 1 :], source[:, half + 1 :])
    wait(lambda: np.abs(screenshot(page) - seen_at_first).max() > 10)
    keep(page, "3_source_beside_edited")
    edited = after(edit, lambda: divide(page, "0"), lambda picture: not left_is_the_source(picture))
    assert np.array_equal(edited[WORDS:, half + 1 :], divided[WORDS:, half + 1 :])

    means = trainer.pipeline.model.means.detach().clone()
    press(page, "Undo")  # of the prompts, and with them of the steps since
    page.get_by_text(re.compile("Before step .*back to step")).wait_for()
    assert trainer.pipeline.config.tgt_prompt == PROMPTS[3]
    wait(lambda: field(page, "Should show").input_value() == PROMPTS[3])
    keep(page, "4_undone")
    press(page, "Redo")
    wait(lambda: trainer.pipeline.config.tgt_prompt == "a photo of a blue can")
    wait(lambda: torch.equal(trainer.pipeline.model.means, means))
    choose(page, "Moment", re.compile("half way"))
    page.get_by_alt_text("moment").wait_for()
    keep(page, "5_moments")
    press(page, "Go back to this moment")
    wait(lambda: not torch.equal(trainer.pipeline.model.means, means))
    assert not np.array_equal(divided[:WORDS], edited[:WORDS])

    def is_the_source(picture: np.ndarray) -> bool:
        return np.array_equal(picture[WORDS:], source[WORDS:])

    after(edit, lambda: press(page, "Back to the source"), is_the_source)
    page.get_by_text(re.compile("Before step .*back to the source")).wait_for()
    assert torch.equal(trainer.pipeline.model.means, load_source_state(find_run(toy_splats))[MEANS])
    assert trainer.pipeline.config.tgt_prompt == PROMPTS[3]
    page.wait_for_timeout(3000)  # to draw what was sent
    keep(page, "6_back_to_the_source")

    page.get_by_text("Region", exact=True).click()
    press(page, "Change only what is in the crop box")
    page.get_by_text("the viewer's crop is off").wait_for()
    assert trainer.pipeline.config.region.box is None

    stood_at = trainer._next_step
    press(page, "Resume Training")
    wait(lambda: trainer._next_step > stood_at + 2)
    page.close()


def test_a_click_on_the_subject_confines_the_edit_to_it_and_is_seen(running, browser, toy_splats):
    edit = running("pds-edit-splat")
    trainer, page = edit.trainer, edit.open(browser)
    region, log = trainer.pipeline.config.region, trainer.base_dir / SESSION_FILE
    wait(lambda: screenshot(page).std() > 10)
    page.wait_for_timeout(3000)  # until the page knows its own shape
    plain = after(edit, lambda: divide(page, "0"))
    press(page, "Resume Training")
    wait(lambda: trainer._next_step > 2)
    press(page, "Pause Training")
    wait(lambda: trainer.training_state == "paused")
    page.get_by_text("Region", exact=True).click()
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_text("nothing is selected").wait_for()

    canvas = page.locator("canvas").first.bounding_box()

    def click(x: float, y: float) -> None:
        press(page, "Click on the subject")
        page.get_by_text("Click on the subject in the view").wait_for()
        page.mouse.click(canvas["x"] + x * canvas["width"], canvas["y"] + y * canvas["height"])

    click(0.02, 0.02)
    page.get_by_text("There is nothing of the scene").wait_for()
    assert region.pick is None

    def tinted(picture: np.ndarray) -> bool:
        magenta = picture.astype(int)[..., [0, 2]].min(-1) - picture[..., 1]
        return (magenta > 60).mean() > 0.01

    assert not tinted(plain)
    after(edit, lambda: click(0.35, 0.5), tinted)
    assert read_session(log)[-1].change == "pick"
    free = ~trainer.pipeline.model.frozen
    keep(page, "8_object_clicked_on")
    colours = trainer.pipeline.model.features_dc.detach()[free]
    assert (colours[:, 0] > colours[:, 1] + 0.5).float().mean() > 0.8  # the can is red, the floor is grey

    press(page, "Grow")
    wait(lambda: region.pick_grow == 0.1)
    wait(lambda: int((~trainer.pipeline.model.frozen).sum()) > int(free.sum()))
    press(page, "Shrink")
    wait(lambda: torch.equal(~trainer.pipeline.model.frozen, free))
    press(page, "Invert")
    wait(lambda: torch.equal(trainer.pipeline.model.frozen, free))
    press(page, "Invert")
    wait(lambda: torch.equal(~trainer.pipeline.model.frozen, free))

    before = {name: value.detach().clone() for name, value in trainer.pipeline.model.gauss_params.items()}
    at = trainer._next_step
    press(page, "Resume Training")
    wait(lambda: trainer._next_step > at + 3)
    press(page, "Pause Training")
    wait(lambda: trainer.training_state == "paused")
    for name, value in trainer.pipeline.model.gauss_params.items():
        assert torch.equal(value[~free], before[name][~free]), name
    assert not torch.equal(trainer.pipeline.model.means[free], before["means"][free])

    press(page, "Clear")
    wait(lambda: trainer.pipeline.model.frozen is None)
    assert region.pick is None
    page.close()


def test_without_a_history_of_scenes_going_back_asks_first(running, browser):
    edit = running("pds-edit-splat", "--history", "pictures")
    trainer, page = edit.trainer, edit.open(browser)
    press(page, "Resume Training")
    wait(lambda: trainer._next_step > 5)
    press(page, "Back to the source")
    page.get_by_text("That loses the scene as it is now").wait_for()
    press(page, "No")
    press(page, "Undo")
    page.get_by_text("there is nothing to undo").wait_for()
    log = trainer.base_dir / SESSION_FILE
    assert [change.change for change in read_session(log)] == ["begin"]
    press(page, "Back to the source")
    press(page, "Yes")
    wait(lambda: read_session(log)[-1].change == "restore")
    page.close()


def test_the_viewer_goes_after_the_step_that_writes_into_it(running, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()
    update = EditTrainer._update_viewer_state

    def slowly(self, step):
        reached.set()
        go_on.wait(60)
        self.panel.follow()
        self.panel._moments.value = self.panel._moments.options[0]  # which viser hands to its threads
        update(self, step)

    monkeypatch.setattr(EditTrainer, "_update_viewer_state", slowly)
    edit = running("pds-edit-splat")
    edit.trainer.training_state = "training"
    assert reached.wait(60)
    stopping = threading.Thread(target=edit.trainer.shutdown)
    stopping.start()
    stopping.join(0.5)
    assert stopping.is_alive()
    go_on.set()
    stopping.join(60)
    assert not stopping.is_alive()
    edit.trainer = None  # is stopped


def test_two_pages_a_closed_and_a_late_one_neither_stop_nor_change_the_edit(running, browser):
    edit = running("pnr-edit-splat", "--pipeline.eta", 0.3, "--pipeline.perturb", "everywhere")
    trainer = edit.trainer
    first, second = edit.open(browser), edit.open(browser)
    press(first, "Resume Training")
    wait(lambda: trainer._next_step > 5)
    press(second, "Perturb now")
    first.get_by_text(re.compile("Before step .*perturbed by")).wait_for()  # each page hears of what the other does
    at = trainer._next_step
    first.close()
    wait(lambda: trainer._next_step > at + 10)
    late = edit.open(browser)
    late.get_by_text("What is happening").click()
    late.get_by_text("Gaussians perturbed").wait_for()
    before = trainer._next_step
    wait(lambda: trainer._next_step > before + 10)

    background = trainer.pipeline.model.background_color.clone()
    shown = trainer.display
    assert shown is not None
    with shown.lock:  # as if a picture took for ever: the edit does not wait for it
        held_at = trainer._next_step
        wait(lambda: trainer._next_step > held_at + 5)
    press(late, "Pause Training")
    wait(lambda: trainer.training_state == "paused")
    keep(late, "7_opened_late")
    assert screenshot(late).std() > 10
    assert torch.equal(trainer.pipeline.model.background_color, background)
    assert trainer.pipeline.model.crop_box is None
    second.close()
    late.close()
