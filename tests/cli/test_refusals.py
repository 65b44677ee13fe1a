"""What `pds` refuses costs no import of torch or nerfstudio, and what it says of itself none either."""

import json
import re
import sys

import pytest
from test_runs import make_run

from pds_nerfstudio import __version__
from pds_nerfstudio.cli import commands, main
from pds_nerfstudio.flags import flags_of, parser_of

PROGRAM = """
import json, sys
from pds_nerfstudio.cli import main
loaded = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["pds", *words]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 1, words
    else:
        sys.exit(f"{words} was not refused")
    if heavy := {"torch", "nerfstudio", "diffusers"} & set(sys.modules):
        sys.exit(f"{words} imported {heavy}")
"""
PROMPTS = ("--from", "a can", "--to", "a cone")
TOYBOX = (*PROMPTS, "--prior", "toybox")


def test_what_is_wrong_is_said_before_torch_and_nerfstudio_are_imported(tmp_path, run_command):
    source = make_run(tmp_path / "a", "source-splatfacto")
    edit = make_run(tmp_path / "a", "pnr-edit-splat", base=tmp_path / "gone" / "config.yml")
    bare = make_run(tmp_path / "b", "source-splatfacto", ())
    hostile = make_run(tmp_path / "c", "source-splatfacto")
    config = hostile / "config.yml"
    config.write_text(config.read_text() + "extra: !!python/name:os.system ''\n")
    lost = make_run(tmp_path / "d", "source-splatfacto", datamanager={"data": tmp_path / "nowhere"})
    gone = tmp_path / "gone"
    refused = [
        (("edit", gone, *TOYBOX), "RUN .*gone does not exist"),
        (("edit", bare, *TOYBOX), "holds no checkpoint"),
        (("edit", hostile, *TOYBOX), "could run code"),
        (("edit", lost, *TOYBOX), "nowhere of .* is not there"),
        (("edit", source, *PROMPTS, "--prior", "nowhere"), "The prior nowhere"),
        (("edit", source, "--from", "a", "--to", "a"), "are the same"),
        (("edit", source, *TOYBOX, "--method", "magic"), "no method 'magic'"),
        (("edit", source, *TOYBOX, "--recipe", "slow"), "--recipe slow"),
        (("edit", source, *TOYBOX, "--render-args=--pths orbit"), "pds render has no --pths: did you mean --paths"),
        (("edti", source, *TOYBOX), "no command pds edti: did you mean pds edit?"),
        (("magic",), "no command pds magic: pds --help lists all"),
        (("render", gone), "The run .*gone does not exist"),
        (("render", source), "is no edit"),
        (("render", edit), "is not at .* any more"),
        (("render", edit, "--step", 5), "no checkpoint of step 5"),
        (("render", edit, "--source", gone), "--source .*gone does not exist"),
        (("evaluate", source, gone), "is no edit"),
        (("evaluate", edit, "--source", source, "--data", gone), "dataset .*gone of"),
        (("preview", gone, *TOYBOX), "gone does not exist"),
        (("preview", bare, *TOYBOX), "holds no checkpoint"),
        (("preview", source, *TOYBOX, "--objective", "magic"), "no objective 'magic'"),
        (("preview", source, *PROMPTS, "--prior", "nowhere"), "The prior nowhere"),
        (("svg", gone, *TOYBOX), "no file .*gone"),
        (("svg", gone, *TOYBOX, "--objective", "sdedit"), "SDEdit makes pixels"),
        (("calibrate-eta", gone, *TOYBOX), "The run .*gone does not exist"),
        (("check", gone), "There is no .*gone"),
        (("check", hostile), "could run code"),
        (("import-ply", gone, "--data", source), "gone does not exist"),
        (("bench", "--suite", gone), "gone"),
        (("bench", "--suite", gone, "--cluster", "gone"), "is no address"),
        (("gallery", gone, *TOYBOX), "RUN .*gone does not exist"),
        (("gallery", source, *TOYBOX, "--methods", "magic"), "no method 'magic'"),
        (("gallery", source, *PROMPTS, "--prior", "nowhere"), "The prior nowhere"),
        (("gallery", lost, *TOYBOX), "nowhere of .* is not there"),
        (("pie-bench", "--data", gone, "--prior", "toybox"), "no folder of PIE-Bench"),
        (("toybox", "magic"), "no toybox edit 'magic'"),
        (("demo", "--edit", "magic"), "no toybox edit 'magic'"),
        (("runs", gone), "no folder .*gone"),
        (("dreambooth", "--instance-prompt", "a sks can", "--class-prompt", "a can"), "--data with a dataset"),
        (("edit", source, "--tgt-promt", "a cone"), "did you mean --tgt-prompt"),
    ]
    words = json.dumps([list(map(str, arguments)) for arguments, _ in refused])
    said = run_command(sys.executable, "-c", PROGRAM, words).stderr.splitlines()
    sentences = [line for line in said if line.startswith("Error: ")]
    assert len(sentences) == len(refused), said
    for sentence, (arguments, pattern) in zip(sentences, refused, strict=True):
        assert re.search(pattern, sentence), (arguments, sentence)


def test_the_version_is_the_packages(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pds", "--version"])
    main()
    assert capsys.readouterr().out == f"pds-nerfstudio {__version__}\n"


def test_the_shell_is_told_every_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pds", "--tyro-print-completion", "bash"])
    with pytest.raises(SystemExit):
        main()
    script = capsys.readouterr().out
    assert all(name in script for name in commands())


def test_a_toybox_scene_is_made_and_the_edits_are_listed(monkeypatch, capsys, tmp_path):
    def pds(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["pds", *words])
        main()
        return capsys.readouterr().out

    assert "can-to-cone" in pds("toybox")
    out = tmp_path / "scene"
    said = pds("toybox", "can-to-cone", "--out", str(out), "--size", "8", "--train-views", "1", "--test-views", "1")
    assert (out / "source" / "transforms.json").is_file()
    assert f"ns-train source-splatfacto --data {out}/source" in said
    assert "--pipeline.model.num-downscales 0 --pipeline.model.background-color white" in said


def test_prompts_come_before_what_few_need_in_the_help_of_an_edit():
    parser = parser_of(commands()["edit"])
    order = [action.option_strings[-1] for action in parser._actions if action.option_strings]
    assert order.index("--tgt-prompt") < order.index("--recipe") < order.index("--lora") < order.index("--render-args")
    assert "tgt-prompt" in flags_of(parser)
