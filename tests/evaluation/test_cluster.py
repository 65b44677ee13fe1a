"""Cells on a Ray cluster of two workers on this machine, of which one is killed."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pds_nerfstudio.cli.bench import Bench
from pds_nerfstudio.cli.running import Running
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.cluster import AGAIN, TRIES, cluster, require_cluster

SUITES = Path(__file__).parents[2] / "suites"
EDITS = ("red-to-blue", "can-to-cone")
QUICKLY = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 2000,
    "health_check_failure_threshold": 4,
}
"""How soon Ray notices that a machine is gone; its own settings take a quarter of a minute."""


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """Two workers of one CPU each, of which the first is the head too."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "_system_config": QUICKLY}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=1, num_gpus=0)
    yield made
    made.shutdown()


@dataclass(frozen=True)
class Item:
    """Something to do."""

    name: str
    folder: Path


def obey(item: Item) -> str:
    """What an item's name asks for."""
    if item.name == "fail":
        raise RuntimeError("no such luck\nat all")
    if item.name == "die" or (item.name == "die once" and not (item.folder / "log.txt").exists()):
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{item.name} in {Path.cwd()}"


def test_a_task_that_fails_dies_or_loses_its_process_once_stops_no_other(ray_cluster, tmp_path, monkeypatch):
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not know where tests are
    monkeypatch.chdir(tmp_path)
    items = [Item(name, tmp_path / name) for name in ("fail", "die", "die once", "work", "work too")]
    with cluster(ray_cluster.address) as each:
        outcomes = {item.name: outcome for item, outcome in each(obey, items)}
    assert outcomes == {
        "fail": "no such luck",
        "die": f"its process or machine was lost {TRIES} times, perhaps for want of memory",
        **{name: f"{name} in {tmp_path}" for name in ("die once", "work", "work too")},
    }
    assert "at all" in (tmp_path / "fail" / "log.txt").read_text()
    assert (tmp_path / "die" / "log.txt").read_text().count(AGAIN) == TRIES - 1


@pytest.mark.slow
def test_a_suite_on_a_cluster_one_of_whose_workers_is_killed_gives_the_serial_table(
    ray_cluster, one_process, tmp_path, capfd
):
    def bench(out: Path, running: Running) -> tuple[str, list[dict]]:
        Bench(SUITES / "ci.yaml", ("dds-edit",), "2d", edits=EDITS, out=out, edit_steps=2, running=running).run()
        records = json.loads((out / "ci" / "2d" / "results.json").read_text())
        kept = [{k: v for k, v in record.items() if k not in ("seconds", "peak_memory_mb")} for record in records]
        return (out / "ci" / "2d" / "table.md").read_text(), kept

    with one_process():
        serial = bench(tmp_path / "serial", Running())
    killer = threading.Thread(target=kill_one, args=(ray_cluster, tmp_path / "cluster"))
    killer.start()
    try:
        assert bench(tmp_path / "cluster", Running(cluster=ray_cluster.address)) == serial
    finally:
        killer.join()
    assert any(AGAIN in log.read_text() for log in (tmp_path / "cluster").rglob("log.txt"))


def kill_one(made: Any, out: Path) -> None:
    """Kill a worker while both are at an edit: what it does is halted first, so that it cannot end meanwhile."""
    worker = next(iter(made.worker_nodes))
    raylet = psutil.Process(worker.all_processes["raylet"][0].process.pid)
    end, halted = time.monotonic() + 120, []
    while time.monotonic() < end:
        if len(at_an_edit(out)) == 2:
            halted = tasks_of(raylet)
            signal_each(halted, signal.SIGSTOP)
            if len(at_an_edit(out)) == 2:
                break
            signal_each(halted, signal.SIGCONT)  # one had ended before it was halted
        time.sleep(0.02)
    made.remove_node(worker, allow_graceful=False)
    signal_each(halted, signal.SIGKILL)


def at_an_edit(out: Path) -> set[Path]:
    """The folders of cells that have begun and not ended."""
    cells = out / "ci" / "2d" / "cells"  # and not rglob, which meets files that are being written beside it
    begun, ended = ({file.parent for file in cells.glob(f"*/{name}")} for name in ("log.txt", "record.json"))
    return begun - ended


def tasks_of(raylet: psutil.Process) -> list[psutil.Process]:
    """The processes in which a worker's tasks run."""
    tasks = []
    for child in raylet.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::" in "".join(child.cmdline()):
                tasks.append(child)
    return tasks


def signal_each(processes: list[psutil.Process], which: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(which)


@pytest.mark.parametrize("address", ["nowhere", "a/b:1", "host:port", ":6379"])
def test_what_is_no_address_is_refused_before_ray_is_asked(address):
    with pytest.raises(UserError, match="is no address: give HOST:PORT"):
        require_cluster(address)


def test_a_cluster_that_does_not_answer_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        port = taken.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(UserError, match=f"ray start --head --port {port}"):
            require_cluster(f"127.0.0.1:{port}")
    assert time.monotonic() - start < 2


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\[cluster\]"):
        require_cluster("auto")


def test_workers_of_this_machine_and_a_cluster_are_not_both_taken():
    with pytest.raises(UserError, match="leave one out"):
        Running(workers=2, cluster="auto")
