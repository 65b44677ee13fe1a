"""Edits of toybox drawings whose right answer is known, by PDS, DDS and SDS: the table and picture of docs/svg.md.

    python benchmarks/drawings.py                                        # ten edits by three objectives, 150 steps each
    python benchmarks/drawings.py --guidance-scale 15 --edits red-to-blue --out outputs/svg_15

Source and target of every edit are drawn from the scenes themselves (`toybox/drawing.py`). Each edit is measured ten
times along its way, so that objectives can be compared where they show the target equally well. A finished edit is kept
in OUT/records.json and not computed again; --install writes the table and the picture into docs/.
"""

import itertools
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import tyro
from rich.console import Console
from torch import Tensor

from pds_nerfstudio.evaluation.metrics import ClipScorer, psnr
from pds_nerfstudio.files import fill_in, write_whole
from pds_nerfstudio.objectives import DDS, PDS, SDS
from pds_nerfstudio.objectives.perturb import feature_distance
from pds_nerfstudio.pictures import contact_sheet
from pds_nerfstudio.pipelines.svg_edit import edit_drawing, picture
from pds_nerfstudio.pipelines.svg_settings import SvgSettings
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.toybox.drawing import draw_scene
from pds_nerfstudio.toybox.spec import ToyEdit, find_edit
from pds_nerfstudio.vector import Drawing, Values, read_drawing, render, write_drawing

TEN = (
    *("red-to-blue", "can-to-cone", "man-hat", "ball-to-cube", "raise-arms"),
    *("yellow-to-green", "cone-to-ball", "ball-hat", "flat-to-tall", "arms-out"),
)
OBJECTIVES = {"pds": PDS, "dds": DDS, "sds": SDS}
SHOWN = ("red-to-blue", "yellow-to-green", "man-hat", "ball-hat", "can-to-cone", "raise-arms")
POINTS = 10
"""Times that an edit is measured, its end included."""
SIZE = 64
"""Pixels at which everything is measured: those that the prior, its VAE and its CLIP were trained at."""
DOCS = Path(__file__).parents[1] / "docs"


@dataclass
class Args:
    """Edit toybox drawings and compare them with their targets."""

    edits: tuple[str, ...] = TEN
    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    steps: int = 150
    guidance_scale: float = 100.0
    """The paper's, for all objectives alike."""
    out: Path = Path("outputs/svg_suite")
    """Folder of the drawings and records."""
    install: bool = False
    """Write the table and the picture into docs/."""


class Judge:
    """What is measured of a drawing."""

    def __init__(self, prior: StableDiffusionPrior):
        self.prior, self.clip = prior, ClipScorer.load()

    def numbers(self, now: Tensor, source: Tensor, target: Tensor, edit: ToyEdit) -> dict[str, float]:
        with torch.no_grad():
            prompts = [spec.prompt(floor=False) for spec in edit.alternatives()]
            wanted = prompts.index(edit.target_prompt)
            return {
                "psnr_target": float(psnr(now, target)),
                "psnr_source": min(float(psnr(now, source)), 99.0),
                "distance": float(feature_distance(self.prior.features(now), self.prior.features(source))),
                "clip": float(self.clip.similarity(now, [edit.target_prompt])),
                "probability": float(self.clip.probabilities(now, prompts)[0, wanted]),
            }


def picture_of(drawing: Drawing, values: Values | None = None) -> Tensor:
    """As the judge sees it, [1 3 SIZE SIZE]; the drawing's own values where none are given."""
    with torch.no_grad():
        return render(drawing, values or drawing.source, SIZE, SIZE)


def drawings(edit: ToyEdit, folder: Path) -> tuple[Drawing, Drawing]:
    """Source and target, written to OUT/NAME.svg and OUT/NAME.target.svg."""
    made = []
    for spec, name in ((edit.source, f"{edit.name}.svg"), (edit.target, f"{edit.name}.target.svg")):
        write_whole(folder / name, draw_scene(spec))
        made.append(read_drawing(folder / name))
    return made[0], made[1]


def run(edit: ToyEdit, objective: str, args: Args, judge: Judge) -> dict:
    """One edit: its numbers along the way, the source's first."""
    source, target = drawings(edit, args.out)
    before, wanted = picture_of(source), picture_of(target)
    start = time.perf_counter()
    chosen = OBJECTIVES[objective](guidance_scale=args.guidance_scale, min_step_percent=0.1)
    prompts = edit.source_prompt, edit.target_prompt
    progress = edit_drawing(judge.prior, chosen, source, *prompts, SvgSettings(steps=args.steps))
    seconds = time.perf_counter() - start
    write_drawing(source, progress.values, args.out / f"{edit.name}.{objective}.svg")
    every = (len(progress.snapshots) - 1) // POINTS
    way = [judge.numbers(picture_of(source, values), before, wanted, edit) for values in progress.snapshots[::every]]
    return {
        "edit": edit.name,
        "kind": edit.kind,
        "objective": objective,
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "paths": len(source.paints()),
        "seconds": round(seconds, 1),
        "way": way,
        "target": judge.numbers(wanted, before, wanted, edit),
    }


