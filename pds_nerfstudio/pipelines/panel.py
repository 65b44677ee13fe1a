"""The edit's panel in nerfstudio's viewer, made of viewer elements: it shows how the edit goes and asks for changes.

Callbacks run on the viewer's threads and do no more than ask the `Session`, which makes changes between steps.
nerfstudio finds elements by their attribute names, in alphabetical order.
"""

import base64
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap
from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerControl,
    ViewerDropdown,
    ViewerElement,
    ViewerParameter,
    ViewerSlider,
    ViewerText,
)
from PIL import Image
from torch import Tensor

from pds_nerfstudio.objectives import BY_NAME
from pds_nerfstudio.pipelines.base import EditConfig
from pds_nerfstudio.pipelines.distillation import DistillationConfig
from pds_nerfstudio.pipelines.revise import ReviseConfig
from pds_nerfstudio.pipelines.steering import settings_of
from pds_nerfstudio.text import in_markdown

SECONDS_BETWEEN_UPDATES = 0.5
LARGEST_PICTURE = 256
"""Longer side, in pixels, of each of the two pictures of a step."""

SLIDERS = {"guidance_scale": ("Guidance", 150, 0.5), "regularisation": ("λ (Piva)", 2, 0.05)}
"""Label, greatest value and step of the settings that are one number from 0 on."""
RANGES = {"timesteps": "Timesteps", "strength": "Strength"}
"""Labels of those that are two shares."""


class ViewerMarkdown(ViewerElement[str]):
    """Text and pictures that are only shown."""

    gui_handle: Any

    def __init__(self, content: str = ""):
        super().__init__("")
        self._content = content

    @property
    def content(self) -> str:
        """Markdown."""
        return self._content

    @content.setter
    def content(self, content: str) -> None:
        if content != self._content:
            self._content = content
            if self.gui_handle is not None:
                self.gui_handle.content = content

    def _create_gui_handle(self, viser_server) -> None:
        self.gui_handle = viser_server.gui.add_markdown(self._content, image_root=Path())

    def install(self, viser_server) -> None:
        """Add it to the page."""
        self._create_gui_handle(viser_server)


