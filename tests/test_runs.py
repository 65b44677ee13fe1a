"""Runs are found, listed and named by their files alone, and a link of somebody else's is left alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tyro
import yaml

from pds_nerfstudio.alive import held, is_running
from pds_nerfstudio.cli.render import Render
from pds_nerfstudio.cli.runs import Runs, in_order, next_of, state_of
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.moments import Moment, Moments
from pds_nerfstudio.next_steps import after_edit
from pds_nerfstudio.pipelines import pace as pace_module
from pds_nerfstudio.pipelines.pace import SETTLED, Pace, at_least, in_words, is_counted, product_rate
from pds_nerfstudio.prompts import LONGEST_WORDS, folder_words
from pds_nerfstudio.run_yaml import read_plain
from pds_nerfstudio.runs import behind_latest, place_beside, point_latest_at, read_run, require_run, runs_below

OLD_RUNS = Path(__file__).parent / "fixtures" / "runs_of_0_1_0"
MAN = "a photo of a man"
SPLATS = "splatfacto.SplatfactoModelConfig"


def make_run(
    outputs: Path, name: str, steps=(9,), of: int = 10, base: Path | None = None, load_dir: Path | None = None, **more
):
    """A run's folder as `ns-train` leaves it, without weights; an edit where it has a base."""
    folder = outputs / "fox" / name / "2026-11-26_162051"
    (folder / "nerfstudio_models").mkdir(parents=True)
    prompts = {"src_prompt": MAN, "tgt_prompt": f"{MAN} raising his arms", "run": {"base": base}} if base else {}
    config = {
        "method_name": name,
        "max_num_iterations": of,
        "relative_model_dir": Path("nerfstudio_models"),
        "output_dir": outputs,
        "load_dir": load_dir,
        "pipeline": {"model": {}, "datamanager": {"data": outputs}, **prompts} | more,
    }
    text = yaml.dump(config, sort_keys=False)
    text = text.replace("pipeline:", "pipeline: !!python/object:nerfstudio.pipelines.base_pipeline.P")
    text = text.replace("model: {}", f"model: !!python/object:nerfstudio.models.{SPLATS} {{}}")
    text = text.replace("datamanager:", "datamanager: !!python/object:nerfstudio.data.D")
    (folder / "config.yml").write_text(f"!!python/object:nerfstudio.engine.trainer.TrainerConfig\n{text}")
    for step in steps:
        (folder / "nerfstudio_models" / f"step-{step:09d}.ckpt").touch()
    return folder


def test_a_run_of_an_older_version_says_what_it_is():
    found = {run.method: run for run in map(read_run, runs_below(OLD_RUNS))}
    edit = found["pnr-edit-splat"]
    assert edit.prompts == ("a photo of a red can", "a photo of a red cone")
    assert (edit.family, edit.steps_done, edit.steps, edit.is_edit) == ("splatfacto", 6, 6, True)
    assert found["source-nerfacto"].family == "nerfacto"
    assert not found["source-nerfacto"].is_edit


def test_what_a_configuration_names_is_read_and_not_run(tmp_path):
    folder = make_run(tmp_path, "source-splatfacto")
    text = (folder / "config.yml").read_text()
    for call in (f"!!python/object/apply:os.mkdir [{tmp_path / 'mark'}]", "!!python/name:os.system ''"):
        (folder / "config.yml").write_text(text.replace("max_num_iterations: 10", f"max_num_iterations: {call}"))
        with pytest.raises(UserError, match="could run code"):
            read_plain(folder / "config.yml")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("steps", "of", "gone", "sentence"),
    [
        ((), 10, "", "no checkpoint yet"),
        ((3, 9), 10, "", "finished"),
        ((3,), 10, "", None),
        ((3,), 10, "base", "its source .* is gone"),
    ],
)
def test_a_run_says_whether_it_can_go_on(tmp_path, steps, of, gone, sentence):
    base = make_run(tmp_path, "source-splatfacto")
    edit = make_run(tmp_path, "pnr-edit-splat", steps, of, base / "config.yml")
    if gone:
        base.rename(tmp_path / "elsewhere")
    said = read_run(edit / "config.yml").obstacle()
    assert (said is None) == (sentence is None)
    assert sentence is None or re.search(sentence, said)


