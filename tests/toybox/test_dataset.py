"""What is written is what nerfstudio reads, and source and target share everything but the edit."""

import json

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.toybox.dataset import change_mask, require_folder_of, surface_points, write_edit
from pds_nerfstudio.toybox.render import focal_length
from pds_nerfstudio.toybox.spec import find_edit

SETTINGS = {"train_views": 5, "test_views": 2, "size": 32, "num_points": 200}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toybox")
    return folder, *write_edit(find_edit("can-to-cone"), folder, **SETTINGS)


def test_nerfstudio_reads_the_split_the_points_and_the_depth(written):
    folder, _, _ = written
    parser = NerfstudioDataParserConfig(data=folder / "source", load_3D_points=True).setup()
    train, test = (parser.get_dataparser_outputs(split) for split in ("train", "test"))
    assert len(train.image_filenames) == 5
    assert [path.name for path in test.image_filenames] == ["test_000.png", "test_001.png"]
    assert train.metadata["points3D_xyz"].shape == (200, 3)
    assert float(train.cameras.fx[0]) == pytest.approx(focal_length(32))


def test_source_and_target_have_the_same_cameras(written):
    folder, _, _ = written
    poses = [
        [frame["transform_matrix"] for frame in json.loads((folder / side / "transforms.json").read_text())["frames"]]
        for side in ("source", "target")
    ]
    assert poses[0] == poses[1]


def test_depth_on_disk_projects_one_view_into_the_other(written):
    """A point seen by one camera, lifted by its depth file, lands on the same surface in another camera."""
    folder, source, _ = written
    frames = json.loads((folder / "source/transforms.json").read_text())["frames"]
    depth = (
        torch.from_numpy(np.asarray(Image.open(folder / "source" / frames[0]["depth_file_path"])).astype(float)) / 1000
    )
    assert (depth - source.depth[0]).abs().max() < 1e-3
    focal, size = focal_length(32), 32
    v, u = (depth > 0).nonzero().T
    local = torch.stack([(u + 0.5 - size / 2) / focal, -(v + 0.5 - size / 2) / focal, -torch.ones_like(u)], -1)
    pose = torch.tensor(frames[0]["transform_matrix"], dtype=torch.float64)
    world = (local * depth[v, u, None]) @ pose[:3, :3].T + pose[:3, 3]
    points, _ = surface_points(source, torch.tensor([f["transform_matrix"] for f in frames])[:, :3], 4000, 0)
    nearest = torch.cdist(world.float(), points).amin(dim=1)
    assert nearest.quantile(0.9) < 0.1


def test_the_change_mask_covers_the_edit_and_leaves_the_rest(written):
    _, source, target = written
    mask = change_mask(source.image, target.image)
    assert 0.02 < mask.mean() < 0.6
    assert ((source.image - target.image).abs().amax(-1)[mask == 0] <= 0.03).all()


def test_equal_images_have_an_empty_change_mask(written):
    _, source, _ = written
    assert change_mask(source.image, source.image).sum() == 0


def test_photographs_by_other_settings_are_not_replaced(tmp_path):
    write_edit(find_edit("can-to-cone"), tmp_path / "can", **SETTINGS, seed=0)
    require_folder_of("can-to-cone", tmp_path / "can", SETTINGS)
    with pytest.raises(UserError, match="was made with --seed"):
        require_folder_of("can-to-cone", tmp_path / "can", SETTINGS | {"seed": 99})
    with pytest.raises(UserError, match="holds something else"):
        require_folder_of("red-to-blue", tmp_path / "can", SETTINGS)
