"""The edit's panel, at the top of nerfstudio's viewer. It shows how the edit goes and asks for changes.

Callbacks run on the viewer's threads and do no more than ask the `Session`, which makes changes between steps. What the
server sets calls them too, without a client: only a user's own doing counts.

It stands in the page itself rather than under nerfstudio's "Custom Elements", which come last and in the order of their
attributes' names.
"""

import base64
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap
from nerfstudio.viewer.viewer import Viewer
from PIL import Image
from torch import Tensor
from viser import GuiEvent, GuiInputHandle

from pds_nerfstudio.moments import SOURCE, Moment
from pds_nerfstudio.objectives import BY_NAME
from pds_nerfstudio.pipelines.distillation import DistillationConfig
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.history import History
from pds_nerfstudio.pipelines.region_controls import RegionControls
from pds_nerfstudio.pipelines.revise import ReviseConfig
from pds_nerfstudio.pipelines.steering import settings_of
from pds_nerfstudio.scenes.region import Point
from pds_nerfstudio.text import in_markdown

SECONDS_BETWEEN_UPDATES = 0.5
LARGEST_PICTURE = 256
"""Longer side, in pixels, of each of the two pictures of a step."""
THUMBNAIL = 288
"""Width in pixels of a moment's picture."""
NAMELESS = "snapshot"

HINTS = {
    "objective": "How the prior's opinion becomes a gradient. Another one comes with its own further settings; VSD and "
    "Piva need adapters, made only where an edit begins with them",
    "guidance_scale": "How strongly the prompts pull. More is a bolder change, and from some point on harsh colours; "
    "real priors like 7.5 to 100, toybox 3 to 30",
    "timesteps": "How much noise the prior is shown, from and to, in [0, 1]: much changes shapes, little detail",
    "strength": "How much of each picture is made anew, 0 nothing, 1 all of it",
    "regularisation": "How much of Piva's regularising term is taken",
    "η": "How far the scene is moved towards a random one: 0 not at all, 1 all the way. Shapes need more than colours",
    "divide": "How much of the view, from its left, shows the scene before the edit",
}


class Display(Protocol):
    """What pages show of the scene: `display.Display`, which stands beside the panel and not below it."""

    source_share: float
    shows_region: bool

    def surface_along(self, origin: Sequence[float], direction: Sequence[float]) -> Point:
        """See `display.Display.surface_along`."""
        ...


