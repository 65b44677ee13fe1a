"""Does a long edit with pages that come and go keep taking memory?

    python benchmarks/memory_growth.py                               # 1,000 splat steps, then 300 NeRF steps
    python benchmarks/memory_growth.py --families splatfacto --steps 3000

`ns-train pds-edit…` on a toybox scene with its viewer on; five clients connect to the viewer's websocket, move their
cameras, and leave again after a few seconds, over and over. Resident memory is read after every fifth step. The figure
is the slope of a line through the second half of the readings, in MB per 1,000 steps: until then heaps fill. Readings
go up and down by tens of MB with what is being rendered, which a short run shows as a slope: look at the tenths.
"""

import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import tyro
import websockets

EVERY = 5
"""Steps between two readings."""
WARM_UP = 0.5
"""The share of the readings that comes first and does not count."""
STEPS = {"splatfacto": 1000, "nerfacto": 300}
PROMPTS = ("--pipeline.src-prompt", "a photo of a red ball", "--pipeline.tgt-prompt", "a photo of a blue ball")


@dataclass
class Settings:
    """What is run."""

    families: tuple[Literal["splatfacto", "nerfacto"], ...] = ("splatfacto", "nerfacto")
    """Kinds of scene."""
    steps: int | None = None
    """Edit steps; 1,000 of splats and 300 of a NeRF by default."""
    clients: int = 5
    """Pages that come and go."""


def train_and_measure(readings: Path, arguments: Sequence[str]) -> None:
    """`ns-train` with these arguments; writes a line of step and resident bytes after every few steps."""
    from nerfstudio.scripts import train

    from pds_nerfstudio.pipelines.trainer import EditTrainer

    page, step_of_edit = os.sysconf("SC_PAGE_SIZE"), EditTrainer.train_iteration
    with readings.open("w", buffering=1) as file:

        def measured(self, step):
            result = step_of_edit(self, step)
            if step % EVERY == 0:
                file.write(f"{step} {int(Path('/proc/self/statm').read_text().split()[1]) * page}\n")
            return result

        EditTrainer.train_iteration = measured
        sys.argv = ["ns-train", *arguments]
        train.entrypoint()


async def visit(port: int, generator: random.Random, ended: asyncio.Event) -> int:
    """One client: connect, look from a few places, leave, and begin again. Returns its visits."""
    visits = 0
    while not ended.is_set():
        try:
            async with websockets.connect(f"ws://127.0.0.1:{port}", max_size=None) as connection:
                visits += 1
                for _ in range(generator.randint(3, 12)):
                    await connection.send(msgspec.msgpack.encode(_camera(generator)))
                    with_answers = asyncio.create_task(_drain(connection))
                    await asyncio.sleep(0.5)
                    with_answers.cancel()
        except (OSError, websockets.exceptions.WebSocketException):
            pass  # nobody listens yet, or any more
        await asyncio.sleep(generator.uniform(0.5, 2))
    return visits


async def _drain(connection) -> None:
    while True:
        await connection.recv()


def _camera(generator: random.Random) -> dict:
    """What a page of viser 0.2.7 says when its camera has moved."""
    return {
        "type": "ViewerCameraMessage",
        "wxyz": [1.0, 0.0, 0.0, 0.0],
        "position": [generator.uniform(-1, 1), generator.uniform(-1, 1), generator.uniform(-3, 3)],
        "fov": 0.9,
        "aspect": 1.3,
        "look_at": [0.0, 0.0, 0.0],
        "up_direction": [0.0, 0.0, 1.0],
    }


async def run(family: str, steps: int, clients: int, folder: Path) -> tuple[np.ndarray, int]:
    """Steps and resident MB of one edit, [readings 2], and how many visits its viewer had."""
    from pds_nerfstudio.evaluation.trial import reconstruct
    from pds_nerfstudio.toybox.dataset import write_edit
    from pds_nerfstudio.toybox.spec import find_edit

    write_edit(find_edit("red-to-blue"), folder / "scene", train_views=12, test_views=2, size=32, num_points=400)
    base = reconstruct(family, folder / "scene" / "source", folder / "base", steps=60, seed=0)  # pyright: ignore
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    method = "pds-edit-splat" if family == "splatfacto" else "pds-edit"
    arguments = (
        *(method, "--load-dir", str(base.parent), "--output-dir", str(folder / "runs"), *PROMPTS),
        *("--pipeline.prior", "toybox", "--pipeline.resolution", "32", "--max-num-iterations", str(steps)),
        *("--vis", "viewer", "--viewer.websocket-port", str(port), "--viewer.quit-on-train-completion", "True"),
    )
    readings = folder / "readings.txt"
    command = [sys.executable, __file__, "--train", str(readings), *arguments]
    with (folder / "log.txt").open("w") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=subprocess.STDOUT)
        ended = asyncio.Event()
        visitors = [asyncio.create_task(visit(port, random.Random(i), ended)) for i in range(clients)]
        failed = await process.wait()
        ended.set()
        visits = sum(await asyncio.gather(*visitors))
    if failed:
        raise SystemExit(f"The edit failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    return np.loadtxt(readings) / [1, 1e6], visits


def main(settings: Settings) -> None:
    """Print a table."""
    print("| scene | steps | visits | least MB in each tenth of the time | MB per 1,000 steps, second half |")
    print("|---|---:|---:|---:|---:|")
    for family in settings.families:
        steps = settings.steps or STEPS[family]
        with tempfile.TemporaryDirectory() as folder:
            readings, visits = asyncio.run(run(family, steps, settings.clients, Path(folder)))
        late = readings[int(WARM_UP * len(readings)) :]
        slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] * 1000
        tenths = ", ".join(f"{part.min():.0f}" for part in np.array_split(readings[:, 1], 10))
        print(f"| {family} | {steps} | {visits} | {tenths} | {slope:.1f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train_and_measure(Path(sys.argv[2]), sys.argv[3:])
    else:
        main(tyro.cli(Settings, description=__doc__))