def at_equal_clip(way: list[dict[str, float]], level: float) -> float | None:
    """Distance to the source where the CLIP score first reaches a level, between two measurements linearly."""
    for before, after in itertools.pairwise(way):
        if after["clip"] >= level:
            share = (level - before["clip"]) / max(after["clip"] - before["clip"], 1e-9)
            return before["distance"] + min(max(share, 0), 1) * (after["distance"] - before["distance"])
    return None


def table(records: list[dict], objectives: Iterable[str]) -> str:
    """Means over the edits; at equal CLIP, over those in which every objective reaches the level."""
    by = {(record["edit"], record["objective"]): record for record in records}
    objectives = [name for name in objectives if any(key[1] == name for key in by)]
    edits = [name for name in TEN if all((name, objective) in by for objective in objectives)]
    reached: dict[str, list[float]] = {name: [] for name in objectives}
    for edit in edits:
        ways = {name: by[edit, name]["way"] for name in objectives}
        start = next(iter(ways.values()))[0]["clip"]
        level = min(max(point["clip"] for point in way) for way in ways.values())
        # Ninety per cent of the way that the slowest objective went, which is then not its noisiest point.
        found = {name: at_equal_clip(way, start + 0.9 * (level - start)) for name, way in ways.items()}
        if level > start and all(value is not None for value in found.values()):
            for name, value in found.items():
                reached[name].append(value or 0.0)
    lines = [
        f"| {len(edits)} edits | PSNR to target | CLIP | P(target) | distance to source | PSNR to source | "
        f"distance at equal CLIP ({len(reached[objectives[0]])} edits) |",
        "|---|---|---|---|---|---|---|",
    ]

    def row(name: str, points: list[dict[str, float]], equal: list[float]) -> str:
        mean = {key: fmean(point[key] for point in points) for key in points[0]}
        to_source = "same" if mean["psnr_source"] == 99 else f"{mean['psnr_source']:.1f} dB"
        last = f"{fmean(equal):.3f}" if equal else ""
        return (
            f"| {name} | {mean['psnr_target']:.1f} dB | {mean['clip']:.3f} | {mean['probability']:.2f} | "
            f"{mean['distance']:.3f} | {to_source} | {last} |"
        )

    some = objectives[0]
    lines.append(row("source as it is", [by[edit, some]["way"][0] for edit in edits], []))
    lines += [row(f"`{name}`", [by[edit, name]["way"][-1] for edit in edits], reached[name]) for name in objectives]
    lines.append(row("target", [by[edit, some]["target"] | {"psnr_target": 99.0} for edit in edits], []))
    return "\n".join(lines).replace("| 99.0 dB |", "| same |")


def sheet(args: Args, path: Path) -> None:
    """Source, every objective's result and the target, of the edits that are there."""
    rows = {}
    names = [name for name in SHOWN if (args.out / f"{name}.{args.objectives[-1]}.svg").is_file()]
    for name in names:
        files = [f"{name}.svg", *(f"{name}.{objective}.svg" for objective in args.objectives), f"{name}.target.svg"]
        read = [read_drawing(args.out / file) for file in files]
        rows[name] = [picture(drawing, drawing.source, 256) for drawing in read]
    contact_sheet(
        rows,
        path,
        f"Toybox drawings, {args.steps} steps, guidance {args.guidance_scale:g}",
        176,
        ["source", *args.objectives, "target"],
    )


def main(args: Args) -> None:
    """Run what is missing, then print the table and draw the picture."""
    file = args.out / "records.json"
    records = json.loads(file.read_text()) if file.is_file() else []
    done = {(record["edit"], record["objective"]) for record in records}
    missing = [(edit, name) for edit in args.edits for name in args.objectives if (edit, name) not in done]
    console = Console(soft_wrap=True, highlight=False)
    if missing:
        judge = Judge(load_prior("toybox", "cpu"))
        for edit, name in missing:
            records.append(run(find_edit(edit), name, args, judge))
            write_whole(file, json.dumps(records, indent=1) + "\n")
            end = records[-1]["way"][-1]
            console.print(edit, name, {key: round(value, 3) for key, value in end.items()}, records[-1]["seconds"])
    text = table(records, args.objectives)
    console.print(text, markup=False)
    sheet(args, args.out / "sheet.png")
    if args.install:
        fill_in(DOCS / "svg.md", f"suite {args.guidance_scale:g}", text)
        sheet(args, DOCS / "figures" / f"svg_suite_{args.guidance_scale:g}.png")


if __name__ == "__main__":
    main(tyro.cli(Args))
