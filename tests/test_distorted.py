"""The tests' own capture is seen through the lens that its transforms.json describes."""

import json

import cv2
import numpy as np
from distorted import LENS, SIZE, places, write_capture
from PIL import Image

from pds_nerfstudio.toybox.render import focal_length


def test_opencv_projects_the_rays_of_each_pixel_to_its_centre(tmp_path):
    """And the lens matters, and the pinhole picture that it looked at reaches far enough."""
    folder = write_capture(tmp_path / "capture", views=2)
    k = json.loads((folder / "transforms.json").read_text())
    matrix = np.array([[k["fl_x"], 0, k["cx"]], [0, k["fl_y"], k["cy"]], [0, 0, 1]])
    centres = np.stack(np.meshgrid(np.arange(k["w"]) + 0.5, np.arange(k["h"]) + 0.5), axis=-1).reshape(-1, 2)
    slopes = (places(256) * 128 / focal_length(256)).reshape(-1, 2).double().numpy()
    rays, still = np.pad(slopes, [(0, 0), (0, 1)], constant_values=1), np.zeros(3)
    bent, straight = (
        cv2.projectPoints(rays, still, still, matrix, np.array(lens))[0][:, 0]
        for lens in ([LENS[name] for name in ("k1", "k2", "p1", "p2")], [0.0] * 4)
    )
    np.testing.assert_allclose(bent, centres, atol=1e-3)
    assert np.abs(straight - centres).max() > 3
    assert places(256).abs().max() < 1
    for frame in k["frames"]:
        with Image.open(folder / frame["file_path"]) as photograph:
            assert photograph.size == SIZE
            assert np.asarray(photograph).std() > 30
