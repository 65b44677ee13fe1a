"""The views that an edit shows to its prior, and what the prior is told of where they are seen from.

training views 0 … n−1 │ orbit 0, four views │ orbit 1, four views │ …        one numbering
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from nerfstudio.models.base_model import Model
from nerfstudio.utils.rich_utils import CONSOLE

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.cameras import CameraMatrices, Viewpoints
from pds_nerfstudio.pipelines.settings import ViewSettings
from pds_nerfstudio.scenes.hull import Region
from pds_nerfstudio.scenes.orbit import VIEWS, Subject
from pds_nerfstudio.scenes.region import Ball, Box, Corners
from pds_nerfstudio.scenes.subject import subject_at, subject_within
from pds_nerfstudio.scenes.viewpoints import capture_of, orbits_of, told, view_word, views_of
from pds_nerfstudio.scenes.views import Joined, Views

if TYPE_CHECKING:
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

ROOM = 1.5
"""How far about its middle a subject without background is shown, relative to its radius: what is added needs room."""


@dataclass(frozen=True)
class ShownViews(Joined):
    """Training views, and orbits after them. Make one with `shown_views`."""

    matrices: CameraMatrices | None
    """M of every view; None where there is no saying what the photographs look at."""
    is_told: bool
    """Whether the prior is told."""
    worded: bool
    """Whether prompts are."""

    def seen_from(self, indices: Sequence[int], together: int = 1) -> Viewpoints | None:
        """From where the prior is told that views are seen, `together` of them at a time; None for nowhere."""
        if not self.is_told or self.matrices is None:
            return None
        return Viewpoints(self.matrices[list(indices)], together)

    def prompt(self, prompt: str, index: int) -> str:
        """A prompt as the prior is given it for a view: where asked for, with a word for where that is seen from."""
        if not self.worded or self.matrices is None:
            return prompt
        return f"{prompt}, {view_word(self.matrices[index])}"

    def orbit(self, number: int) -> list[int]:
        """The views of an orbit."""
        first = len(self.parts[0]) + VIEWS * number
        return list(range(first, first + VIEWS))

    @property
    def of_an_orbit(self) -> int:
        """How many views of an orbit the prior predicts at once: those that it is told the cameras of."""
        return VIEWS if self.is_told else 1


def shown_views(
    training: Views,
    settings: ViewSettings,
    box: Corners | None,
    seed: int,
    source: Callable[[], Model],
    prior: "StableDiffusionPrior",
    size: int,
) -> ShownViews:
    """What an edit's settings ask for.

    A prior that reads framing is told cameras about what the photographs frame, as it was in its training; others take
    any subject for centred, and are told about the one that was named.

    Args:
        box: where the scene may change.
        seed: of the orbits.
        source: loads the scene before the edit, in which a subject that was named is looked for.
        size: of the square pictures of an orbit, in pixels.

    Raises:
        UserError: orbits or words are asked for, and the photographs do not look around or at one subject.
    """
    count, capture = settings.orbit_count(), capture_of(training.cameras)
    if capture is None and count:
        raise UserError("Orbits need photographs by perspective cameras: leave --pipeline.views training.")
    subject, matrices, parts = None, None, [training]
    if capture is not None:
        if settings.subject is not None:
            subject = subject_at(source(), training, settings.subject, capture.framed.radius / 2)
        elif box is not None and (count or not prior.framing):
            subject = subject_within(source(), training, box)
        about = capture.framed if prior.framing or subject is None else subject
        matrices = capture.matrices(about, settings.front)
        if count:
            orbits = orbits_of(capture, subject, count, seed)
            parts.append(views_of(orbits, size, subject_alone(subject, box) if settings.subject_alone() else None))
            if matrices is not None:
                of_orbits = [told(orbit.cameras, about, orbit.tan_half, settings.front) for orbit in orbits]
                matrices = torch.cat([matrices, *of_orbits])
    if matrices is None and settings.view_words:
        raise UserError("The photographs do not look at one subject: leave --pipeline.view-words out.")
    asked = prior.takes_cameras and settings.tell_cameras
    if matrices is None and asked:
        CONSOLE.log("[yellow]The photographs do not look at one subject: the prior is not told their cameras.")
    return ShownViews(tuple(parts), matrices, asked and matrices is not None, settings.view_words)


def subject_alone(subject: Subject | None, box: Corners | None) -> Region:
    """Where a subject is, with room for what an edit adds to it.

    Raises:
        UserError: none was named.
    """
    if box is not None:
        return Box(box)
    if subject is None:
        raise UserError(
            "--pipeline.background removed has to know what the subject is: name it with --pipeline.subject X Y Z, a "
            "point on it in the viewer's coordinates, or enclose it with --pipeline.box."
        )
    return Ball(tuple(subject.centre.tolist()), ROOM * subject.radius)