class Panel(torch.nn.Module):
    """An attribute of the pipeline, under whose name the viewer lists it."""

    def __init__(self, config: EditConfig, ask: Callable[..., None], show_source: Callable[[float], None]) -> None:
        """Build the elements for this edit: one or two for each of `steering.SETTINGS` that it has.

        Args:
            config: the edit's settings, which changes alter.
            ask: takes a change and its value, see `Session.request`.
            show_source: takes how much of the picture, from its left, is to show the source.
        """
        super().__init__()
        self._config, self._ask = config, ask
        self._shown_at = -float("inf")
        self._status = ViewerMarkdown("Waiting for the first step.")
        self._decisions, self._picture = ViewerMarkdown(), ViewerMarkdown()
        self._settings: dict[str, list[ViewerParameter]] = {}
        """By name of the setting, the elements that show its value, or its two values."""
        elements: list[ViewerElement] = [self._status]
        for name, value in settings_of(config).items():
            if name != "box":  # which the viewer's own crop shows
                self._settings[name] = self._elements_of(name, value)
                elements += self._settings[name]
                if name == "prompts":  # a page sends every letter that is typed
                    elements.append(ViewerButton("Use these prompts", lambda _: ask("prompts", self._shown("prompts"))))
        if isinstance(config, ReviseConfig):
            given = config.perturbation.eta
            eta = ViewerSlider("η", 0.3 if given == "auto" else given, 0.0, 1.0, 0.05)
            elements += [eta, ViewerButton("Perturb now", lambda _: ask("perturb", eta.value))]
        self.control = ViewerControl()
        elements += [
            ViewerButton("Change only what is in the crop box", lambda _: ask("box", self._crop_box())),
            ViewerButton("Change everything", lambda _: ask("box")),
            ViewerButton("Take a snapshot", lambda _: ask("snapshot")),
            ViewerButton("Back to the snapshot", lambda _: ask("restore", "snapshot")),
            ViewerButton("Back to the source", lambda _: ask("restore", "source")),
            ViewerSlider(
                "Source | edited",
                0.0,
                0.0,
                1.0,
                0.05,
                cb_hook=lambda element: show_source(element.value),
                hint="How much of the view shows the source",
            ),
            self._picture,
            self._decisions,
        ]
        for i, element in enumerate(elements):
            setattr(self, f"e{i:02d}", element)

    def _elements_of(self, name: str, value: Any) -> list[ViewerParameter]:
        """What shows and sets one of SETTINGS."""
        if name == "prompts":
            return [
                ViewerText("Source prompt", value[0], hint="What the scene shows"),
                ViewerText("Target prompt", value[1], hint="What it should show"),
            ]
        if name == "objective":
            assert isinstance(self._config, DistillationConfig)
            own = set(self._config.objective.adapters)
            return [
                ViewerDropdown(
                    "Objective",
                    value,
                    [other for other, kind in BY_NAME.items() if set(kind().adapters) <= own],
                    cb_hook=lambda element: self._ask(name, element.value),
                    hint="With its own further settings. VSD and Piva need adapters, made only where an edit begins "
                    "with them",
                )
            ]
        if name in SLIDERS:
            label, greatest, step = SLIDERS[name]
            return [self._slider(label, value, greatest, step, lambda element: self._ask(name, element.value))]
        label = RANGES[name]

        def ask(end: int) -> Callable[[Any], None]:
            def moved(element: Any) -> None:
                if element.value != settings_of(self._config)[name][end]:  # or `follow` has moved it
                    self._ask(name, self._shown(name))

            return moved

        return [self._slider(f"{label} {word}", value[i], 1, 0.01, ask(i)) for i, word in enumerate(("from", "to"))]

    def _shown(self, name: str) -> list[Any]:
        """What the elements of a setting show now."""
        return [element.value for element in self._settings[name]]

    def update(
        self, status: str, note: str, decisions: dict[str, str], view: tuple[Tensor, Tensor] | None, now: bool = False
    ) -> None:
        """Show how the edit stands, at most twice a second unless `now`.

        Args:
            status: one line.
            note: what became of the last request.
            decisions: what the run has decided, by name.
            view: the last step's rendering and the gradient on it, [1 3 H W] each.
        """
        if not now and time.monotonic() < self._shown_at + SECONDS_BETWEEN_UPDATES:
            return
        self._shown_at = time.monotonic()
        self._status.content = f"{status}  \n{in_markdown(note)}" if note else status
        self._decisions.content = "  \n".join(f"**{name}** {in_markdown(text)}" for name, text in decisions.items())
        if view is not None:
            picture = _as_url(gradient_picture(*view))
            self._picture.content = f"The last step's view, and the gradient on it:\n\n![gradient]({picture})"

    def follow(self) -> None:
        """Bring the elements to the settings, which something else than they has changed."""
        now = settings_of(self._config)
        for name, elements in self._settings.items():
            values = now.get(name, [])
            for element, value in zip(elements, values if isinstance(values, list) else [values], strict=False):
                if element.value != value:
                    element.value = value

    def _crop_box(self) -> list[float]:
        """The corners of the viewer's crop, of which its rotation has no part."""
        crop = self.control.viewer.control_panel.crop_obb
        return [round(float(value), 6) for value in (*(crop.T - crop.S / 2), *(crop.T + crop.S / 2))]

    def _slider(
        self, label: str, value: float, greatest: float, step: float, hook: Callable[..., None]
    ) -> ViewerSlider:
        """From 0 to `greatest`, or to where the value is."""
        return ViewerSlider(label, float(value), float(min(0, value)), float(max(greatest, value)), step, cb_hook=hook)


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
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
