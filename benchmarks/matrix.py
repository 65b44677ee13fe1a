"""Twelve kinds of datasets through every command: does each end well, or in one sentence?

    python benchmarks/matrix.py --out /tmp/matrix [--kinds plain mask …] [--families splatfacto nerfacto]

Each cell is a command at the smallest settings, in a copy of this process (see forked.py); one that fails ends its
row, since the next command needs what it makes. Prints the table of docs/matrix.md, and writes it to OUT/matrix.md
with every command's output beside it.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forked
from PIL import Image

SIZE = 48
LONGEST = 120.0
"""Seconds of processor time after which a command is stopped; the slowest takes a tenth of that."""
PROMPTS = ("--src-prompt", "a photo of a red ball", "--tgt-prompt", "a photo of a blue ball")
STEPS = ("source", "edit", "render", "evaluate", "export")
TINY_NERF = (
    *("--pipeline.model.num-levels", "4", "--pipeline.model.log2-hashmap-size", "12", "--pipeline.model.max-res", "64"),
    *("--pipeline.model.num-nerf-samples-per-ray", "12", "--pipeline.model.num-proposal-samples-per-ray", "16", "8"),
    *("--pipeline.datamanager.train-num-rays-per-batch", "128"),
)
Frame = dict[str, Any]


def resized(image: Image.Image, frame: Frame, meta: Frame, width: int, height: int) -> Image.Image:
    """The image at another size, with the camera that fits."""
    sx, sy = width / meta["w"], height / meta["h"]
    keys = ("fl_x", "cx", "w"), ("fl_y", "cy", "h")
    for names, scale in zip(keys, (sx, sy), strict=True):
        frame |= {name: meta[name] * scale for name in names}
    frame |= {"w": width, "h": height}
    return image.resize((width, height))


def with_alpha(image: Image.Image, data: Path, frame: Frame) -> Image.Image:
    image.putalpha(Image.open(data / frame["object_mask_path"]).convert("L"))
    return image


def panorama(image: Image.Image, frame: Frame, meta: Frame) -> Image.Image:
    """Twice as wide as high, with the focal length by which nerfstudio sees all around: the height."""
    image = resized(image, frame, meta, 2 * SIZE, SIZE)
    frame |= {"fl_x": SIZE, "fl_y": SIZE}
    return image


def mixed(i: int, image: Image.Image, frame: Frame, meta: Frame) -> Image.Image:
    return resized(image, frame, meta, *((48, 48), (64, 36), (36, 64))[i % 3])


KINDS: dict[str, tuple[dict[str, Any], Callable[[int, Image.Image, Frame, Frame, Path], Image.Image] | None]] = {
    "plain": ({}, None),
    "mixed sizes": ({}, lambda i, image, frame, meta, data: mixed(i, image, frame, meta)),
    "539 x 959, a tenth": ({}, lambda i, image, frame, meta, data: resized(image, frame, meta, 53, 95)),
    "RGBA": ({}, lambda i, image, frame, meta, data: with_alpha(image, data, frame)),
    "gray, some": ({}, lambda i, image, frame, meta, data: image.convert("L") if i % 2 else image),
    "masks": ({"masks": True}, None),
    "masks, distorted": ({"masks": True, "k1": 0.08, "k2": -0.06}, None),
    "distorted": ({"k1": 0.08, "k2": -0.06, "p1": 0.001}, None),
    "fisheye": ({"camera_model": "OPENCV_FISHEYE", "k1": 0.02, "k2": -0.01}, None),
    "depth files": ({"depth": True}, None),
    "equirectangular": (
        {"camera_model": "EQUIRECTANGULAR"},
        lambda i, image, frame, meta, data: panorama(image, frame, meta),
    ),
    "gray with alpha": ({}, lambda i, image, frame, meta, data: with_alpha(image.convert("L"), data, frame)),
}
"""What is different in the dataset's description, and in each photograph."""


