"""`pds svg`: what a command line means, what it leaves behind, and what it refuses."""

import json
import sys

import pytest
import tyro

from pds_nerfstudio.cli.svg import SUFFIX, Svg
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import DDS, PDS, Piva
from pds_nerfstudio.pipelines.svg_settings import SvgSettings

DRAWING = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 48'><g id='scene'><rect id='floor' y='30' width='64' "
    "height='18' fill='gray'/><text id='sign'>words</text>"
    "<circle id='ball' cx='30' cy='25' r='12' fill='red'/></g></svg>"
)
PROMPTS = {"src_prompt": "a photo of a red ball", "tgt_prompt": "a photo of a blue ball"}


@pytest.fixture
def command(tmp_path):
    path = tmp_path / "ball.svg"
    path.write_text(DRAWING)

    def make(**changes) -> Svg:
        return Svg(**({"input": path, "prior": "toybox", "out": tmp_path / "out"} | PROMPTS | changes))

    return make


def test_a_command_line_is_read(tmp_path):
    line = f"{tmp_path}/a.svg --src-prompt one --tgt-prompt two --objective dds --set seed=1 stride=1 --steps 5"
    read = tyro.cli(Svg, args=line.split())
    assert (read.input, read.src_prompt, read.tgt_prompt) == (tmp_path / "a.svg", "one", "two")
    assert (read.objective, read.set, read.steps) == ("dds", ("seed=1", "stride=1"), 5)


def test_the_recipe_is_the_papers(command):
    assert command()._settings() == (PDS(guidance_scale=100.0, min_step_percent=0.1), SvgSettings(1000, 0.8, 0.01))
    assert PDS().max_step_percent == 0.98
    sds = command(objective="sds")._settings()[0]
    assert (sds.min_step_percent, sds.max_step_percent) == (0.05, 0.95)
    assert command(objective="dds")._settings()[0] == DDS()


def test_settings_of_objective_and_edit_are_told_apart(command):
    objective, settings = command(
        objective="piva", guidance_scale=7.5, steps=20, set=("normalise=0.1", "points-rate=2", "seed=3")
    )._settings()
    assert objective == Piva(guidance_scale=7.5, normalise=0.1, regularisation=0.4)
    assert settings == SvgSettings(steps=20, points_rate=2.0, seed=3)
    assert command(objective="dds", set=("min-step-percent=0.3",))._settings()[0] == DDS(min_step_percent=0.3)


def test_toybox_is_spared_the_suffix_that_it_does_not_know(command):
    assert command()._prompts() == tuple(PROMPTS.values())
    assert command(prior="owner/name")._prompts()[1] == PROMPTS["tgt_prompt"] + SUFFIX
    assert command(prior="owner/name", suffix="")._prompts()[1] == PROMPTS["tgt_prompt"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tgt_prompt": " "}, "target prompt is empty"),
        ({"src_prompt": ""}, "source prompt is empty"),
        ({"tgt_prompt": PROMPTS["src_prompt"]}, "give two"),
        ({"tgt_prompt": PROMPTS["src_prompt"].replace(" ", "  ")}, "capitals and spaces alone"),
        ({"tgt_prompt": "a photo of \udcff"}, "not in UTF-8"),
        ({"objective": "ddpm"}, "no such objective"),
        ({"objective": "sdedit"}, "makes pixels"),
        ({"steps": 0}, "at least 1"),
        ({"set": ("points-rate=-1",)}, "points_rate"),
        ({"set": ("points-rate=1e38",)}, "points_rate"),
        ({"set": ("points-rate=fast",)}, "no number"),
        ({"set": ("seed=1,2",)}, "give one"),
        ({"set": ("learning-rate=1",)}, "NAME can be"),
        ({"set": ("min-step-percent=0.99",)}, "min_step_percent"),
        ({"prior": "nowhere"}, "nowhere"),
        ({"input": "gone.svg"}, "no file"),
    ],
)
def test_what_cannot_work_is_one_sentence(command, tmp_path, changes, sentence):
    from pathlib import Path

    if "input" in changes:
        changes = {"input": Path(tmp_path / changes["input"])}
    with pytest.raises(UserError, match=sentence):
        command(**changes).run()
    assert not (tmp_path / "out").exists()


def test_the_input_is_never_written_to(command, tmp_path):
    with pytest.raises(UserError, match="give another"):
        command(out=tmp_path).run()
    assert (tmp_path / "ball.svg").read_text() == DRAWING


def test_another_drawing_of_that_name_is_not_replaced(command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ball.svg").write_text("another")
    with pytest.raises(UserError, match=r"holds a ball\.svg that this command did not make"):
        command().run()
    assert (tmp_path / "out" / "ball.svg").read_text() == "another"


def test_refusals_load_no_diffusion_library(run_command, tmp_path):
    code = (
        "import sys, contextlib; from pathlib import Path; from pds_nerfstudio.cli.svg import Svg\n"
        "from pds_nerfstudio.errors import UserError\n"
        "with contextlib.suppress(UserError):\n"
        "    Svg(Path('gone.svg'), 'a can', 'a cone', prior='toybox').run()\n"
        "sys.exit(bool({'diffusers', 'transformers', 'nerfstudio'} & set(sys.modules)))\n"
    )
    run_command(sys.executable, "-c", code)


def test_an_edit_leaves_the_file_a_picture_and_a_film(command, tmp_path, capsys):
    command(steps=3).run()
    said = capsys.readouterr().out
    assert "<text> 'sign' is left as it is" in said
    assert f"pds svg {tmp_path / 'out' / 'ball.svg'} --from" in said
    text = (tmp_path / "out" / "ball.svg").read_text()
    assert [text.index(f'id="{name}"') for name in ("scene", "floor", "sign", "ball")] == sorted(
        text.index(f'id="{name}"') for name in ("scene", "floor", "sign", "ball")
    )
    assert "<circle" not in text
    assert (tmp_path / "out" / "before_after.png").stat().st_size > 1000
    assert (tmp_path / "out" / "film.mp4").stat().st_size > 1000
    record = json.loads((tmp_path / "out" / "svg.json").read_text())
    assert record["objective_settings"]["guidance_scale"] == 100
    assert record["settings"]["steps"] == 3
    before = text
    command(steps=3).run()  # all done: nothing is edited again
    assert (tmp_path / "out" / "ball.svg").read_text() == before
    with pytest.raises(UserError, match="other settings"):
        command(steps=4).run()
