"""The views that an edit shows to its prior, and what the prior is told of where they are seen from.

training views 0 … n−1 │ orbit 0, four views │ orbit 1, four views │ …        one numbering
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.cameras import CameraMatrices, Viewpoints
from pds_nerfstudio.pipelines.settings import ViewSettings
from pds_nerfstudio.scenes.orbit import VIEWS, Subject
from pds_nerfstudio.scenes.viewpoints import capture_of, orbits_of, view_word
from pds_nerfstudio.scenes.views import Joined, Views


@dataclass(frozen=True)
class ShownViews(Joined):
    """Training views, and orbits after them. Make one with `shown_views`."""

    matrices: CameraMatrices | None
    """M of every view; None where there is no saying what the photographs look at."""
    told: bool
    """Whether the prior is told."""
    worded: bool
    """Whether prompts are."""

    def seen_from(self, indices: Sequence[int], together: int = 1) -> Viewpoints | None:
        """From where the prior is told that views are seen, `together` of them at a time; None for nowhere."""
        if not self.told or self.matrices is None:
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
        return VIEWS if self.told else 1


def shown_views(training: Views, settings: ViewSettings, seed: int, size: int, takes_cameras: bool) -> ShownViews:
    """What `settings` ask for.

    Args:
        size: of the square pictures of an orbit, in pixels.
        takes_cameras: whether the prior does.

    Raises:
        UserError: orbits or words are asked for, and the photographs do not look around or at one subject.
    """
    named = None if settings.subject is None else Subject(torch.tensor(settings.subject[:3]), settings.subject[3])
    capture = capture_of(training.cameras, named)
    matrices = None if capture is None else capture.matrices(settings.front)
    parts = [training]
    if count := settings.orbit_count():
        if capture is None:
            raise UserError("Orbits need photographs by perspective cameras: leave --pipeline.views training.")
        orbits, of_orbits = orbits_of(capture, count, seed, size, settings.front)
        parts.append(orbits)
        matrices = None if matrices is None else torch.cat([matrices, of_orbits])
    if matrices is None:
        if settings.view_words:
            raise UserError("The photographs do not look at one subject: leave --pipeline.view-words out.")
        if takes_cameras and settings.tell_cameras:
            CONSOLE.log("[yellow]The photographs do not look at one subject: the prior is not told their cameras.")
    told = takes_cameras and settings.tell_cameras and matrices is not None
    return ShownViews(tuple(parts), matrices, told, settings.view_words)
