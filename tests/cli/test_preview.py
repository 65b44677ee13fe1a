"""`pds preview`: what a command line means, the sheet it leaves, and the lines it prints."""

import json
import shlex
from dataclasses import fields

import pytest
import tyro
from PIL import Image

from pds_nerfstudio.cli import command_of
from pds_nerfstudio.cli.preview import EDITORS, Preview, known_editors, parsed_setting
from pds_nerfstudio.cli.preview_lines import ns_train_line, whole_edit
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import DDS, DVRF, OBJECTIVES, PDS, Piva, ScoreDistillation
from pds_nerfstudio.scenes.photographs import Photographs

PROMPTS = {"src_prompt": "a photo of a red can", "tgt_prompt": ("a photo of a red cone",)}


def preview(tmp_path, **changes) -> Preview:
    image = tmp_path / "image.png"
    Image.new("RGB", (40, 32), "red").save(image)
    return Preview(**({"inputs": (image,), "prior": "toybox", "out": tmp_path / "out"} | PROMPTS | changes))


def test_settings_with_several_values_are_the_axes_of_the_sheet(tmp_path):
    asked = preview(tmp_path, guidance_scale=(7.5, 30.0), set=("max-step-percent=0.5,0.9",))
    cells, axes = asked._variants()
    assert axes == {"guidance_scale": 2, "max_step_percent": 2}
    assert [(cell.editor.guidance_scale, cell.editor.max_step_percent) for cell in cells] == [
        (7.5, 0.5),
        (7.5, 0.9),
        (30.0, 0.5),
        (30.0, 0.9),
    ]
    assert [cell.number for cell in cells] == [1, 2, 3, 4]


def test_pnr_can_be_told_what_all_objectives_can(tmp_path):
    names = {field.name for field in fields(ScoreDistillation)}
    shared = ("guidance_scale", "min_step_percent", "max_step_percent", "redraw_below", "normalise", "normalise_end")
    assert names == {*shared, "most_redraws"}
    for name in shared:
        (cell,), _ = preview(tmp_path, set=(f"{name.replace('_', '-')}=0.5",))._variants()
        assert getattr(cell.editor, name) == 0.5
    (cell,), _ = preview(tmp_path, set=("normalise=0.1", "most-redraws=3"))._variants()
    assert (cell.editor.normalise, cell.editor.most_redraws) == (0.1, 3)


def test_another_programs_sheet_is_not_replaced(tmp_path):
    asked = preview(tmp_path)
    asked.out.mkdir()
    kept = {"sheet.png": "mine", "preview.json": "{}"}
    for name, text in kept.items():
        (asked.out / name).write_text(text)
    with pytest.raises(UserError, match=r"holds a sheet\.png that this command did not make"):
        asked.run()
    assert {path.name: path.read_text() for path in asked.out.iterdir()} == kept


def test_a_value_given_twice_is_one(tmp_path):
    cells, axes = preview(tmp_path, guidance_scale=(7.5, 7.5))._variants()
    assert (len(cells), axes) == (1, {})


def test_without_guidance_each_objective_has_its_own_or_the_recipes(tmp_path):
    cells, axes = preview(tmp_path, objective=("pds", "piva"), prior="owner/name")._variants()
    assert axes == {"objective": 2}
    assert [cell.editor for cell in cells] == [PDS(), Piva()]
    cells, _ = preview(tmp_path, objective=("pds", "sdedit"))._variants()
    assert [cell.editor.guidance_scale for cell in cells] == [7.5, 2]


def test_by_default_a_photograph_is_edited_as_pnr_edit_revises_a_scene(tmp_path):
    (cell,), _ = preview(tmp_path)._variants("splatfacto")
    assert isinstance(cell.editor, DDS)
    assert (cell.editor.guidance_scale, cell.editor.min_step_percent, cell.editor.max_step_percent) == (2, 0.1, 0.9)
    (cell,), _ = preview(tmp_path, prior="toybox-flow")._variants("nerfacto")
    assert (type(cell.editor), cell.editor.guidance_scale) == (PDS, 15)
    (cell,), _ = preview(tmp_path, prior="owner/name")._variants("splatfacto")
    assert cell.editor == PDS()