def write_kind(name: str, source: Path, out: Path) -> Path:
    """A copy of a toybox dataset of that kind."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out)
    changes, change = KINDS[name]
    meta = json.loads((source / "transforms.json").read_text())
    own = {key: meta.pop(key) for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
    for i, frame in enumerate(meta["frames"]):
        frame |= own
        with Image.open(source / frame["file_path"]) as image:
            changed = image.convert("RGB")
        if change is not None:
            changed = change(i, changed, frame, own, source)
        changed.save(out / frame["file_path"])
        if changes.get("masks"):
            frame["mask_path"] = f"masks/{Path(frame['file_path']).name}"
            (out / "masks").mkdir(exist_ok=True)
            mask = Image.new("L", changed.size, 255)
            mask.paste(0, (0, 2 * SIZE // 3, SIZE // 3, SIZE))
            mask.save(out / frame["mask_path"])
        if not changes.get("depth"):
            frame.pop("depth_file_path", None)
    meta |= {key: value for key, value in changes.items() if key not in ("masks", "depth")}
    (out / "transforms.json").write_text(json.dumps(meta))
    return out


def commands(family: str, data: Path, out: Path) -> dict[str, list[str]]:
    """The five commands of a row, by name."""
    splats = family == "splatfacto"
    suffix, tiny = ("-splat", ()) if splats else ("", TINY_NERF)
    runs = ("--output-dir", str(out), "--timestamp", "t", "--vis", "tensorboard")
    base, edited = out / f"base/source-{family}/t", out / f"edit/dds-edit{suffix}/t"
    formats = ("--formats", "spz", "splat", "glb") if splats else ()
    quiet = ("--steps-per-eval-image", "100000", "--steps-per-eval-all-images", "100000")
    return {
        "source": [
            *("ns-train", f"source-{family}", "--data", str(data), "--experiment-name", "base", *runs, *quiet, *tiny),
            *("--max-num-iterations", "20" if splats else "30"),
        ],
        "edit": [
            *("ns-train", f"dds-edit{suffix}", "--load-dir", str(base), "--experiment-name", "edit", *runs, *PROMPTS),
            *("--pipeline.prior", "toybox", "--pipeline.resolution", "16", "--max-num-iterations", "2"),
        ],
        "render": ["pds", "render", str(edited), "--paths", "orbit", "--frames", "2", "--resolution", "12"],
        "evaluate": ["pds", "evaluate", str(edited), "--frames", "2", "--resolution", "12"],
        "export": ["pds", "render", str(edited), "--paths", "--no-held-out", "--export", *formats],
    }


def said(output: str, code: int | None) -> str:
    """A cell: "well", "refused" by a sentence, "stopped", or the last line of what failed."""
    if code is None:
        return f"**stopped** after {LONGEST:.0f} s"
    if code == 0:
        return "well"
    lines = [line for line in output.splitlines() if line.strip()]
    if "Traceback" not in output and any(line.startswith("Error: ") for line in lines):
        return "refused"
    return f"**fails**: {lines[-1][:80] if lines else code}"


def row(name: str, family: str, source: Path, out: Path) -> list[str]:
    """The cells of a kind in one family; every command's output is kept in OUT."""
    place = out / f"{family}-{name.replace(' ', '_').replace(',', '')}"
    shutil.rmtree(place, ignore_errors=True)
    data = write_kind(name, source, place / "data")
    cells = []
    for step, command in commands(family, data, place).items():
        log, start = place / f"{step}.txt", time.monotonic()
        code = forked.run(command, log, LONGEST)
        cells.append(said(log.read_text(errors="replace"), code))
        print(f"{family} {name}: {step} {cells[-1]} ({time.monotonic() - start:.0f} s)", flush=True)
        if code != 0:
            break
    return cells + [""] * (len(STEPS) - len(cells))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/matrix"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--families", nargs="+", default=["splatfacto", "nerfacto"])
    asked = parser.parse_args(arguments)
    os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"})  # before torch comes
    from pds_nerfstudio.toybox.dataset import write_edit
    from pds_nerfstudio.toybox.spec import find_edit

    forked.prepare()
    write_edit(find_edit("red-to-blue"), asked.out / "toy", train_views=6, test_views=2, size=SIZE, num_points=300)
    lines = [f"| dataset | family | {' | '.join(STEPS)} |", "|---" * (len(STEPS) + 2) + "|"]
    for name in asked.kinds:
        for family in asked.families:
            cells = row(name, family, asked.out / "toy" / "source", asked.out)
            lines.append(f"| {name} | {family} | {' | '.join(cells)} |")
            (asked.out / "matrix.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
