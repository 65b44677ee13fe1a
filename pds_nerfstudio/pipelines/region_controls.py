"""The panel's group "Region": clicks and rectangles on the scene, or the viewer's crop, say what may change."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nerfstudio.cameras.cameras import CameraType
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from viser import GuiEvent, ScenePointerEvent

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.pipelines.steering import NOTHING_PICKED
from pds_nerfstudio.scenes.region import Point

GROWN_BY = 0.1
"""By which share of an object's radius one press of "Grow" or "Shrink" moves its rim."""
ALTERATIONS = {
    ("Grow", "Shrink"): "Take in more around the object, or less",
    ("Invert", "Clear"): "Change all but what is selected, or no longer only it",
    ("Draw", "Erase"): "Then drag a rectangle over the view: what it shows may change too, or no longer",
}
"""Two in a row, with what is said of both: more would not fit the panel's width."""


class Pages(Protocol):
    """What pages show of the scene, as far as a region is concerned."""

    shows_region: bool

    def surface_along(self, origin: Sequence[float], direction: Sequence[float]) -> Point:
        """See `display.Display.surface_along`."""
        ...


class RegionControls:
    """The group's elements; made while its folder is open."""

    def __init__(
        self,
        viewer: Viewer,
        display: Pages,
        value_of: Callable[[str], Any],
        ask: Callable[[str, Any], None],
        say: Callable[[str], None],
        button: Callable[..., Any],
    ) -> None:
        """Put them into the page.

        Args:
            value_of: what one of the edit's settings is, or was last asked to be.
            ask: takes a change and its value.
            say: shows what became of a request.
            button: makes a button of a label and what it does.
        """
        self._viewer, self._display, self._value_of = viewer, display, value_of
        self._ask, self._say = ask, say
        gui: Any = viewer.viser_server.gui
        button(
            "Click on the subject",
            self._wait_for_click,
            hint="The next click on the scene selects an object: the edit then changes nothing else",
        )
        for alterations, hint in ALTERATIONS.items():
            self._add_alterations(gui, alterations, hint)
        self._shown = gui.add_checkbox(
            "Show what may change", display.shows_region, hint="Tint it in the view; of splats alone"
        )

        @self._shown.on_update
        def _(_: GuiEvent) -> None:
            display.shows_region = self._shown.value
            viewer._trigger_rerender()

        gui.add_markdown("Or place the viewer's crop (Control, *Crop Viewport*) around what may change.")
        button("Change only what is in the crop box", self._ask_for_box)
        button("Change everything", self._free)

    def _add_alterations(self, gui: Any, alterations: tuple[str, ...], hint: str) -> None:
        alter = gui.add_button_group("", alterations, hint=hint)
        alter.value = ""  # viser tells of no press of the button that was pressed last

        @alter.on_click
        def _(event: GuiEvent) -> None:
            if event.client is not None:
                asked, alter.value = alter.value, ""
                self._alter(asked)

    def _wait_for_click(self) -> None:
        scene = self._viewer.viser_server.scene

        @scene.on_pointer_event("click")
        def _(event: ScenePointerEvent) -> None:
            scene.remove_pointer_callback()
            self._pick(event)

        self._say("Click on the subject in the view.")

    def _pick(self, event: ScenePointerEvent) -> None:
        assert event.ray_origin is not None
        assert event.ray_direction is not None
        origin = [value / VISER_NERFSTUDIO_SCALE_RATIO for value in event.ray_origin]
        try:
            point = self._display.surface_along(origin, event.ray_direction)
        except UserError as error:
            self._say(f"Refused: {error}")
            return
        self._shown.value = self._display.shows_region = True
        self._ask("pick", NOTHING_PICKED | {"point": [round(value, 6) for value in point]})

    def _wait_for_rectangle(self, adds: bool) -> None:
        scene = self._viewer.viser_server.scene

        @scene.on_pointer_event("rect-select")
        def _(event: ScenePointerEvent) -> None:
            scene.remove_pointer_callback()
            self._draw(event, adds)

        self._say("Now drag a rectangle over the view.")

    def _draw(self, event: ScenePointerEvent, adds: bool) -> None:
        """A stencil on the view of the page in which somebody has dragged."""
        view = self._viewer.get_camera_state(event.client)
        if view.camera_type != CameraType.PERSPECTIVE:
            self._say("Refused: the view is no perspective one. End its preview, then drag again.")
            return
        corners = [[min(max(float(value), 0.0), 1.0) for value in corner] for corner in event.screen_pos]
        (left, right), (top, bottom) = (sorted(ends) for ends in zip(*corners, strict=True))
        stencil = {
            "pose": [round(value, 6) for value in view.c2w.flatten().tolist()],
            "fov": float(view.fov),
            "aspect": float(view.aspect),
            "rectangle": [round(value, 6) for value in (left, top, right, bottom)],
            "adds": adds,
        }
        now = self._value_of("pick") or NOTHING_PICKED
        self._shown.value = self._display.shows_region = True
        self._ask("pick", now | {"drawn": [*now["drawn"], stencil]})

    def _alter(self, how: str) -> None:
        now = self._value_of("pick")
        if how in ("Draw", "Erase"):
            self._wait_for_rectangle(how == "Draw")
        elif now is None:
            self._say("Refused: nothing is selected. Press *Click on the subject*, then click on it in the view.")
        elif how == "Clear":
            self._ask("pick", None)
        elif how == "Invert":
            self._ask("pick", inverted(now))
        elif now["point"] is None:
            self._say("Refused: what is drawn has no rim. Draw more of it, or erase some.")
        else:
            grown = now["grow"] + (GROWN_BY if how == "Grow" else -GROWN_BY)
            self._ask("pick", now | {"grow": round(min(max(grown, -1.0), 1.0), 6)})

    def _free(self) -> None:
        for name in ("box", "pick"):
            if self._value_of(name) is not None:
                self._ask(name, None)

    def _ask_for_box(self) -> None:
        """The corners of the viewer's crop, of which its rotation has no part."""
        control = self._viewer.control_panel
        if not control.crop_viewport:
            self._say(
                "Refused: the viewer's crop is off. Turn it on under Control, *Crop Viewport*, and place its box."
            )
            return
        crop = control.crop_obb
        corners = (*(crop.T - crop.S / 2), *(crop.T + crop.S / 2))
        self._ask("box", [round(float(value), 6) for value in corners])


def inverted(pick: dict[str, Any]) -> dict[str, Any]:
    """All but what this value of `pick` selects: what a stencil adds to the one, it takes from the other."""
    drawn = [stencil | {"adds": not stencil["adds"]} for stencil in pick["drawn"]]
    return pick | {"invert": pick["point"] is not None and not pick["invert"], "drawn": drawn}
