"""The examples run as they stand, and stay short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
PROMPTS = ("a photo of a red can", "a photo of a blue can")


def run(name: str, folder: Path, *arguments: object) -> str:
    """Run an example in a folder of its own; what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_each_has_at_most_forty_lines_and_a_test():
    tested = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path.name
        assert f'"{path.name}"' in tested, path.name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edit_a_photograph.py", "an_objective_of_your_own.py"])
def test_a_photograph_is_edited(name, toy_scene, tmp_path):
    photograph = min((toy_scene / "source" / "images").iterdir())
    run(name, tmp_path, photograph, *PROMPTS, "--steps", 2)
    (sheet,) = (tmp_path / "outputs" / "examples").iterdir()
    with Image.open(sheet) as image:
        assert image.height > 4 * 160  # the photograph and three edits


@pytest.mark.slow
def test_a_latent_is_edited(tmp_path):
    run("edit_a_latent.py", tmp_path, "--steps", 2)
    assert (tmp_path / "outputs" / "examples" / "latent.png").stat().st_size > 1000


@pytest.mark.slow
def test_splats_are_edited_rendered_and_measured(toy_splats, tmp_path):
    said = run("edit_splats.py", tmp_path, toy_splats.parent, *PROMPTS, "--steps", 2)
    edited = said.splitlines()[-1]
    said = run("render_and_measure.py", tmp_path, edited)
    assert said.count("dB to the source") == 2
    assert (tmp_path / "outputs" / "examples" / "edited.png").stat().st_size > 1000
