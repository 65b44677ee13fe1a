"""Gaussians as .splat (github.com/antimatter15/splat): 32 bytes each, without a header and without view dependence.

    position 3 × float32   scale 3 × float32   red green blue opacity, a byte each   rotation w x y z, a byte each

Scales are lengths, not logarithms; a rotation's byte b means (b − 128)/128. Writers put the most visible Gaussians
first.
"""

from pathlib import Path

import numpy as np

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import written
from pds_nerfstudio.scenes.gaussians import C0, Splats, logits, whole

ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


def read_dot_splat(path: Path) -> tuple[Splats, int]:
    """The Gaussians of a .splat, of degree 0, and how many more it holds that are not finite.

    Raises:
        UserError: it cannot be read, holds none, or is not made of rows of 32 bytes.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read as a .splat ({error}): give a file of Gaussian splats.") from error
    if len(content) % ROW.itemsize:
        raise UserError(
            f"{path} cannot be read as a .splat (its {len(content)} bytes are no multiple of {ROW.itemsize}): export "
            "it again."
        )
    rows = np.frombuffer(content, ROW)
    rgba = rows["rgba"] / np.float32(255)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.log(rows["scales"])
    return whole(
        path,
        means=rows["means"],
        quats=(rows["quats"].astype(np.float32) - 128) / 128,
        scales=scales,
        opacities=logits(rgba[:, 3:]),
        harmonics=(rgba[:, None, :3] - np.float32(0.5)) / np.float32(C0),
    )


def write_dot_splat(path: Path, splats: Splats) -> None:
    """All Gaussians, those of the largest volume times opacity first; their harmonics above degree 0 are left out."""
    opacities = splats.opacities.sigmoid()
    order = (splats.scales.sum(dim=1) + opacities[:, 0].log()).argsort(descending=True, stable=True)
    rows = np.empty(len(order), ROW)
    rows["means"], rows["scales"] = splats.means[order].numpy(), splats.scales[order].exp().numpy()
    rgb = 0.5 + C0 * splats.harmonics[order, 0].numpy()
    rows["rgba"] = np.rint(255 * np.concatenate([rgb, opacities[order].numpy()], axis=1)).clip(0, 255)
    quats = splats.quats[order].numpy()
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    rows["quats"] = np.rint(128 * quats + 128).clip(0, 255)
    with written(path) as partial:
        partial.write_bytes(rows.tobytes())
