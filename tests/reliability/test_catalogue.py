"""Bad input ends in a sentence that names the way out, never in a traceback; nobody's files are touched.

All command lines run in this process: importing nerfstudio takes longer than refusing a command.
"""

import contextlib
import io
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pds_nerfstudio import cli
from pds_nerfstudio.scenes.source import fingerprint

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A row of the catalogue."""

    name: str
    command: str
    code: int
    words: str


def catalogue() -> list[Case]:
    lines = (Path(__file__).parent / "catalogue.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [Case(name, command, int(code), words) for name, command, code, words in rows]


def run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of a command line of `pds` or `ns-train`, in this process."""
    from nerfstudio.scripts import train

    said = io.StringIO()
    before = sys.argv, sys.__stderr__
    sys.argv, sys.__stderr__ = arguments, said  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            {"pds": cli.main, "ns-train": train.entrypoint}[arguments[0]]()
        code = 0
    except SystemExit as stop:
        code = 0 if stop.code is None else int(stop.code)
    finally:
        sys.argv, sys.__stderr__ = before  # pyright: ignore[reportAttributeAccessIssue]
    return code, said.getvalue()


@pytest.fixture(scope="module", autouse=True)
def nothing_of_others_changes(named):
    """Checksums of the source run, the dataset and somebody's own files, before and after all of it."""
    folders = [Path(named[name]) for name in ("run", "data", "mine", "mine_with_log", "empty")]
    before = fingerprint(*folders)
    yield
    assert fingerprint(*folders) == before
    assert Path(named["file"]).read_text() == "somebody's"
    assert not Path(named["mark"]).exists()
    assert not Path("/tmp/ABSOLUTE").exists()


@pytest.mark.parametrize("case", catalogue(), ids=lambda case: case.name)
def test_bad_input_is_one_sentence(case, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    words = [word.format(**named, out=tmp_path / "out") for word in shlex.split(case.command)]
    code, said = run(words)
    text = " ".join(said.replace("│", " ").split())
    assert code == case.code, said
    assert case.words in text
    assert "Traceback" not in text
    if code == 1:
        assert said.count("Error: ") == 1, said
    if code:
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_catalogue_is_long_and_names_each_case_once():
    names = [case.name for case in catalogue()]
    assert len(set(names)) == len(names) >= 150


def test_ctrl_c_ends_in_a_sentence_and_130(monkeypatch, named):
    from pds_nerfstudio.cli.check import Check

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Check, "run", interrupted)
    code, said = run(["pds", "check", str(named["run"])])
    assert code == 130
    assert said == "Interrupted. What was finished is kept.\n"


@contextlib.contextmanager
def disk(folder: Path, size: str):
    """A disk of its own."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A disk of half a megabyte."""
    with disk(tmp_path_factory.mktemp("disk"), "512k") as folder:
        yield folder


ON_A_SMALL_DISK = (
    "pds evaluate {run} --source {run} --out {disk}/a",
    "pds render {run} --source {run} --out {disk}/a",
    "pds preview {picture} --src-prompt a --tgt-prompt b --steps 1 --prior toybox --out {disk}/a",
    "pds edit {run} --from a --to b --prior toybox --out {disk}/a",
    "pds demo --out {disk}/a",
    "pds bench --suite {suites}/good.yaml --methods nothing --family 2d --out {disk}/a",
    "pds gallery {run} --from a --to b --prior toybox --out {disk}/a",
    "pds pie-bench --data {pie}/good --prior toybox --out {disk}/a",
    "pds dreambooth --data {data} --prior toybox --instance-prompt 'a sks a' --class-prompt a --out {disk}/a",
    "pds svg {drawing} --src-prompt a --tgt-prompt b --steps 1 --prior toybox --out {disk}/a",
    "pds import-ply {ply}/whole.ply --data {data} --output-dir {disk}/a",
    "ns-train source-splatfacto --data {data} --output-dir {disk}/a --vis tensorboard",
    "ns-train pds-edit-splat --load-dir {run} --pipeline.src-prompt a --pipeline.tgt-prompt b --pipeline.prior toybox "
    "--output-dir {disk}/a --vis tensorboard",
)


@pytest.mark.parametrize("command", ON_A_SMALL_DISK, ids=lambda command: command.split()[1])
def test_a_disk_without_room_is_said_before_anything_is_measured(small_disk, named, command):
    code, said = run([word.format(**named, disk=small_disk) for word in shlex.split(command)])
    assert code == 1, said
    assert "has no room for" in said
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_a_disk_that_fills_while_an_edit_logs_and_saves_ends_it_with_the_last_checkpoint_whole(named, tmp_path):
    (tmp_path / "disk").mkdir()
    with disk(tmp_path / "disk", "2m") as folder:
        command = [word.format(**named, disk=folder) for word in shlex.split(ON_A_SMALL_DISK[-1])]
        steps = ["--max-num-iterations", "60", "--steps-per-save", "1", "--save-only-latest-checkpoint", "False"]
        code, said = run([*command, *steps, "--pipeline.resolution", "32"])
        assert code == 1, said
        assert "Traceback" not in said
        assert said.count("Error: ") == 1
        assert "could not be written" in said or "no space left" in said
        saved = list(folder.rglob("step-*.ckpt"))
        assert saved
        for path in saved:
            torch.load(path, weights_only=True)