def test_the_line_for_pnr_edit_leaves_to_the_recipe_what_was_not_asked_for(tmp_path):
    asked = preview(tmp_path, guidance_scale=(3.0,))
    (cell,), _ = asked._variants()
    words = shlex.split(ns_train_line(cell, asked, Photographs((), tmp_path, "splatfacto")))
    assert words[:2] == ["ns-train", "pnr-edit-splat"]
    assert [word.rpartition(".")[2] for word in words if "objective" in word] == ["guidance-scale"]
    assert cell.objective == "pnr, by dds"


def test_every_objective_and_sdedit_can_be_previewed():
    assert tuple(known_editors()) == EDITORS
    assert set(known_editors()) == {kind.__name__.lower() for kind in OBJECTIVES} | {"sdedit"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("regularisation=0.1,0.4", ("regularisation", (0.1, 0.4))),
        ("weighting=unit", ("weighting", ("unit",))),
        ("learning-rate=0.05", ("learning_rate", (0.05,))),
        ("seed=1,2", ("seed", (1, 2))),
    ],
)
def test_settings_are_read_as_what_they_are(text, expected):
    assert parsed_setting(text, [Piva]) == expected


def test_what_is_true_or_false_is_read_as_that_and_said_so_to_ns_train(tmp_path):
    assert parsed_setting("descend=true,FALSE,False", [DVRF]) == ("descend", (True, False, False))
    asked = preview(tmp_path, objective=("dvrf",), set=("descend=False",))
    (cell,), _ = asked._variants()
    assert cell.editor.descend is False
    words = shlex.split(ns_train_line(cell, asked, Photographs((), tmp_path, "splatfacto")))
    assert words[words.index("--pipeline.objective.descend") + 1] == "False"
    with pytest.raises(UserError, match="descend can be true or false"):
        parsed_setting("descend=no", [DVRF])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"inputs": ()}, "No photographs"),
        ({"tgt_prompt": ()}, "target prompt is empty"),
        ({"tgt_prompt": ("a ball", " ")}, "target prompt is empty"),
        ({"src_prompt": ""}, "source prompt is empty"),
        ({"tgt_prompt": (PROMPTS["src_prompt"],)}, "give two"),
        ({"objective": ("ddpm",)}, "no objective 'ddpm': choose among"),
        ({"objective": ("pdss",)}, "did you mean pds"),
        ({"steps": 0}, "--steps"),
        ({"set": ("steps=3,0",)}, "--set steps is 0"),
        ({"set": ("strength=0.5",)}, "NAME can be"),
        ({"set": ("weighting=heavy",), "objective": ("pds",)}, "unit or psi_chi"),
        ({"set": ("weighting=unit",)}, "NAME can be guidance-scale"),
        ({"set": ("seed=two",)}, "no number"),
        ({"set": ("seed",)}, "no NAME=VALUE"),
        ({"set": ("min-step-percent=0.9", "max-step-percent=0.5")}, "min_step_percent"),
        ({"set": ("seed=1,2", "steps=1,2"), "guidance_scale": (1.0, 2.0)}, "vary two"),
        ({"prior": "nowhere"}, "nowhere"),
        ({"lora": ("gone.safetensors",)}, "--lora gone.safetensors does not exist"),
    ],
)
def test_what_cannot_work_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        preview(tmp_path, **changes).run()
    assert not (tmp_path / "out").exists()


def test_refusals_load_no_diffusion_library(refused_lightly):
    code = (
        "from pds_nerfstudio.cli.preview import Preview\n"
        "Preview((Path('gone.png'),), 'a can', ('a cone',), prior='toybox').run()"
    )
    refused_lightly(code, "diffusers", "transformers", "nerfstudio")