def test_a_run_that_a_process_is_writing_says_so(tmp_path):
    folder = make_run(tmp_path, "source-splatfacto", (3,))
    code = f"from pathlib import Path; from pds_nerfstudio.alive import held\nwith held(Path({str(folder)!r})): input()"
    with subprocess.Popen([sys.executable, "-c", f"{code}"], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not (running := read_run(folder / "config.yml").obstacle()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert running == "running now"
    assert read_run(folder / "config.yml").obstacle() is None
    with held(folder):
        assert state_of(read_run(folder / "config.yml"), []) == "running now"
        Moments({"6": Moment("6", 6, {})}).write(folder / "history")
        assert state_of(read_run(folder / "config.yml"), []) == "running now, beyond step 6"
    assert not is_running(folder)


def test_a_run_that_begins_while_another_process_looks_at_it_is_running(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    look = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)
    away = threading.Timer(0.1, os.close, (look,))
    away.start()
    with held(tmp_path):
        assert is_running(tmp_path)
    away.join()
    assert not is_running(tmp_path)


def test_an_interrupted_run_names_the_one_that_went_on_from_it(tmp_path, capsys):
    base = make_run(tmp_path, "source-splatfacto")
    edit = make_run(tmp_path, "pnr-edit-splat", (3,), base=base / "config.yml")
    part = edit.with_name("run.1")
    edit.rename(part)
    whole = make_run(tmp_path, "pnr-edit-splat", base=base / "config.yml", load_dir=part / "nerfstudio_models")
    of_edit = make_run(tmp_path / "more", "pnr-edit-splat", base=part / "config.yml", load_dir=part)
    runs = [read_run(folder / "config.yml") for folder in (part, whole, of_edit)]
    assert [run.goes_on_with(runs[0]) for run in runs] == [False, True, False]
    Runs(tmp_path / "fox").run()
    page = capsys.readouterr().out
    assert f"4 of 10 steps, went on in {whole}" in page
    assert "can be resumed" not in page


def test_edits_stand_below_what_they_began_with_and_the_latest_run_comes_last(tmp_path, capsys, monkeypatch):
    base = make_run(tmp_path / "outputs", "source-splatfacto")
    edit = make_run(tmp_path / "outputs", "pnr-edit-splat", (3,), base=base / "config.yml")
    refined = make_run(tmp_path / "outputs", "sdedit-refine-splat", base=edit / "config.yml")
    other = make_run(tmp_path / "outputs", "source-nerfacto")
    for age, folder in enumerate((edit, refined, base, other)):
        for path in (folder / "config.yml", *folder.glob("*/*.ckpt")):
            os.utime(path, (1e9 - age, 1e9 - age))
    runs = [read_run(path) for path in runs_below(tmp_path / "outputs")]
    order = [(depth, run.method) for depth, run in in_order(runs)]
    assert order == [
        (0, "source-nerfacto"),
        (0, "source-splatfacto"),
        (1, "pnr-edit-splat"),
        (2, "sdedit-refine-splat"),
    ]
    monkeypatch.chdir(tmp_path)
    Runs().run()
    page = capsys.readouterr().out
    assert "4 of 10 steps, can be resumed" in page
    assert f"“{MAN}” → “{MAN} raising his arms”" in page
    assert f"ns-train pnr-edit-splat --load-dir {edit.relative_to(tmp_path)}   # go on" in page
    Runs(json=True, containing="RAISING").run()
    found = json.loads(capsys.readouterr().out)
    assert {run["method"]: run["can_be_resumed"] for run in found} == {
        "pnr-edit-splat": True,
        "sdedit-refine-splat": False,
    }


def test_a_run_that_cannot_be_read_is_said_and_hides_no_other(tmp_path, capsys):
    make_run(tmp_path, "source-splatfacto")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yml").write_text("a: [")
    Runs(tmp_path).run()
    page = capsys.readouterr().out
    assert "cannot be read as a nerfstudio config" in page
    assert "10 of 10 steps, finished" in page


def test_what_is_missing_is_refused_by_the_files_alone(tmp_path):
    folder = make_run(tmp_path, "source-splatfacto")
    for place, step, sentence in (
        (tmp_path / "gone", None, "RUN .*gone does not exist"),
        (tmp_path, None, "no config.yml in it"),
        (folder, 5, "no checkpoint of step 5, only of 9"),
    ):
        with pytest.raises(UserError, match=sentence):
            require_run(place, step, called="RUN")
    assert require_run(folder / "nerfstudio_models", 9).folder == folder


def test_the_link_leads_to_the_latest_run_and_replaces_nothing_of_anybody_elses(tmp_path):
    first, second = make_run(tmp_path, "source-splatfacto"), make_run(tmp_path, "pnr-edit-splat")
    link = tmp_path / "latest"
    for run in (first, second):
        point_latest_at(run, tmp_path)
        assert link.resolve() == run.resolve()
        assert not Path(os.readlink(link)).is_absolute()
    assert behind_latest(link / "nerfstudio_models") == second / "nerfstudio_models"
    assert require_run(link).folder == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox", "latest"]

    mine = tmp_path / "mine"
    mine.mkdir()
    for place in (mine, tmp_path / "a" / "b" / ".." / ".." / "mine"):
        link.unlink()
        link.symlink_to(place)
        point_latest_at(first, tmp_path)
        assert os.readlink(link) == str(place)
    link.unlink()
    link.mkdir()
    (link / "thesis.tex").touch()
    point_latest_at(first, tmp_path)
    assert [path.name for path in link.iterdir()] == ["thesis.tex"]


def test_a_folder_is_named_by_what_the_target_prompt_adds():
    assert folder_words(MAN, f"{MAN} raising his arms") == "raising-his-arms"
    assert folder_words("a photo of a red ball", "a photo of a blue ball") == "blue-ball"
    assert folder_words(MAN, "a photo of a statue of a man") == "statue-of-a-man"
    assert folder_words(f"{MAN} in a hat", MAN) == "man"
    assert folder_words("", "../../etc: passwd\n\x1b") == "etc-passwd"
    assert folder_words(MAN, "…") == ""
    long = folder_words(MAN, f"{MAN} {'very ' * 50}tall")
    assert 0 < len(long.encode()) <= LONGEST_WORDS
    assert not long.endswith("-")


def test_next_lines_are_of_commands_that_read_them():
    export = after_edit(Path("a run"))[-1]
    read = tyro.cli(Render, args=export.command[2:])
    assert (read.run_folder, read.paths, read.export, read.held_out) == (Path("a run"), (), True, False)
    assert str(export).startswith("pds render 'a run' --export")


def test_a_reconstruction_that_can_be_edited_says_how(tmp_path):
    run = read_run(make_run(tmp_path, "source-splatfacto") / "config.yml")
    assert [step.command[:2] for step in next_of(run)] == [
        ("ns-viewer", "--load-config"),
        ("pds", "preview"),
        ("pds", "edit"),
    ]


def test_the_pace_is_said_once_and_only_where_much_is_left(monkeypatch):
    import torch

    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    cpu = torch.device("cpu")
    said = [Pace.after_step(pace, cpu) for pace in [Pace(1000)] for _ in range(100)]
    assert [i for i, sentence in enumerate(said, 1) if sentence] == [SETTLED]
    assert "At 2 s a step, 33 min left" in said[SETTLED - 1]
    assert not any(Pace.after_step(pace, cpu) for pace in [Pace(SETTLED + 1)] for _ in range(100))
    assert [in_words(seconds) for seconds in (3, 600, 7200, 1e6)] == ["1 min", "10 min", "2.0 h", "11.6 days"]


def test_an_edit_takes_its_counted_work_at_the_rate_of_this_machine_at_the_least(monkeypatch):
    import torch

    cpu = torch.device("cpu")
    assert product_rate(cpu, torch.float32) > 0
    monkeypatch.setattr(pace_module, "product_rate", lambda *_: 2.0)
    said = at_least(16_000, 5.481, cpu, torch.float32)
    assert said.startswith("At least 12.2 h: 16,000 steps of 5.5 TFLOP")  # 16,000 · 5.481 TFLOP / 2 TFLOP/s
    assert at_least(16_000, 4 * 5.481, cpu, torch.float32).startswith("At least 2.0 days")
    assert is_counted("pds-edit")
    assert not is_counted("sdedit-refine-splat")


def test_what_pds_edit_left_unfinished_goes_on_by_its_own_line_and_its_folder_is_a_run(tmp_path, capsys):
    base = make_run(tmp_path / "a", "source-splatfacto")
    made = make_run(tmp_path / "b", "pnr-edit-splat", (3,), base=base / "config.yml")
    run = tmp_path / "out" / "edit" / "pnr-edit-splat" / "run"
    run.parent.mkdir(parents=True)
    made.rename(run)
    line = "pds edit RUN --from 'a man' --to 'a clown' --out out"
    entry = {"name": "edit", "command": "ns-train", "started": True, "seconds": None, "call": line}
    (tmp_path / "out" / "edit.json").write_text(json.dumps([entry]))
    Runs(tmp_path / "out").run()
    assert f"  {line}   # go on" in capsys.readouterr().out
    assert require_run(tmp_path / "out").folder == run
    shutil.rmtree(run.parent)
    Runs(tmp_path / "out").run()
    assert f"  {line}   # begin the edit again" in capsys.readouterr().out


@pytest.mark.parametrize(
    "call", ["rm -rf /home/you", "pds edit 'RUN", 3, "pds edit\nrm -rf /home/you", "pds runs", "python -c 1"]
)
def test_a_strangers_record_names_no_other_command_to_type(tmp_path, capsys, call):
    base = make_run(tmp_path / "a", "source-splatfacto")
    made = make_run(tmp_path / "b", "pnr-edit-splat", (3,), base=base / "config.yml")
    run = tmp_path / "out" / "edit" / "pnr-edit-splat" / "run"
    run.parent.mkdir(parents=True)
    made.rename(run)
    entry = {"name": "edit", "command": "ns-train", "started": True, "seconds": None, "call": call}
    (tmp_path / "out" / "edit.json").write_text(json.dumps([entry]))
    Runs(tmp_path / "out").run()
    said = capsys.readouterr().out
    assert not re.search(r"^ +(rm|python|pds runs)", said, re.MULTILINE)
    assert "# go on" in said


def test_what_is_made_of_an_edit_goes_to_the_folder_that_was_given(tmp_path):
    edit = tmp_path / "edit"
    run = edit / "refinement" / "sdedit-refine-splat" / "run"
    (run / "nerfstudio_models").mkdir(parents=True)
    (run / "nerfstudio_models" / "step-000000009.ckpt").touch()
    (run / "config.yml").touch()
    (edit / "edit.json").write_text("[]")
    assert place_beside(edit, run, "renders") == edit / "renders"
    for given in (run, run / "nerfstudio_models", run / "config.yml"):
        assert place_beside(given, run, "renders") == run / "renders"


def test_a_folder_above_a_run_is_answered_with_the_last_run_below_it(tmp_path):
    run = make_run(tmp_path, "source-splatfacto")
    with pytest.raises(UserError, match=f"did you mean the last one below it, {run}\\?"):
        require_run(run.parent.parent)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "transforms.json").write_text("{}")
    with pytest.raises(UserError, match=f"ns-train source-splatfacto --data {tmp_path / 'data'}\\."):
        require_run(tmp_path / "data")


def test_what_was_made_of_an_edit_is_not_proposed_again(tmp_path):
    purposes = [step.purpose for step in after_edit(tmp_path / "run", tmp_path)]
    (tmp_path / "renders").mkdir()
    (tmp_path / "evaluation").mkdir()
    left = [step.purpose for step in after_edit(tmp_path / "run", tmp_path)]
    assert left == [purposes[0], purposes[-1]]
