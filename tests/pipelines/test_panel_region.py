"""The panel's region in a real browser: clicks and rectangles on the scene, see `pages`."""

import numpy as np
import pytest
import torch

from pds_nerfstudio.pipelines.steering import SESSION_FILE, read_session
from pds_nerfstudio.scenes.hull import project

from .pages import after, divide, keep, press, screenshot, wait

pytestmark = pytest.mark.slow


def tinted(picture: np.ndarray) -> bool:
    """Whether some of it is tinted as what may change is."""
    magenta = picture.astype(int)[..., [0, 2]].min(-1) - picture[..., 1]
    return (magenta > 60).mean() > 0.01


def free_of(model) -> torch.Tensor:
    """Which Gaussians may change; all of them while nothing says where, and while a scene is brought back."""
    return torch.ones(len(model.means), dtype=torch.bool) if (frozen := model.frozen) is None else ~frozen


@pytest.fixture
def paused(running, browser):
    """An edit after its first steps, and its page with the group open."""
    edit = running("pds-edit-splat")
    trainer, page = edit.trainer, edit.open(browser)
    wait(lambda: screenshot(page).std() > 10)
    page.wait_for_timeout(3000)  # until the page knows its own shape
    plain = after(edit, lambda: divide(page, "0"))
    assert not tinted(plain)
    press(page, "Resume Training")
    wait(lambda: trainer._next_step > 2)
    press(page, "Pause Training")
    wait(lambda: trainer.training_state == "paused")
    page.get_by_text("Region", exact=True).click()
    yield edit, page
    page.close()


def test_a_click_on_the_subject_confines_the_edit_to_it_and_is_seen(paused):
    edit, page = paused
    trainer = edit.trainer
    region, log = trainer.pipeline.config.region, trainer.base_dir / SESSION_FILE
    press(page, "Clear")
    page.get_by_text("nothing is selected").wait_for()

    canvas = page.locator("canvas").first.bounding_box()

    def click(x: float, y: float) -> None:
        press(page, "Click on the subject")
        page.get_by_text("Click on the subject in the view").wait_for()
        page.mouse.click(canvas["x"] + x * canvas["width"], canvas["y"] + y * canvas["height"])

    click(0.02, 0.02)
    page.get_by_text("There is nothing of the scene").wait_for()
    assert region.pick is None

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


def test_what_is_drawn_over_the_view_may_change_and_what_is_erased_may_not(paused):
    edit, page = paused
    trainer = edit.trainer
    model, region = trainer.pipeline.model, trainer.pipeline.config.region
    canvas = page.locator("canvas").last.bounding_box()  # what the panel leaves of the page

    def drag(how: str, left: float, top: float, right: float, bottom: float) -> None:
        press(page, how)
        page.get_by_text("Now drag a rectangle").wait_for()
        page.wait_for_timeout(500)  # until a drag means no turning
        page.mouse.move(canvas["x"] + left * canvas["width"], canvas["y"] + top * canvas["height"])
        page.mouse.down()
        page.mouse.move(canvas["x"] + right * canvas["width"], canvas["y"] + bottom * canvas["height"], steps=5)
        page.mouse.up()

    after(edit, lambda: drag("Draw", 0.4, 0.4, 0.62, 0.75), tinted)
    keep(page, "9_drawn")
    wait(lambda: model.frozen is not None)
    drawn = ~model.frozen
    (stencil,) = region.drawn
    assert stencil.rectangle == pytest.approx((0.4, 0.4, 0.62, 0.75), abs=0.01)
    place, _ = project(stencil.camera, model.means.detach()[drawn])
    camera = stencil.camera
    shares = place / torch.tensor([float(camera.width[0]), float(camera.height[0])])
    low, high = torch.tensor([0.39, 0.39]), torch.tensor([0.63, 0.76])
    assert bool(((shares > low) & (shares < high)).all())

    press(page, "Grow")
    page.get_by_text("has no rim").wait_for()
    drag("Erase", 0.4, 0.4, 0.5, 0.75)
    wait(lambda: 0 < int(free_of(model).sum()) < int(drawn.sum()))
    left = free_of(model)
    assert not bool((left & ~drawn).any())
    press(page, "Invert")
    wait(lambda: torch.equal(free_of(model), ~left))
    press(page, "Undo")
    wait(lambda: torch.equal(free_of(model), left))
    assert [stencil.adds for stencil in region.drawn] == [True, False]
    press(page, "Clear")
    wait(lambda: model.frozen is None)