@pytest.mark.parametrize(
    ("objective", "family", "method"),
    [
        ("piva", "nerfacto", "piva-edit"),
        ("piva", "splatfacto", "piva-edit-splat"),
        ("pds", "splatfacto", "pds-edit-splat"),
    ],
)
def test_the_printed_line_is_one_that_ns_train_reads_as_the_same_edit(tmp_path, objective, family, method):
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    asked = preview(
        tmp_path,
        objective=(objective,),
        guidance_scale=(12.5,),
        set=("regularisation=0.4", "noisy-source=separate") if objective == "piva" else ("weighting=psi_chi",),
        resolution=48,
        src_prompt="a photo of the artist's can",
        lora=("add detail.safetensors:0.5",),
    )
    (cell,), _ = asked._variants()
    run = tmp_path / "a run"
    words = shlex.split(ns_train_line(cell, asked, Photographs((), run, family)))
    assert words[:2] == ["ns-train", method]
    config = tyro.cli(AnnotatedBaseConfigUnion, args=words[1:])
    assert config.load_dir == run / "nerfstudio_models"
    assert config.pipeline.objective == cell.editor
    assert (config.pipeline.src_prompt, config.pipeline.tgt_prompt) == (asked.src_prompt, asked.tgt_prompt[0])
    assert (config.pipeline.prior, config.pipeline.view.resolution) == ("toybox", 48)
    assert config.pipeline.network.lora == asked.lora


def test_what_is_proposed_is_the_whole_edit_of_the_scene(tmp_path):
    photographs = Photographs((), tmp_path / "a run", "splatfacto")

    def proposed(**changes):
        asked = preview(tmp_path, **changes)
        (cell,), _ = asked._variants()
        step = whole_edit(cell, asked, photographs)
        return None if step is None else command_of(step.command[1:])

    plain = proposed()
    assert (plain.run_folder, plain.src_prompt, plain.prior) == (tmp_path / "a run", PROMPTS["src_prompt"], "toybox")
    assert (plain.tgt_prompt, plain.method, plain.edit_args) == (*PROMPTS["tgt_prompt"], "pnr-edit", "")
    told = proposed(objective=("pds",), guidance_scale=(12.5,), resolution=48, lora=("add detail.safetensors:0.5",))
    assert (told.method, told.lora) == ("pds-edit", ("add detail.safetensors:0.5",))
    assert "--pipeline.resolution 48 --pipeline.objective.guidance-scale 12.5" in told.edit_args
    assert proposed(objective=("sdedit",)) is None


@pytest.mark.slow
def test_a_sheet_over_prompts_and_guidance(run_here, toy_scene, tmp_path):
    printed = run_here(
        *("pds", "preview", toy_scene / "source", "--views", 0, 5, "--prior", "toybox", "--out", tmp_path),
        *("--src-prompt", "a photo of a red can", "--tgt-prompt", "a photo of a red cone", "a photo of a blue can"),
        *("--guidance-scale", 7.5, 15, "--steps", 2, "--resolution", 32),
    )
    record = json.loads((tmp_path / "preview.json").read_text())
    assert [(cell["tgt_prompt"], cell["guidance_scale"]) for cell in record["cells"]] == [
        ("a photo of a red cone", 7.5),
        ("a photo of a red cone", 15),
        ("a photo of a blue can", 7.5),
        ("a photo of a blue can", 15),
    ]
    assert sorted(path.name for path in tmp_path.glob("0*.png")) == [
        f"0{cell}_train_00{view}.png" for cell in (1, 2, 3, 4) for view in (0, 5)
    ]
    assert Image.open(tmp_path / "sheet.png").height > 4 * 100
    assert "source-splatfacto --data" in printed
    for cell in record["cells"]:
        assert cell["line"] in printed
    assert "edit it from start to end, as number 1 here" in printed


@pytest.mark.slow
def test_a_photograph_of_any_size_by_sdedit_too(run_here, distorted, tmp_path):
    photograph = sorted((distorted / "images").iterdir())[0]
    run_here(
        *("pds", "preview", photograph, "--prior", "toybox", "--out", tmp_path, "--objective", "sdedit", "pds"),
        *("--src-prompt", "a photo of a fox", "--tgt-prompt", "a photo of a red ball", "--steps", 1),
    )
    first, second = (Image.open(path) for path in sorted(tmp_path.glob("0*.png")))
    assert first.size == second.size
    assert min(first.size) == 64
    with Image.open(photograph) as original:
        assert first.width / first.height == pytest.approx(original.width / original.height, rel=0.05)
