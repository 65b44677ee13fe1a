"""Tasks in processes of their own, of which each imports this file: it takes nothing heavy along."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pds_nerfstudio.errors import UserError, one_sentence
from pds_nerfstudio.evaluation.workers import each
from pds_nerfstudio.files import write_whole


@dataclass(frozen=True)
class Item:
    """Something to do."""

    name: str
    folder: Path


def items(folder: Path, *names: str) -> list[Item]:
    return [Item(name, folder / name) for name in names]


def obey(item: Item) -> str:
    """What an item's name asks for."""
    if item.name == "fail":
        raise RuntimeError("no such luck\nat all")
    if item.name == "die":
        os._exit(1)
    if item.name == "refuse":  # as `ns-train` does when what it is given cannot work
        with one_sentence():
            raise UserError("No edit today.")
    if item.name == "wait":
        write_whole(item.folder / "pid", str(os.getpid()))
        time.sleep(600)
    return f"{item.name} in {os.getpid()}"


def test_a_task_that_fails_or_dies_stops_no_other(tmp_path):
    given = items(tmp_path, "work", "fail", "work too", "die", "refuse", "go on", "and on")
    outcomes = {item.name: outcome for item, outcome in each(obey, given, 2)}
    assert outcomes.keys() == {item.name for item in given}
    assert outcomes["fail"] == "no such luck"
    assert outcomes["refuse"] == "No edit today."  # what a command said on its way out
    assert "process died" in outcomes["die"]
    done = [outcomes[name].split(" in ") for name in ("work", "work too", "go on", "and on")]
    assert [name for name, _ in done] == ["work", "work too", "go on", "and on"]
    assert str(os.getpid()) not in {process for _, process in done}
    assert "at all" in (tmp_path / "fail" / "log.txt").read_text()


def test_a_worker_ends_with_the_process_that_began_it(tmp_path):
    began = f"""
from pathlib import Path
from test_workers import each, items, obey
for _ in each(obey, items(Path({str(tmp_path)!r}), "wait"), 1):
    pass
"""
    places = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    pid = tmp_path / "wait" / "pid"
    with subprocess.Popen([sys.executable, "-c", began], env=environment) as process:
        try:
            wait_for(pid.exists)
        finally:
            process.kill()
    worker = int(pid.read_text())
    wait_for(lambda: not alive(worker))


def wait_for(happens: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.1)


def alive(process: int) -> bool:
    """Whether it runs; a process that nobody has collected yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
