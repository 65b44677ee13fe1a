"""The panel in a real browser, on a running toybox edit: see `pages`."""

import re
import threading

import numpy as np
import pytest
import torch

from pds_nerfstudio.pipelines.session import Session
from pds_nerfstudio.pipelines.steering import SESSION_FILE, Change, read_session
from pds_nerfstudio.pipelines.trainer import EditTrainer
from pds_nerfstudio.scenes.source import find_run, load_source_state

from .conftest import PROMPTS
from .pages import WORDS, after, choose, divide, field, keep, press, screenshot, wait

pytestmark = pytest.mark.slow

MEANS = "_model.gauss_params.means"


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
