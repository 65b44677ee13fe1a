"""What Mitsuba renders: exact geometry, the same cameras as toybox, and edits that change nothing else."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.studio import captures
from pds_nerfstudio.studio.captures import copy_capture, is_complete, pack
from pds_nerfstudio.studio.dataset import write_edit, write_scene, write_still
from pds_nerfstudio.studio.mitsuba import LEAST_LLVM, llvm_version
from pds_nerfstudio.studio.photography import Photography
from pds_nerfstudio.studio.render import Studio, developed
from pds_nerfstudio.studio.spec import StudioSpec, find_edit, find_still
from pds_nerfstudio.studio.surfaces import spline
from pds_nerfstudio.studio.things import PROFILES
from pds_nerfstudio.toybox.dataset import change_mask, read_geometry
from pds_nerfstudio.toybox.render import LOOK_AT, ORBIT_RADIUS, orbit_cameras

mitsuba = pytest.importorskip("mitsuba", reason="the extra [studio] is not installed: studio's pictures need mitsuba")
HOW = Photography(train_views=3, test_views=2, size=40, num_points=300, samples=4)
QUIET = {"say": lambda line: None, "threads": 1}


@pytest.fixture(scope="module")
def camera():
    return orbit_cameras(torch.tensor([0.4]), torch.tensor([math.radians(25)]))[0]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    write_still(find_still("teapot"), folder, HOW, **QUIET)
    return folder


def pictures(folder, part="images", names=("test_000.png", "test_001.png")):
    return np.stack([np.asarray(Image.open(folder / part / name)) for name in names]) / 255


def test_the_middle_of_the_picture_is_as_far_as_the_object():
    """From its own height the middle pixel shows a bottle's side, nearer than its axis by the radius of its profile."""
    studio = Studio(StudioSpec("bottle", "white", room="backdrop"), threads=1, detail=0.1)
    level = orbit_cameras(torch.tensor([0.4]), torch.tensor([0.0]))[0]
    depth, mask = studio.geometry(level, 41)
    profile = spline(PROFILES["bottle"], 2000)
    radius = max(r for r, z in profile if abs(z - LOOK_AT[2]) < 0.01)
    assert float(depth[20, 20]) == pytest.approx(ORBIT_RADIUS - radius, abs=2e-3)
    assert float(mask[20, 20]) == 1
    assert float(mask[0].max()) == 0


def test_depth_of_the_plinth_is_its_plane(camera):
    """Every ray that meets the plinth beside the object does so at z = 0."""
    studio = Studio(StudioSpec("mug", "white", room="backdrop"), threads=1, detail=0.1)
    depth, mask = studio.geometry(camera, 64)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    focal = 64 / (2 * math.tan(math.radians(20)))
    local = torch.stack([(x - 32) / focal, -(y - 32) / focal, -torch.ones_like(x)], -1)
    points = camera[:, 3] + depth[..., None] * (local @ camera[:, :3].T)
    on_it = (mask == 0) & (points[..., :2].norm(dim=-1) < 1.7)
    assert int(on_it.sum()) > 300
    assert points[..., 2][on_it].abs().max() < 2e-3


def test_nerfstudio_reads_what_is_written(written):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(data=written / "source", load_3D_points=True).setup()
    train, test = (parser.get_dataparser_outputs(split) for split in ("train", "test"))
    assert len(train.image_filenames) == 3
    assert [path.name for path in test.image_filenames] == ["test_000.png", "test_001.png"]
    assert train.metadata["points3D_xyz"].shape == (300, 3)


def test_an_edits_answer_has_the_held_out_cameras_and_differs_where_the_edit_is(written):
    names = ["test_000.png", "test_001.png"]
    source = pictures(written / "source")
    _, cameras = read_geometry(written / "source", names)
    for edit in find_still("teapot").edits:
        folder = written / edit.name / "target"
        assert torch.equal(read_geometry(folder, names)[1], cameras)
        assert json.loads((folder.parent / "edit.json").read_text())["target_prompt"] == edit.target_prompt
        target = pictures(folder)
        either = np.maximum(pictures(written / "source", "object_masks"), pictures(folder, "object_masks")) > 0
        difference = np.abs(source - target).mean(axis=-1)
        assert difference[either].mean() > 3 * difference[~either].mean()


def test_an_appearance_edit_leaves_depth_and_mask_to_the_bit(written):
    for part in ("depth", "object_masks"):
        for name in ("test_000.png", "test_001.png"):
            source, target = (
                np.asarray(Image.open(folder / part / name))
                for folder in (written / "source", written / "teapot-red" / "target")
            )
            assert np.array_equal(source, target)


