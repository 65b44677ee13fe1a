"""Tasks in processes of their own, of which each imports this file: it takes nothing heavy along."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from processes import alive, started, wait_for

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
    code = f"""
from pathlib import Path
from test_workers import each, items, obey
for _ in each(obey, items(Path({str(tmp_path)!r}), "wait"), 1):
    pass
"""
    places = [*map(str, Path(__file__).parents[:2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    pid = tmp_path / "wait" / "pid"
    with started([sys.executable, "-c", code], env=environment):
        wait_for(pid.exists)
    worker = int(pid.read_text())
    wait_for(lambda: not alive(worker))