class Panel:
    """What stands in the page under "Edit"."""

    def __init__(
        self,
        viewer: Viewer,
        display: Display,
        config: EditConfig,
        ask: Callable[..., None],
        value_of: Callable[[str], Any],
        history: History,
    ) -> None:
        """Put the elements into the page: one or two for each of `steering.SETTINGS` that the edit has.

        Args:
            config: the edit's settings, which changes alter.
            ask: takes a change and its value, see `Session.request`.
            value_of: what a setting is to be by name, see `Session.value_of`.
            history: its moments, to be listed.
        """
        self._viewer, self._display, self._config, self._request = viewer, display, config, ask
        self._history = history
        self._gui: Any = viewer.viser_server.gui
        self._shown_at = -float("inf")
        self._settings: dict[str, list[GuiInputHandle]] = {}
        """By name of the setting, the elements that show its value, or its two values."""
        self._followed = settings_of(config)
        """The settings as the elements were last brought to them."""
        self._asked: set[str] = set()
        """Those that were asked for since."""
        self._listed: dict[str, str] = {}
        """What the list of moments shows, and the key of each."""
        # nerfstudio's title bar takes 50 pixels for links and a logo from its site; its panel is too narrow for itself.
        self._gui.configure_theme(
            control_layout="collapsible", control_width="large", dark_mode=True, brand_color=(255, 211, 105)
        )
        # Behind the button that pauses and resumes, before everything else.
        viewer.stats_markdown.visible = False  # the status says more
        with self._gui.add_folder("Edit", order=viewer.resume_train.order + 0.5):
            self._status = self._gui.add_markdown("Waiting for the first step.")
            self._add_divider()
            with self._gui.add_folder("Prompt"):
                self._add_prompts()
            with self._gui.add_folder("Strength"):
                self._add_strength()
            with self._gui.add_folder("History"):
                self._add_history()
            with self._gui.add_folder("Region", expand_by_default=False):
                RegionControls(viewer, self._display, value_of, self._ask, self.say, self._button)
            with self._gui.add_folder("What is happening", expand_by_default=False):
                self._picture, self._decisions = self._gui.add_markdown(""), self._gui.add_markdown("")

    # The elements, in the order of the page

    def _add_divider(self) -> None:
        slider = self._gui.add_slider(
            "Source | edited", 0.0, 1.0, 0.05, self._display.source_share, hint=HINTS["divide"]
        )

        @slider.on_update
        def _(_: GuiEvent) -> None:
            self._display.source_share = slider.value
            self._viewer._trigger_rerender()

    def _add_prompts(self) -> None:
        source, target = self._config.src_prompt, self._config.tgt_prompt
        fields = [
            self._gui.add_text("Shows", source, hint="The source prompt: what the scene shows"),
            self._gui.add_text("Should show", target, hint="The target prompt: what it should show"),
        ]
        self._settings["prompts"] = fields
        # A page sends every letter that is typed.
        self._button("Use these prompts", lambda: self._ask("prompts", [field.value for field in fields]), main=True)

    def _add_strength(self) -> None:
        for name, value in settings_of(self._config).items():
            if name not in ("prompts", "box", "pick"):  # which have groups of their own
                self._settings[name] = [self._add_setting(name, value)]
        if isinstance(self._config, ReviseConfig):
            given = self._config.perturbation.eta
            eta = self._gui.add_slider("η", 0.0, 1.0, 0.05, 0.3 if given == "auto" else float(given), hint=HINTS["η"])
            self._button("Perturb now", lambda: self._ask("perturb", eta.value), loses="the scene as it is now")

    def _add_setting(self, name: str, value: Any) -> GuiInputHandle:
        """What shows and sets one of SETTINGS."""
        hint = HINTS[name]
        if name == "objective":
            element = self._gui.add_dropdown("Objective", possible_objectives(self._config), value, hint=hint)
        elif name == "guidance_scale":
            element = self._gui.add_slider("Guidance", min(0, value), max(150, value), 0.5, float(value), hint=hint)
        elif name == "regularisation":
            element = self._gui.add_slider("λ (Piva)", min(0, value), max(2, value), 0.05, float(value), hint=hint)
        else:
            ends = tuple(map(float, value))
            element = self._gui.add_vector2(name.capitalize(), ends, (0.0, 0.0), (1.0, 1.0), 0.01, hint=hint)

        @element.on_update
        def _(event: GuiEvent) -> None:
            if event.client is not None:  # or `follow` has moved it
                self._ask(name, list(element.value) if isinstance(element.value, tuple) else element.value)

        return element

    def _add_history(self) -> None:
        steps = self._gui.add_button_group("", ("Undo", "Redo"), hint="Go back before the last change, or forth again")
        steps.value = ""  # viser tells of no press of the button that was pressed last, which at first is the first one

        @steps.on_click
        def _(event: GuiEvent) -> None:
            if event.client is not None:
                asked, steps.value = steps.value.lower(), ""
                self._ask(asked)

        self._moments = self._gui.add_dropdown("Moment", ("",), hint="Taken now and then, and before every change")
        self._moments.on_update(lambda _: self._show_moment())
        self._shown_moment = self._gui.add_markdown("")
        self._button(
            "Go back to this moment",
            lambda: self._listed.get(self._moments.value) and self._ask("restore", self._listed[self._moments.value]),
            hint="Scene, optimisers, prompts and settings as they were; what is now can be had back by Undo",
            loses="the scene as it is now",
        )
        self._button(
            "Back to the source",
            lambda: self._ask("restore", SOURCE),
            hint="The scene before the edit, and the settings that it began with",
            loses="the scene as it is now",
        )
        name = self._gui.add_text("Name", NAMELESS, hint="What the snapshot is to be called")
        self._button(
            "Keep a snapshot",
            lambda: self._ask("snapshot", name.value.strip() or NAMELESS),
            hint="Under this name, whatever room it takes",
        )

    def _button(
        self, label: str, action: Callable[[], object], *, main: bool = False, hint: str | None = None, loses: str = ""
    ) -> None:
        """A button; one that loses something asks first, where the history does not keep it."""
        button = self._gui.add_button(label, hint=hint, color=None if main else "gray")

        @button.on_click
        def _(event: GuiEvent) -> None:
            if loses and not self._history.keeps_scenes and event.client is not None:
                self._confirm(event.client, f"{label}? That loses {loses}: the history keeps no scenes.", action)
            else:
                action()

    @staticmethod
    def _confirm(client: Any, question: str, action: Callable[[], object]) -> None:
        with client.gui.add_modal("Are you sure?") as dialogue:
            client.gui.add_markdown(question)
            yes, no = client.gui.add_button("Yes"), client.gui.add_button("No", color="gray")
        yes.on_click(lambda _: (dialogue.close(), action()))
        no.on_click(lambda _: dialogue.close())

    def _ask(self, change: str, value: Any = None) -> None:
        """Pages of a paused edit render anew at once; those of another hear of the next step."""
        self._asked.add(change)
        self._request(change, value)
        self._viewer._trigger_rerender()

    # What they show

    def say(self, note: str) -> None:
        """Show what became of a request, in Markdown, until the next update."""
        self._set(self._status, f"{self._status.content.partition(BREAK)[0]}{BREAK}{note}")

    def update(
        self, status: str, note: str, decisions: dict[str, str], view: tuple[Tensor, Tensor] | None, now: bool = False
    ) -> None:
        """Show how the edit stands, at most twice a second unless `now`.

        Args:
            status: one line, in Markdown.
            note: what became of the last request.
            decisions: what the run has decided, by name.
            view: the last step's rendering and the gradient on it, [1 3 H W] each.
        """
        if not now and time.monotonic() < self._shown_at + SECONDS_BETWEEN_UPDATES:
            return
        self._shown_at = time.monotonic()
        self._set(self._status, f"{status}{BREAK}{in_markdown(note)}" if note else status)
        self._set(self._decisions, "  \n".join(f"**{name}** {in_markdown(text)}" for name, text in decisions.items()))
        if view is not None:
            picture = _as_url(gradient_picture(*view))
            self._set(self._picture, f"The last step's view, and the gradient on it:\n\n![gradient]({picture})")
        self._list_moments()

    def follow(self) -> None:
        """Bring elements to the settings that have changed, or were asked to; what else is being typed stays."""
        before, now, asked = self._followed, settings_of(self._config), self._asked
        self._followed, self._asked = now, set()
        for name, elements in self._settings.items():
            if name not in asked and now.get(name) == before.get(name):
                continue
            value: Any = now.get(name)
            values: list[Any] = value if name == "prompts" else [tuple(value) if isinstance(value, list) else value]
            for element, one in zip(elements, values, strict=True):
                if one is not None and element.value != one:
                    element.value = one

    def _list_moments(self) -> None:
        taken = list(self._history.moments.taken.values())
        listed = {_title(moment): moment.key for moment in reversed(taken)}
        if listed == self._listed or not listed:
            return
        follow = self._moments.value in ("", next(iter(self._listed), ""))
        self._listed = listed
        self._moments.options = tuple(listed)
        if follow:
            self._moments.value = next(iter(listed))
        self._show_moment()

    def _show_moment(self) -> None:
        moment = self._history.moments.taken.get(self._listed.get(self._moments.value, ""))
        if moment is not None:
            path = self._history.folder / f"{moment.key}.jpg"
            self._set(self._shown_moment, "" if not path.is_file() else f"![moment]({_thumbnail(path)})")

    @staticmethod
    def _set(element: Any, content: str) -> None:
        if content != element.content:
            element.content = content


