"""Edits of studio's still lifes: photographs in real light, of which it is known what each should become.

    SCENES/scene/source/         a packaged capture: 50 photographs and held-out views
    SCENES/scene/EDIT/target/    the held-out views of an edit's right answer

All edits of a capture begin with one reconstruction. They are edited by studio's own prior and its recipe, unless
another is named. The right answers are held-out views alone, so that there is no ceiling, and no depth, so that the
agreement of neighbouring views is not measured.
"""

from pathlib import Path
from typing import Any, ClassVar

from nerfstudio.pipelines.base_pipeline import VanillaPipeline

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.evaluation.benchmark import SHOWN, Benchmark
from pds_nerfstudio.evaluation.capture import Capture
from pds_nerfstudio.evaluation.measure import load_judges
from pds_nerfstudio.evaluation.rows import KNOWN, NOTHING, REGENERATE
from pds_nerfstudio.evaluation.trial import drawn_again, render_eval_views
from pds_nerfstudio.evaluation.truth import Comparison, Pictures
from pds_nerfstudio.pictures import Images, read_images
from pds_nerfstudio.scenes.views import eval_views
from pds_nerfstudio.studio.captures import RECONSTRUCTION, copy_capture
from pds_nerfstudio.studio.spec import StudioEdit, still_of


class Stills(Capture):
    """Packaged captures of studio, whose edits have a known answer."""

    anchors: ClassVar = (NOTHING, *KNOWN, REGENERATE)
    own_prior: ClassVar[str] = "studio"

    def check(self, edits: Any) -> None:
        """Every suite of studio's edits can be run together."""

    def shared(self, edit: StudioEdit, seed: int) -> str:
        return f"{still_of(edit).name}.{seed}"

    def made_of(self, edit: StudioEdit, seed: int) -> dict[str, Any]:
        return Benchmark.made_of(self, edit, seed)

    def prepare(self, edit: StudioEdit, folder: Path, seed: int) -> Path:
        self.write(edit, folder, seed)
        return self.reconstructed(folder, seed)

    def write(self, edit: StudioEdit, folder: Path, seed: int) -> None:
        """The capture and the answers of its edits, in FOLDER/scene; a packaged one has no seed."""
        copy_capture(still_of(edit), folder / "scene")

    def reconstructed(self, folder: Path, seed: int) -> Path:
        """The run of what was written, its `config.yml`."""
        settings = dict(RECONSTRUCTION) if self.family == "splatfacto" else {}
        if self.settings.reconstruction_steps is not None:
            settings["max_num_iterations"] = self.settings.reconstruction_steps
        return self.reconstruct(folder / "scene" / "source", folder, seed, settings=settings)

    def truth(self, edit: StudioEdit, scenes: Path) -> Path:
        return _target(edit, scenes) / "images" / f"test_{SHOWN:03d}.jpg"

    def known(self, edit: StudioEdit, scenes: Path, source: Path, strength: float, seed: int) -> Comparison:
        before = load_run(source)
        names = [Path(name).name for name in eval_views(before.datamanager).names]
        drawn = drawn_again(_target(edit, scenes), names, edit.target_prompt, strength, seed, self.own_prior)
        return self._compared(edit, scenes, before, drawn)

    def compare(self, edit: StudioEdit, scenes: Path, source: Path, edited: Path) -> Comparison:
        return self._compared(edit, scenes, load_run(source), render_eval_views(load_run(edited)))

    def _compared(self, edit: StudioEdit, scenes: Path, before: VanillaPipeline, edited: Images) -> Comparison:
        """Held-out views of an edit against the photographs."""
        names = [Path(name) for name in eval_views(before.datamanager).names]
        target = _target(edit, scenes)
        photographs = (_read(scene / "images", names, ".jpg") for scene in (scenes / "scene" / "source", target))
        pictures = Pictures(render_eval_views(before), edited, *photographs)
        judges = load_judges("auto", [self.prior])
        numbers = pictures.numbers(_read(target / "object_masks", names, ".png")[:, 0], judges.distance)
        if judges.clip is not None:
            prompts = [spec.prompt(room=False, light=False) for spec in edit.alternatives()]
            numbers |= pictures.by_words(judges.clip, edit, prompts)
        return Comparison(edit, pictures.before, pictures.after, pictures.target, numbers)

    def to_look_at(
        self, edit: StudioEdit, scenes: Path, source: Path, edited: Path, compared: Comparison
    ) -> tuple[Images, Images, Images]:
        """Held-out views before, after, and as they should be: as large as they were compared."""
        return compared.source, compared.edited, compared.truth


def _target(edit: StudioEdit, scenes: Path) -> Path:
    return scenes / "scene" / edit.name / "target"


def _read(folder: Path, names: list[Path], suffix: str) -> Images:
    return read_images([folder / f"{name.stem}{suffix}" for name in names])