def test_pictures_that_are_there_are_kept_and_another_scene_is_refused(written, tmp_path):
    edit = find_edit("teapot-red")
    rendered = []
    write_edit(edit, tmp_path, HOW, say=rendered.append, threads=1)
    assert len(rendered) == 5 + 2
    (tmp_path / "source/images/train_001.png").unlink()
    again = []
    write_edit(edit, tmp_path, HOW, say=again.append, threads=1)
    assert [line.endswith("train_001.png") for line in again] == [True]
    with pytest.raises(UserError, match="holds something else"):
        write_scene(edit.target, tmp_path / "source", HOW, **QUIET)
    (tmp_path / "target/studio.json").write_text("{")
    with pytest.raises(UserError, match="holds something else"):
        write_scene(edit.target, tmp_path / "target", HOW, **QUIET)
    assert np.array_equal(pictures(tmp_path / "source"), pictures(written / "source"))


def test_a_packed_capture_has_the_same_pictures_in_less_room(written, tmp_path):
    still = find_still("teapot")
    size = pack(still, written, tmp_path / "teapot", quality=90)
    assert is_complete(still, tmp_path / "teapot")
    assert size == sum(path.stat().st_size for path in (tmp_path / "teapot").rglob("*") if path.is_file())
    packed = pictures(tmp_path / "teapot/source", names=("test_000.jpg", "test_001.jpg"))
    assert 10 * math.log10(1 / ((packed - pictures(written / "source")) ** 2).mean()) > 30
    transforms = json.loads((tmp_path / "teapot/source/transforms.json").read_text())
    for frame in transforms["frames"]:
        assert (tmp_path / "teapot/source" / frame["file_path"]).is_file()
        assert (tmp_path / "teapot/source" / frame["object_mask_path"]).is_file()
        assert "depth_file_path" not in frame
    assert (tmp_path / "teapot/source" / transforms["ply_file_path"]).is_file()
    assert not list((tmp_path / "teapot/teapot-red").rglob("*.ply"))
    assert set(transforms["train_filenames"]) <= {frame["file_path"] for frame in transforms["frames"]}


def test_a_packaged_capture_is_written_without_a_renderer(written, tmp_path, monkeypatch):
    monkeypatch.setattr(captures, "PACKAGED", tmp_path / "package")
    assert captures.packaged() == []
    with pytest.raises(UserError, match="'teapot' is not in this installation, which has: none"):
        copy_capture(find_still("teapot"), tmp_path / "out")
    pack(find_still("teapot"), written, tmp_path / "package/teapot", quality=90)
    assert captures.packaged() == [find_still("teapot")]
    copy_capture(find_still("teapot"), tmp_path / "out")
    for packed in (tmp_path / "package/teapot").rglob("*.*"):
        copy = tmp_path / "out" / packed.relative_to(tmp_path / "package/teapot")
        assert copy.read_bytes() == packed.read_bytes()


def test_noise_is_removed(camera):
    studio = Studio(StudioSpec("mug", "blue", room="backdrop"), threads=1, detail=0.1)
    clean = studio.photograph(camera, 48, samples=512, denoise=False)
    errors = [
        float((studio.photograph(camera, 48, samples=8, denoise=denoise, seed=3) - clean).square().mean())
        for denoise in (True, False)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_change_masks_hold_the_flower(camera):
    views = []
    for addition in ("nothing", "flower"):
        studio = Studio(StudioSpec("vase", "white", addition, room="backdrop"), threads=1, detail=0.1)
        views.append((studio.photograph(camera, 48, samples=16), studio.geometry(camera, 48)[1]))
    (source, without), (target, with_flower) = views
    changed = change_mask(source[None], target[None])[0]
    grown = (with_flower - without) > 0.5
    assert grown.sum() > 20
    assert changed[grown].mean() > 0.95
    assert changed.mean() < 0.4


def test_development_keeps_order_and_rolls_off_highlights():
    radiance = np.linspace(0, 8, 400)[None, :, None].repeat(3, axis=-1)
    values = developed(radiance)[0, :, 0]
    assert values[0] == 0
    assert np.all(np.diff(values) >= 0)
    assert values.max() <= 1
    assert developed(np.full((1, 1, 3), 0.2140))[0, 0, 0] == pytest.approx(0.5, abs=1e-3)


def test_only_libraries_that_work_are_taken():
    names = {"libLLVM-15.so.1": 15, "libLLVM-14.0.6.so": 14, "libLLVM.so.19.1": 19, "libLLVM-19.so": 19}
    assert {name: llvm_version(name) for name in names} == names
    assert llvm_version("libLLVM.so") == llvm_version("libLLVMAArch64CodeGen.a") == 0
    assert LEAST_LLVM > 16
