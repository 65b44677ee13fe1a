"""A run that ends before its first checkpoint leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nerfstudio.utils import writer

from pds_nerfstudio.errors import one_sentence
from pds_nerfstudio.pipelines import distributed
from pds_nerfstudio.scenes.places import absolute

BEGINNINGS = (
    *("config.yml", "dataparser_transforms.json", "session.jsonl", "source.pt", "events.out.tfevents.*"),
    *(f"history/{name}" for name in ("history.json", "begin.pt", "source.jpg", "0.jpg", "0.pt")),
)
"""What a run writes before its first checkpoint."""
begun_here: set[Path] = set()
"""Folders of runs that were not there before this process began them."""


@contextmanager
def leaving_nothing(folder: Path, below: Path) -> Iterator[None]:
    """Within this block a mistake in the input ends the program in one sentence, and a run in `folder` that thereby
    ends without a checkpoint leaves no folder, unless it began in one that was there; nor folders left empty below
    `below`."""
    try:
        with one_sentence():
            yield
    except SystemExit:
        if absolute(folder) in begun_here and distributed.rank() == 0:
            close_event_writers()
            forget_run(folder, below)
        raise


def forget_run(folder: Path, below: Path) -> None:
    """Remove the folder of a run that has written nothing but what a run begins with, and the folders that this leaves
    empty, below `below`; any other folder stays as it is."""
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    if not all(any(path.match(name) for name in BEGINNINGS) for path in files):
        return
    for path in files:
        path.unlink()
    for place in (*sorted((p for p in folder.rglob("*")), reverse=True), folder, *folder.parents):
        if place == below or (place.is_dir() and any(place.iterdir())):
            return
        with suppress(OSError):
            place.rmdir()


def close_event_writers() -> None:
    """nerfstudio keeps its event writers: a second training in this process would log into the first one's files."""
    for event_writer in writer.EVENT_WRITERS:
        if isinstance(event_writer, writer.TensorboardWriter):
            event_writer.tb_writer.close()
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
