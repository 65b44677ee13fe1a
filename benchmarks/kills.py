"""Kill commands at moments spread over their work, run them again, and compare with a run that was never stopped.

    OMP_NUM_THREADS=1 python benchmarks/kills.py --out benchmarks/results/kills.json

A moment is the n-th time that a command opens, moves, makes or removes something in its folder, or begins a step:
counted in a first, undisturbed run, then met again by an audit hook. Every second moment waits some milliseconds
longer, into the writing of a file. What must hold after each: files in their places are whole, the source is what it
was, the same line (of ns-train, the one that resumes) ends with 0, and the result is the undisturbed one, bit for bit.

Commands are forked from this process (see forked.py), which has imported everything. `pds edit` forks its stages in the
same way, with the same session, lock and signal of its parent's death as `run_child`.
"""

import importlib
import json
import multiprocessing
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import torch
import tyro
from PIL import Image

from pds_nerfstudio import children
from pds_nerfstudio.cli import edit as cli_edit
from pds_nerfstudio.evaluation import workers
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.interruption import stop_before_the_first_step
from pds_nerfstudio.pipelines.trainer import EditTrainer
from pds_nerfstudio.priors import dreambooth
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.scenes.source import find_run, fingerprint
from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import find_edit

FROM, TO = "a photo of a red can", "a photo of a red cone"
STEPS, EVERY = 10, 3
LATE = ("accelerate", "diffusers", "matplotlib.pyplot", "peft", "pds_nerfstudio.evaluation.measure", "torchmetrics")
LAUNCH = "pds_nerfstudio.launch"
"""The module by which `pds edit` begins a stage."""
WRITES = os.O_WRONLY | os.O_RDWR
SUITE = """edits:
  - name: paint
    kind: appearance
    source: {shape: ball, colour: red}
    target: {colour: blue}
"""
EDIT = f"--pipeline.resolution 32 --max-num-iterations {STEPS} --steps-per-save {EVERY} --vis tensorboard"


@dataclass(frozen=True)
class Command:
    """What is run, how it goes on, and what it makes."""

    name: str
    line: str
    """With {run}, {data}, {suite} and {out}."""
    result: Callable[[Path], Any]
    """What two runs must agree in, from {out}."""
    resumed: str = ""
    """The line that goes on where there is a checkpoint; else it is the same."""


def last_checkpoint(run: Path) -> Any:
    return torch.load(find_run(run).checkpoint_path, weights_only=True)


def of_training(out: Path) -> Any:
    resumed = out / "resumed/edit/pds-edit-splat/run"
    return last_checkpoint(resumed if resumed.is_dir() else out / "edit/pds-edit-splat/run")


def of_edit(out: Path) -> Any:
    report = json.loads((out / "evaluation/report.json").read_text())
    return last_checkpoint(out / "edit/pds-edit-splat/run"), report["runs"][0]["mean"]


def of_bench(out: Path) -> Any:
    records = {path.parent.name: json.loads(path.read_text()) for path in out.rglob("record.json")}
    return {name: record["metrics"] for name, record in sorted(records.items())}


def of_dreambooth(out: Path) -> Any:
    return (out / "pytorch_lora_weights.safetensors").read_bytes(), torch.load(
        out / "training/checkpoint.pt", weights_only=True
    )


