"""What `test_splats.py` and `test_nerfs.py` do on pretended GPUs, in two files so that two workers share them."""

from collections import Counter
from pathlib import Path

import torch

from pds_nerfstudio.cli.dreambooth import Dreambooth
from pds_nerfstudio.cli.evaluate import Evaluate
from pds_nerfstudio.cli.preview import Preview
from pds_nerfstudio.cli.svg import Svg
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.scenes.source import find_run, load_source_state

from .conftest import Machine, Ran
from .noticed import Event

KINDS = tuple(
    name.removeprefix("sdedit-").removesuffix("-edit")
    for name, method in METHODS.items()
    if isinstance(method.config.pipeline, EditConfig) and not name.endswith("-splat")
)
"""Every method that edits: of "pds-edit" and its twin for splats, "pds"."""
TWO_DEVICES = ("--pipeline.prior-device", "cuda:1")
NO_HISTORY = ("--history", "nothing")
"""Its pictures are drawn alike with every method: the steered edit has one."""
VIEWER = ("--vis", "viewer", "--viewer.quit-on-train-completion", "True", "--viewer.websocket-host", "127.0.0.1")
FLAGS = {
    "sds": ("--pipeline.views-per-step", 2),
    "dds": ("--pipeline.hold-details", 1.0),
    "pnr": ("--pipeline.eta", 0.3, "--pipeline.refine-steps", 1),
    "piva": ("--pipeline.control", "toybox", "--pipeline.adapter-warmup", 1),
    "refine": ("--pipeline.num-steps", 2),
    "idu": ("--pipeline.num-steps", 2),
}
"""Of each method, what keeps it short or lets more of it run."""
STEPS = {"pnr": 3}
"""Of each method, two unless it is named here: pnr's last one refines."""


DRAWING = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 48'><linearGradient id='sky'><stop stop-color='blue'/>"
    "<stop offset='1' stop-color='white'/></linearGradient><rect width='64' height='48' fill='url(#sky)'/>"
    "<path d='M20 30 C24 10 40 10 44 30 Q32 40 20 30' fill='red' stroke='black' stroke-width='2' opacity='0.9'/></svg>"
)
"""Every kind of paint."""


def name_of(kind: str, family: str) -> str:
    """The method that `ns-train` knows."""
    name = "sdedit-refine" if kind == "refine" else f"{kind}-edit"
    return name if family == "nerfacto" else f"{name}-splat"


def check_every_method(machine: Machine, base: Path, kind: str, family: str, waits: int) -> None:
    """An edit whose prior is on a second GPU mismatches nothing, moves the scene, and waits so often in a step."""
    steps = STEPS.get(kind, 2)
    flags = (*FLAGS.get(kind, ()), *TWO_DEVICES, *NO_HISTORY, "--max-num-iterations", steps)
    distils = kind not in ("refine", "idu")
    if distils:
        flags = (*flags, "--pipeline.steps-per-view", steps)
    ran = machine.edit(name_of(kind, family), base, *flags)
    assert_no_mismatch(ran.events)
    assert_moved(base, ran)
    found = ran.of_kind("wait", step=1)
    assert len(found) <= waits, "\n".join(found)
    if distils:  # the view is that of the first step
        assert cameras_fetched(ran, step=1) == []


def assert_no_mismatch(events: list[Event]) -> None:
    """No operation was given tensors of two devices."""
    found = Counter(f"{event.what} at {event.place}" for event in events if event.kind == "mismatch")
    assert not found, "\n".join(f"{number} times {what}" for what, number in found.items())


def assert_moved(base: Path, ran: Ran) -> None:
    """The scene is finite, and not what it was."""
    before, after = (load_source_state(find_run(folder)) for folder in (base, ran.folder))
    values = {name: v for name, v in after.items() if name.startswith("_model.") and v.is_floating_point()}
    assert all(value.isfinite().all() for value in values.values())
    assert any(not torch.equal(value, before[name]) for name, value in values.items())


def steered_edit(machine: Machine, base: Path, family: str, steering, port: int) -> Ran:
    """An edit within a box that a viewer shows, with a snapshot, a change of the box, and ways back."""
    shown = []

    def show(trainer) -> None:
        trainer._show(now=True)
        shown.append(trainer.panel)

    steering(
        {
            1: [("snapshot", None), ("guidance_scale", 5.0)],
            2: [show, ("box", [-1.5, -1.5, -1.5, 1.5, 1.5, 1.5])],
            3: [("restore", "snapshot")],
            4: [("restore", "source"), show],
        }
    )
    ran = machine.edit(
        name_of("pds", family),
        base,
        *("--pipeline.box", -2, -2, -2, 2, 2, 2, "--max-num-iterations", 5, "--pipeline.steps-per-view", 5),
        vis=(*VIEWER, "--viewer.websocket-port", port),
    )
    assert len(shown) == 2
    return ran


def check_every_action(machine: Machine, base: Path, family: str, steering, port: int, out: Path) -> Ran:
    """A steered edit, and what comes after one: it is resumed, refined and evaluated. Returns the edit."""
    ran = steered_edit(machine, base, family, steering, port)
    steering({})
    resumed = machine.train(name_of("pds", family), ran.folder, "--max-num-iterations", 6)
    short = ("--max-num-iterations", 1, "--pipeline.num-steps", 1)
    refined = machine.train(name_of("refine", family), ran.folder, *short)
    assert_moved(ran.folder, refined)
    with machine.on() as events:
        Evaluate((refined.folder,), frames=2, resolution=32, out=out).run()
    for seen in (ran.events, resumed.events, refined.events, events):
        assert_no_mismatch(seen)
    return ran


def cameras_fetched(ran: Ran, step: int) -> list[str]:
    """Copies of a camera to a GPU in a step."""
    return [said for said in ran.of_kind("fetch", step) if "tensor_dataclass" in said]


def photographs_are_edited_and_learned_from(machine: Machine, scene: Path, out: Path) -> list[Event]:
    """The commands without a scene to edit; returns what the GPUs noticed."""
    prompts = {"src_prompt": "a photo of a red can", "tgt_prompt": ("a photo of a red cone",), "prior": "toybox"}
    small = {"prior": "toybox", "resolution": 32, "steps": 1, "class_images": 2, "empty_images": 1, "sample_steps": 1}
    said = {"instance_prompt": "a photo of a sks can", "class_prompt": "a photo of a can"}
    with machine.on() as events:
        Preview((scene / "source",), **prompts, objective=("pds", "piva"), steps=1, resolution=32, out=out / "2d").run()
        Dreambooth(data=scene / "source", out=out / "lora", **small, **said).run()
        (out / "can.svg").write_text(DRAWING)
        Svg(out / "can.svg", "a red can", "a red cone", prior="toybox", steps=2, out=out / "svg").run()
    return events
