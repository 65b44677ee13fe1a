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

from pds_nerfstudio.pipelines.edit import EditPipelineConfig
from pds_nerfstudio.pipelines.revise import REVISING, ReviseConfig
from pds_nerfstudio.pipelines.session import settings_of
from pds_nerfstudio.text import in_markdown

SECONDS_BETWEEN_UPDATES = 0.5
LARGEST_PICTURE = 256
"""Longer side, in pixels, of each of the two pictures of a step."""


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

    def __init__(
        self, config: EditPipelineConfig, ask: Callable[..., None], show_source: Callable[[float], None]
    ) -> None:
        """Build the elements for this edit.

        Args:
            config: the edit's settings, which changes alter.
            ask: takes a change and its value, see `Session.request`.
            show_source: takes how much of the picture, from its left, is to show the source.
        """
        super().__init__()
        self._config = config
        self._shown_at = -float("inf")
        now = settings_of(config)
        self._status = ViewerMarkdown("Waiting for the first step.")
        self._decisions, self._picture = ViewerMarkdown(), ViewerMarkdown()
        self._prompts = (
            ViewerText("Source prompt", now["prompts"][0], hint="What the scene shows"),
            ViewerText("Target prompt", now["prompts"][1], hint="What it should show"),
        )
        self._settings: dict[str, ViewerParameter] = {
            "guidance_scale": self._slider("Guidance", now["guidance_scale"], 0, 150, 0.5, ask, "guidance_scale"),
            "from": self._slider("Timesteps from", now["timesteps"][0], 0, 1, 0.01, self._ask_timesteps(ask), "from"),
            "to": self._slider("Timesteps to", now["timesteps"][1], 0, 1, 0.01, self._ask_timesteps(ask), "to"),
        }
        own = set(config.objective.adapters)
        possible = [name for name, kind in REVISING.items() if set(kind().adapters) <= own]
        self._settings["objective"] = ViewerDropdown(
            "Objective",
            now["objective"],
            possible,
            cb_hook=lambda element: ask("objective", element.value),
            hint="With its own further settings. VSD and Piva need adapters, made only where an edit begins with them",
        )
        if "regularisation" in now:
            self._settings["regularisation"] = self._slider(
                "λ (Piva)", now["regularisation"], 0, 2, 0.05, ask, "regularisation"
            )
        elements: list[ViewerElement] = [
            self._status,
            *self._prompts,  # a page sends every letter that is typed
            ViewerButton("Use these prompts", lambda _: ask("prompts", [prompt.value for prompt in self._prompts])),
            *self._settings.values(),
        ]
        if isinstance(config, ReviseConfig):
            eta = ViewerSlider("η", 0.3 if config.eta == "auto" else config.eta, 0.0, 1.0, 0.05)
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
        for element, prompt in zip(self._prompts, now["prompts"], strict=True):
            element.value = prompt
        now["from"], now["to"] = now["timesteps"]
        for name, element in self._settings.items():
            if name in now and element.value != now[name]:
                element.value = now[name]

    def _crop_box(self) -> list[float]:
        """The corners of the viewer's crop, of which its rotation has no part."""
        crop = self.control.viewer.control_panel.crop_obb
        return [round(float(value), 6) for value in (*(crop.T - crop.S / 2), *(crop.T + crop.S / 2))]

    def _slider(
        self, label: str, value: float, low: float, high: float, step: float, ask: Callable[..., None], name: str
    ) -> ViewerSlider:
        return ViewerSlider(
            label,
            float(value),
            float(min(low, value)),
            float(max(high, value)),
            step,
            cb_hook=lambda element: ask(name, element.value),
        )

    def _ask_timesteps(self, ask: Callable[..., None]) -> Callable[..., None]:
        return lambda *_: ask("timesteps", [self._settings["from"].value, self._settings["to"].value])


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