COMMANDS = (
    Command(
        "ns-train",
        "ns-train pds-edit-splat --load-dir {run} --pipeline.src-prompt '" + FROM + "' --pipeline.tgt-prompt '" + TO
        + "' --pipeline.prior toybox --output-dir {out} --experiment-name edit --timestamp run "
        "--viewer.quit-on-train-completion True " + EDIT,
        of_training,
        "ns-train pds-edit-splat --load-dir {out}/edit/pds-edit-splat/run --output-dir {out}/resumed --timestamp run "
        "--vis tensorboard --viewer.quit-on-train-completion True",
    ),
    Command(
        "pds edit",
        f"pds edit {{run}} --from '{FROM}' --to '{TO}' --prior toybox --method pds-edit --no-refine --out {{out}} "
        f"--edit-args='{EDIT}' --render-args='--paths interpolated --frames 2' --evaluate-args='--frames 2'",
        of_edit,
    ),
    Command(
        "pds bench",
        "pds bench --suite {suite} --methods nothing dds-edit --family 2d --edit-steps 3 --workers 1 "
        "--out {out}",
        of_bench,
    ),
    Command(
        "pds dreambooth",
        "pds dreambooth --data {data} --prior toybox --instance-prompt 'a photo of a sks can' --class-prompt "
        f"'a photo of a can' --steps {STEPS} --save-every {EVERY} --class-images 2 --sample-steps 1 --sample-every 0 "
        "--resolution 32 --out {out}",
        of_dreambooth,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Blow:
    """What happens to a command, and when."""

    moment: int = 0
    """The number of the event; 0 for never."""
    signal: int = signal.SIGKILL
    wait: float = 0.0
    """Seconds after the event."""
    all_of_it: bool = False
    """Whether the process in which the event happens is hit too, where that is another one."""


def watched(folder: Path, out: Path, blow: Blow) -> None:
    """Count what this process, and those that it forks, do to `out`, and deal the blow at its moment."""
    log, top = folder / "events", os.getpid()
    inside = threading.local()

    def strike() -> None:
        time.sleep(blow.wait)
        with suppress(ProcessLookupError):
            os.kill(top, blow.signal)
        if blow.all_of_it and os.getpid() != top:
            os.kill(os.getpid(), blow.signal)

    def happened(what: str) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{what}\n".encode())
        os.close(descriptor)
        if blow.moment and sum(1 for _ in log.open()) == blow.moment:
            if blow.wait:
                threading.Thread(target=strike, daemon=True).start()
            else:
                strike()

    def hook(event: str, details: tuple) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "pds.step") or getattr(inside, "hook", False):
            return
        place = str(details[1] if event == "os.rename" else details[0])
        if event == "open" and not (isinstance(details[2], int) and details[2] & WRITES):
            return
        if event != "pds.step" and not place.startswith(str(out)):
            return
        inside.hook = True
        try:
            happened(f"{event.removeprefix('os.')} {Path(place).name if event != 'pds.step' else place}")
        finally:
            inside.hook = False

    sys.addaudithook(hook)


def announce_steps() -> None:
    """Let steps of edits and of DreamBooth be events."""
    edit_step, learn = EditTrainer.train_iteration, dreambooth._learn

    def step_of_edit(self, step: int):
        sys.audit("pds.step", f"step {step}")
        return edit_step(self, step)

    def step_of_learning(*arguments: Any):
        sys.audit("pds.step", f"step {arguments[-1][0]}")
        return learn(*arguments)

    EditTrainer.train_iteration, dreambooth._learn = step_of_edit, step_of_learning


def begin(words: Sequence[str], log: Path, first: Callable[[], object] = lambda: None) -> int:
    """`forked.begin`, where our methods were imported before there was a command."""

    def prepare() -> None:
        first()
        if words[0] == "ns-train":
            stop_before_the_first_step()

    return forked.begin(words, log, prepare)


def run_child(
    command: Sequence[str], keep_open: Sequence[int] = (), environment: Mapping[str, str] | None = None
) -> children.Ended:
    """`children.run_child` without loading everything again."""
    del keep_open  # a fork keeps everything open
    words = command[command.index(LAUNCH) + 1 :]
    asked: list[int] = []
    ask, here = children._dying_with_parent(), []

    def as_a_child() -> None:
        os.setsid()
        os.environ.update(environment or {})
        if ask is not None:
            ask()
        for number in children.PASSED_ON:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        for process in here:
            os.kill(process, number)

    before = {number: signal.signal(number, pass_on) for number in children.PASSED_ON}
    here.append(begin([Path(words[0]).name, *words[1:]], Path(os.environ["KILLS_LOG"]), as_a_child))
    with Path(os.environ["KILLS_PIDS"]).open("a") as file:
        file.write(f"{here[0]}\n")
    code = os.waitstatus_to_exitcode(os.waitpid(here[0], 0)[1])
    for number, handler in before.items():
        signal.signal(number, handler)
    return children.Ended(code, asked[0] if asked else None)


def ran(line: str, folder: Path, out: Path, blow: Blow = Blow()) -> int:
    """Run a line, and wait until nothing of it is left; its exit code."""
    log, pids = folder / "log.txt", folder / "pids"
    pids.write_text("")
    (folder / "events").unlink(missing_ok=True)

    def prepare() -> None:
        os.environ.update(KILLS_LOG=str(log), KILLS_PIDS=str(pids))
        watched(folder, out, blow)

    process = begin(shlex.split(line), log, prepare)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    end = time.monotonic() + 120
    while time.monotonic() < end and any(alive(int(number)) for number in pids.read_text().split()):
        time.sleep(0.1)
    time.sleep(0.3)  # workers end within that time after their parent
    return code


def alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    with suppress(OSError):
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def broken(out: Path) -> list[str]:
    """Files in their places that are not whole."""
    found = []
    for path in out.rglob("*"):
        if not path.is_file() or ".partial-" in str(path):
            continue
        try:
            if path.suffix in (".ckpt", ".pt"):
                torch.load(path, weights_only=True)
            elif path.suffix == ".json" and path.name != "dataparser_transforms.json":
                json.loads(path.read_text())
            elif path.suffix == ".png":
                Image.open(path).load()
        except Exception as error:
            found.append(f"{path.relative_to(out)} ({type(error).__name__})")
    return found


def same(a: Any, b: Any) -> bool:
    """Equality to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def spread(events: int, count: int) -> list[int]:
    """So many moments, evenly over the events, the first and the last among them."""
    return sorted({1 + round(i * (events - 1) / max(1, count - 1)) for i in range(count)})


@dataclass
class Kills:
    """Kill commands at moments spread over their work, and compare what becomes of them."""

    commands: tuple[str, ...] = tuple(command.name for command in COMMANDS)
    moments: int = 12
    """Of kill -9."""
    interruptions: int = 5
    """Moments of SIGINT, and of SIGTERM."""
    out: Path | None = None
    """Where to write the rows, as JSON."""
    folder: Path | None = None
    """Where to work; by default a temporary folder."""

    def run(self) -> None:
        """Make a scene, then disturb each command."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.folder or Path(temporary)
            scene = folder / "scene"
            write_edit(find_edit("can-to-cone"), scene, train_views=8, test_views=2, size=32, num_points=300)
            (folder / "suite.yaml").write_text(SUITE)
            line = "ns-train source-splatfacto --max-num-iterations 40 --vis tensorboard --output-dir {} --data {}"
            made = begin(shlex.split(line.format(folder / "source", scene / "source")), folder / "log.txt")
            assert os.waitpid(made, 0)[1] == 0, (folder / "log.txt").read_text()[-2000:]
            (run,) = (path.parent for path in (folder / "source").rglob("config.yml"))
            named = {"run": run, "data": scene / "source", "suite": folder / "suite.yaml"}
            load_prior("toybox", torch.device("cpu"))  # imports what would be imported in every process
            for module in LATE:
                importlib.import_module(module)
            announce_steps()
            cli_edit.run_child = run_child
            workers.get_context = lambda _: multiprocessing.get_context("fork")
            rows, known = [], {command.name: command for command in COMMANDS}
            for name in self.commands:
                rows += self._disturbed(known[name], folder / name.replace(" ", "_"), named, rows)
            faults = [row for row in rows if row["faults"]]
            print(f"{len(rows)} disturbed runs, {len(faults)} with faults")
            sys.exit(1 if faults else 0)

    def _disturbed(self, command: Command, folder: Path, named: dict[str, Path], before: list[dict]) -> list[dict]:
        whole = folder / "undisturbed"
        whole.mkdir(parents=True)
        sources = fingerprint(named["run"], named["data"])
        start = time.perf_counter()
        code = ran(command.line.format(out=whole / "out", **named), whole, whole / "out")
        assert code == 0, (whole / "log.txt").read_text()[-3000:]
        wanted = command.result(whole / "out")
        events = (whole / "events").read_text().splitlines()
        print(f"{command.name}: {len(events)} events, {time.perf_counter() - start:.0f} s", flush=True)
        blows = [
            Blow(moment, signal.SIGKILL, 0.003 * (i % 2), all_of_it=i % 4 > 1)
            for i, moment in enumerate(spread(len(events), self.moments))
        ]
        for number in (signal.SIGINT, signal.SIGTERM):
            blows += [Blow(moment, number) for moment in spread(len(events), self.interruptions + 2)[1:-1]]
        rows = []
        for i, blow in enumerate(blows):
            place = folder / f"{i:02d}"
            place.mkdir()
            faults = []
            code = ran(command.line.format(out=place / "out", **named), place, place / "out", blow)
            faults += [f"not whole: {name}" for name in broken(place / "out")]
            line = command.line
            if command.resumed and any(place.glob("out/edit/*/run/*/step-*.ckpt")):
                line = command.resumed
            again = ran(line.format(out=place / "out", **named), place, place / "out")
            # A training that had all its steps when it was stopped has nothing left to resume.
            complete = "already has" in (place / "log.txt").read_text()
            if again != 0 and not (command.resumed and complete):
                faults.append(f"the second run ended with {again}")
            else:
                faults += [] if same(command.result(place / "out"), wanted) else ["another result"]
            if fingerprint(named["run"], named["data"]) != sources:
                faults.append("the source has changed")
            if "Traceback" in (place / "log.txt").read_text():
                faults.append("a traceback")
            name = signal.Signals(blow.signal).name
            row = {"command": command.name, "signal": name, "moment": f"{blow.moment}/{len(events)}"}
            at = re.sub(r"\.partial-.*", "a private folder", events[blow.moment - 1].removeprefix("pds."))
            row |= {"at": at, "exit": code, "resumed": line != command.line, "faults": faults}
            rows.append(row)
            print("  ", row, flush=True)
            if self.out is not None:
                write_whole(self.out, json.dumps(before + rows, indent=1) + "\n")
        return rows


if __name__ == "__main__":
    assert METHODS
    tyro.cli(Kills).run()
