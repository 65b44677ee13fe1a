"""The tests' own capture is seen through the lens that its transforms.json describes."""

import json

import cv2
import numpy as np
import torch
from distorted import LENS, SIZE, places, write_capture
from PIL import Image

from pds_nerfstudio.toybox.render import focal_length


def test_opencv_finds_the_rays_of_the_photographs_where_they_were_taken(tmp_path):
    """And the lens matters, and the pinhole picture that it looked at reaches far enough."""
    folder = write_capture(tmp_path / "capture", views=2)
    k = json.loads((folder / "transforms.json").read_text())
    matrix = np.array([[k["fl_x"], 0, k["cx"]], [0, k["fl_y"], k["cy"]], [0, 0, 1]])
    centres = np.stack(np.meshgrid(np.arange(k["w"]) + 0.5, np.arange(k["h"]) + 0.5), axis=-1)
    straight, bent = (
        cv2.undistortPointsIter(centres.reshape(-1, 1, 2), matrix, np.array(lens), None, None, (3, 100, 1e-9))
        for lens in ([LENS[name] for name in ("k1", "k2", "p1", "p2")], [0.0] * 4)
    )
    ours = places(256) * 128 / focal_length(256)
    torch.testing.assert_close(ours.reshape(-1, 2), torch.from_numpy(straight[:, 0]).float(), rtol=0, atol=1e-5)
    assert np.abs(straight - bent).max() * k["fl_y"] > 3
    assert places(256).abs().max() < 1
    for frame in k["frames"]:
        with Image.open(folder / frame["file_path"]) as photograph:
            assert photograph.size == SIZE
            assert np.asarray(photograph).std() > 30
