"""Puts a benchmark's results into the documentation: README's short table, docs/benchmark.md's whole one, the plots.

    pds bench --suite suites/dev.yaml --methods … --seeds 2 --out outputs/bench
    python data_scripts/fill_benchmark.py --results outputs/bench/dev/splatfacto
    python data_scripts/fill_benchmark.py --results outputs/bench/studio/splatfacto --name studio_edits \
        --page docs/studio.md --readme studio_bench

The records themselves are kept in benchmarks/results, one to a line.
"""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from pds_nerfstudio.evaluation import summary
from pds_nerfstudio.evaluation.records import with_numbers
from pds_nerfstudio.files import fill_in, write_whole

ROOT = Path(__file__).parent.parent
MASK, BACKGROUND, SUCCESS = "psnr_to_target_in_change_mask_after", "background_psnr", "success"


def main(results: Path, name: str = "dev_views", page: Path = Path("docs/benchmark.md"), readme: str = "bench") -> None:
    """Fill in what README.md and a page of docs show.

    Args:
        results: folder that `pds bench` wrote to.
        name: of the place in the page, the plot, the wall and the kept records.
        page: of docs, from the repository's root.
        readme: the place in README.md.
    """
    stored = json.loads((results / "results.json").read_text())
    lines = ",\n".join(json.dumps(record) for record in stored)
    write_whole(ROOT / "benchmarks/results" / f"{name}.json", f"[\n{lines}\n]\n")
    records = [with_numbers(record) for record in stored]
    text = summary.table(records, summary.outside_the_anchors(records))
    fill_in(ROOT / page, name, text)
    fill_in(ROOT / "README.md", readme, short_table(records))
    for picture in ("pareto", "wall"):
        shutil.copyfile(results / f"{picture}.png", ROOT / "docs/figures" / f"{name}_{picture}.png")


def short_table(records: Sequence[dict[str, Any]]) -> str:
    """For each kind of edit: dB in the mask and of background, share that succeeded; and the fastest edit's seconds."""
    kinds = [kind for kind in summary.KINDS if any(record["kind"] == kind for record in records)]
    lines = ["| | " + " | ".join(kinds) + " | seconds |", "|---" * (len(kinds) + 2) + "|"]
    for method in dict.fromkeys(record["method"] for record in records):
        entries = [
            _entry([r["metrics"] for r in records if (r["method"], r["kind"]) == (method, kind)]) for kind in kinds
        ]
        seconds = [record["seconds"] for record in records if record["method"] == method]
        lines.append(f"| `{summary.short(method)}` | " + " | ".join(entries) + f" | {min(seconds):.0f} |")
    return "\n".join(lines)


def _entry(metrics: Sequence[dict[str, float]]) -> str:
    if not metrics:
        return ""
    mask, background, success = (_mean([m[name] for m in metrics]) for name in (MASK, BACKGROUND, SUCCESS))
    kept = "all" if math.isinf(background) else f"{background:.1f}"
    return f"{mask:.1f} / {kept} / {success:.0%}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
