"""What the catalogue's command lines name: damaged runs, files, suites, records, and things that are somebody's own."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pds_nerfstudio.cli.edit_record import STATE
from pds_nerfstudio.priors.check import TOYBOX

COLUMNS = [
    *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]
GOOD_EDIT = {
    "image_path": "a.png",
    "original_prompt": "a",
    "editing_prompt": "b",
    "editing_type_id": "0",
    "mask": [0, 1],
}

DRAWING = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 64'><circle cx='30' cy='25' r='12' fill='red'/></svg>"
)


class Evil:
    """What a pickle may hold."""

    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.fixture(scope="session")
def named(tmp_path_factory, toy_scene, toy_splats) -> dict[str, Path | str]:
    """Everything by the name that the catalogue has for it; `mark` must never come to be."""
    root = tmp_path_factory.mktemp("named")
    data = toy_scene / "source"
    mark, mine, log = root / "mark", root / "mine", root / "mine_with_log"
    for folder in (mine / "thesis", log, root / "empty", root / "garbage_data"):
        folder.mkdir(parents=True)
    (mine / "thesis" / "chapter.tex").write_text("years of work")
    (log / "log.txt").write_text("a log of something else")
    (log / "data.csv").write_text("1,2")
    (root / "link").symlink_to(mine)
    (root / "file").write_text("somebody's")
    (root / "garbage_data" / "transforms.json").write_text("{")
    (root / "drawing.svg").write_text(DRAWING)
    return {
        "drawing": root / "drawing.svg",
        "run": toy_splats.parent,
        "data": toy_scene / "source",
        "picture": toy_scene / "source" / "images" / "train_000.png",
        "mark": mark,
        "mine": mine,
        "mine_with_log": log,
        "link": root / "link",
        "file": root / "file",
        "empty": root / "empty",
        "garbage_data": root / "garbage_data",
        "la": dataset(data, root / "la", lambda path: Image.open(path).convert("LA").save(path)),
        "cut": dataset(data, root / "cut", lambda path: path.write_bytes(path.read_bytes()[:300])),
        "long": "x" * 300,
        "runs": damaged_runs(root / "runs", toy_splats.parent, mark),
        "pictures": pictures(root / "pictures"),
        "ply": plys(root / "ply"),
        "suites": suites(root / "suites"),
        "pie": pie_folders(root / "pie"),
        "records": records(root / "records"),
        "replays": replays(root / "replays"),
        "prior": prior_of_huge_samples(root / "prior"),
    }


def dataset(data: Path, folder: Path, change: Callable[[Path], object]) -> Path:
    """A copy of a dataset with one photograph changed."""
    shutil.copytree(data, folder)
    change(folder / "images" / "train_003.png")
    return folder


def damaged_runs(folder: Path, run: Path, mark: Path) -> Path:
    """Copies of a run, each with one thing wrong."""

    def copied(name: str) -> tuple[Path, Path]:
        shutil.copytree(run, folder / name)
        return folder / name / "config.yml", next((folder / name).glob("nerfstudio_models/*.ckpt"))

    text = (run / "config.yml").read_text()
    copied("no_config")[0].unlink()
    copied("empty_config")[0].write_text("")
    copied("list_config")[0].write_text("[1, 2]")
    copied("evil_config")[0].write_text(text.replace("seed: 0", f"seed: !!python/object/apply:posix.mkdir [{mark}]"))
    model = "pds_nerfstudio.scenes.splatfacto.SplatfactoScene ''"
    copied("foreign_config")[0].write_text(text.replace(model, "lerf.lerf.LERFModel ''"))
    models = "relative_model_dir: !!python/object/apply:pathlib.PosixPath\n- "
    copied("outside_config")[0].write_text(text.replace(f"{models}nerfstudio_models", f"{models}/tmp"))
    copied("no_checkpoint")[1].unlink()
    copied("garbage_checkpoint")[1].write_bytes(b"\x80garbage" * 600)
    _, checkpoint = copied("cut_checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    torch.save({"step": Evil(str(mark)), "pipeline": {}}, copied("evil_checkpoint")[1])
    torch.save([1, 2], copied("list_checkpoint")[1])
    torch.save({"step": 1, "pipeline": "text"}, copied("text_checkpoint")[1])
    return folder


def pictures(folder: Path) -> Path:
    """Files that are no pictures, or far too large ones."""
    folder.mkdir()
    (folder / "text.png").write_text("text")
    Image.new("RGB", (64, 64)).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:60])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return folder


def plys(folder: Path) -> Path:
    """Gaussians that are not what their headers say."""
    folder.mkdir()

    def write(name: str, count: object = 2, columns: list[str] = COLUMNS, value: str = "0", rows: int = 2) -> str:
        lines = ["ply", "format ascii 1.0", f"element vertex {count}"]
        lines += [f"property float {column}" for column in columns] + ["end_header"]
        text = "\n".join(lines + [" ".join([value] * len(columns))] * rows) + "\n"
        (folder / f"{name}.ply").write_text(text)
        return text

    whole = write("whole")
    write("huge", 10**12)
    write("negative", -5)
    write("cut", rows=1)
    write("nan", value="nan")
    write("f_rest_abc", columns=[*COLUMNS, "f_rest_abc"])
    write("mesh", columns=["x", "y", "z"])
    (folder / "list.ply").write_text(whole.replace("property float x", "property list uchar float x"))
    return folder


def suites(folder: Path) -> Path:
    """Suites with a mistake each."""
    folder.mkdir()

    def one(name: str, edit: str = "a", kind: str = "appearance", colour: str = "blue") -> None:
        scene = f"    source: {{shape: ball, colour: red}}\n    target: {{colour: {colour}}}\n"
        (folder / f"{name}.yaml").write_text(f"edits:\n  - name: {edit}\n    kind: {kind}\n{scene}")

    one("good")
    one("name_up", "../../../../ESCAPED/x")
    one("name_absolute", "/tmp/ABSOLUTE")
    one("name_long", "x" * 300)
    one("name_list", "[a, b]")
    one("name_hidden", ".ssh")
    one("kind_list", kind="[appearance]")
    one("same", colour="red")
    (folder / "empty.yaml").write_text("")
    (folder / "garbage.yaml").write_bytes(b"\xff\xfe: [")
    (folder / "list.yaml").write_text("- a\n- b\n")
    capture = "captures:\n  - {name: a, kind: shape, data: /nowhere, source: a, target: b}\n"
    (folder / "capture.yaml").write_text(capture)
    return folder


def pie_folders(folder: Path) -> Path:
    """PIE-Bench's layout with a mistake each."""

    def write(name: str, content: object, text: str | None = None) -> None:
        (folder / name / "annotation_images").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(folder / name / "annotation_images" / "a.png")
        (folder / name / "mapping_file.json").write_text(json.dumps(content) if text is None else text)

    write("good", {"a": GOOD_EDIT})
    write("list", [GOOD_EDIT])
    write("garbage", None, "{")
    write("empty", {})
    write("entry_null", {"a": None})
    for name, key in {"up": "../../x", "absolute": "/tmp/ABSOLUTE", "long": "x" * 300, "nul": "a\0b"}.items():
        write(f"key_{name}", {key: GOOD_EDIT})
    for name, path in {
        "up": "../mapping_file.json",
        "absolute": "/etc/hostname",
        "number": 3,
        "missing": "b.png",
    }.items():
        write(f"image_{name}", {"a": GOOD_EDIT | {"image_path": path}})
    write("mask_odd", {"a": GOOD_EDIT | {"mask": [1]}})
    write("mask_words", {"a": GOOD_EDIT | {"mask": ["a", "b"]}})
    write("prompt_list", {"a": GOOD_EDIT | {"original_prompt": ["a"]}})
    return folder


