"""Draws what benchmarks/perturb.py measured: PSNR to the truth over steps, and the sweep over η.

python benchmarks/perturb.py --out OUT --edits flat-to-tall raise-arms --rows pds pnr --checkpoints 100
python benchmarks/perturb.py --out OUT --edits flat-to-tall raise-arms --rows "eta 0.0" … "eta 0.8"
python data_scripts/plot_perturb.py --results OUT/results.json --out docs/figures/perturb.png
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import tyro

COLOURS = {"pds": "tab:blue", "pnr": "tab:red"}
STYLES = ("-", "--", ":", "-.")


def main(
    results: Path = Path("outputs/perturb/results.json"),
    out: Path = Path("outputs/perturb.png"),
    edits: tuple[str, ...] = (),
) -> None:
    """One figure of three panels, or of two where no η was swept; of these edits, or of all."""
    cells = [cell for cell in json.loads(results.read_text()) if not edits or cell["edit"] in edits]
    sweep = [cell for cell in cells if cell["row"].startswith("eta ")]
    panels = 3 if sweep else 2
    figure, axes = plt.subplots(1, panels, figsize=(4.3 * panels, 3.8), layout="constrained")
    with_curve = [cell for cell in cells if cell["curve"] and cell["row"] in COLOURS]
    for cell in with_curve:
        edits = list(dict.fromkeys(c["edit"] for c in with_curve))
        style = STYLES[edits.index(cell["edit"]) % len(STYLES)]
        names = "psnr_to_target_in_change_mask_after", "background_psnr"
        for axis, name in zip(axes[:2], names, strict=True):
            points = sorted((int(step), numbers[name]) for step, numbers in cell["curve"].items())
            points.append((cell["last_step"], cell[name]))
            axis.plot(
                *zip(*points, strict=True), style, color=COLOURS[cell["row"]], label=f"{cell['edit']}, {cell['row']}"
            )
    axes[0].set(xlabel="edit step", ylabel="dB", title="PSNR to the truth, in the change mask")
    axes[1].set(xlabel="edit step", ylabel="dB", title="PSNR to the source, outside of it")
    axes[0].legend(fontsize=8)

    for i, edit in enumerate(dict.fromkeys(cell["edit"] for cell in sweep)):
        of_edit = sorted((float(cell["row"].removeprefix("eta ")), cell) for cell in sweep if cell["edit"] == edit)
        etas = [eta for eta, _ in of_edit]
        for name, colour, what in (
            ("psnr_to_target_in_change_mask_after", "tab:red", "in mask"),
            ("background_psnr", "tab:gray", "background"),
        ):
            axes[2].plot(
                etas, [cell[name] for _, cell in of_edit], STYLES[i] + "o", color=colour, label=f"{edit}, {what}"
            )
    if sweep:
        axes[2].set(xlabel="η", ylabel="dB", title="how far to perturb")
        axes[2].legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    tyro.cli(main)