BREAK = "  \n"
"""Between two lines of one paragraph of Markdown."""


def _title(moment: Moment) -> str:
    """One line of the list of moments, no two alike."""
    return f"{moment.key} · {moment.title}" if "." in moment.key else moment.title


def possible_objectives(config: EditConfig) -> list[str]:
    """Names of those that an edit can change to: its adapters were made when it began."""
    assert isinstance(config, DistillationConfig)
    own = set(config.objective.adapters)
    return [name for name, kind in BY_NAME.items() if set(kind().adapters) <= own]


def gradient_picture(
    image: Float[Tensor, "1 3 height width"], gradient: Float[Tensor, "1 3 height width"]
) -> Float[Tensor, "height both 3"]:
    """A rendering beside the size of the gradient on it, which is bright from its 99th percentile on; RGB in [0, 1]."""
    size = gradient.float().abs().amax(1)[0].cpu()
    bright = size.flatten().kthvalue(max(1, round(0.99 * size.numel()))).values.clamp(min=1e-30)
    heat = apply_colormap((size / bright).clamp(0, 1)[..., None], ColormapOptions("turbo"))
    return torch.cat([image[0].movedim(0, -1).float().cpu().clamp(0, 1), heat], dim=1)


def _as_url(picture: Float[Tensor, "height width 3"]) -> str:
    image = Image.fromarray((picture * 255).round().byte().numpy())
    image.thumbnail((2 * LARGEST_PICTURE, LARGEST_PICTURE))
    return _jpeg(image)


def _thumbnail(path: Path) -> str:
    """A moment's picture."""
    with Image.open(path) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return _jpeg(image)


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