def records(folder: Path) -> Path:
    """What commands keep of what they have done, damaged."""

    def write(path: str, text: str) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)

    cell = "good/2d/cells/a.nothing.0/record.json"
    write(f"garbage/{cell}", "{garbage")
    write(f"list/{cell}", "[1]")
    write(f"empty/{cell}", "{}")
    texts = {"edit": "a", "kind": "appearance", "method": "nothing", "seed": 0, "metrics": {"psnr": "high"}}
    write(f"texts/{cell}", json.dumps(texts))
    write("pie_garbage/dds-edit/a.json", "{garbage")
    write("pie_texts/dds-edit/a.json", '{"psnr": "high"}')
    write("dreambooth/training/settings.json", "{garbage")
    write(f"edit_garbage/{STATE}", "{ garbage")
    write(f"edit_dict/{STATE}", "{}")
    write(f"edit_entries/{STATE}", '[{"name": "edit"}, 3]')
    write(f"edit_not_ours/{STATE}", "[]")
    write("edit_not_ours/edit/pnr-edit-splat/run/thesis.tex", "years of work")
    return folder


def replays(folder: Path) -> Path:
    """Sessions of edits, each with one thing wrong; the changes in `refused` are so only once the edit runs."""
    folder.mkdir()
    begin = {"prompts": ["a", "b"], "objective": "pds", "guidance_scale": 7.5, "timesteps": [0.02, 0.98], "box": None}

    def write(name: str, value: object = begin, *changes: tuple[object, str, object]) -> None:
        lines = [{"step": step, "change": name, "value": of} for step, name, of in ((0, "begin", value), *changes)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    write("null", None)
    write("list", [1, 2])
    (folder / "text.jsonl").write_text("no json\n")
    (folder / "empty.jsonl").write_text("")
    (folder / "no_begin.jsonl").write_text('{"step": 3, "change": "snapshot", "value": null}\n')
    write("no_key", {"prompts": ["a", "b"]})
    write("one_prompt", begin | {"prompts": ["a"]})
    write("bad_objective", begin | {"objective": "__class__"})
    write("infinite_step", begin, (float("inf"), "snapshot", None))
    changes = {
        "box": (7, [1, 2], ["a"] * 6),
        "prompts": (7, ["a"], [1, 2], None),
        "guidance_scale": (None, [1], "high", -7),
        "timesteps": (None, [0.5], [0.9, 0.1]),
        "objective": (None, "__class__", ["pds"]),
        "perturb": ([1], None, "much", -1),
        "restore": ("nothing", None, [1], {"to": 3}, {"to": "0", "settings": []}, {"to": "9.9", "settings": {}}),
        "strength": ([0, 1],),
    }
    refused = [(2, name, value) for name, values in changes.items() for value in values]
    write("refused", begin, *refused, (3, "prompts", ["a photo of a red ball", "a [/x] photo of a blue ball"]))
    return folder


def prior_of_huge_samples(folder: Path) -> Path:
    """toybox, which says that it draws pictures for which there is no memory."""
    shutil.copytree(TOYBOX, folder)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 10_000_000}))
    return folder
