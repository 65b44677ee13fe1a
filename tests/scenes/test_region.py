"""What lies outside a box or masks stays as it is, to the bit, whatever the optimisers remember."""

import numpy as np
import pytest
import torch
from PIL import Image

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.families import scene_of
from pds_nerfstudio.scenes.hull import Hull
from pds_nerfstudio.scenes.region import Box, Common, _mask_files, hull_of_masks
from pds_nerfstudio.scenes.views import train_views

from .test_splatfacto import GROUPS, optimizers, train_step

HALF = Box((0.0, -9.0, -9.0, 9.0, 9.0, 9.0))


def test_a_box_holds_its_faces_and_an_empty_one_is_refused():
    points = torch.tensor([[0.0, 0.0, 0.0], [-0.1, 0.0, 0.0], [9.0, 9.0, 9.0]])
    assert HALF.contains(points).tolist() == [True, False, True]
    assert Common(HALF, Box((-9.0, -9.0, -9.0, 1.0, 1.0, 1.0))).contains(points).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="is empty"):
        Box((0.0, 0.0, 0.0, 1.0, 0.0, 1.0))


@pytest.mark.parametrize("remembered", [False, True])
def test_gaussians_outside_stay_to_the_bit_while_those_inside_move_multiply_and_go(splats, camera, remembered):
    model = splats(200).train()
    model.gauss_params["opacities"].data[::5] = -8.0  # to be pruned
    built = optimizers(model)
    if remembered:  # moments from an edit without a box
        model.begin_edit()
        for step in range(3):
            train_step(model, built, camera(0), step)
    scene = scene_of(model)
    scene.freeze_outside(HALF)
    for optimizer in built.optimizers.values():
        optimizer.register_step_pre_hook(lambda optimizer, *_: scene.mask_gradients(optimizer))
    model.begin_edit(refine_start=1, refine_stop=20, refine_every=4, grow_share=0.2)
    outside = model.frozen.clone()
    before = {name: model.gauss_params[name].detach().clone() for name in GROUPS}
    for step in range(3, 14) if remembered else range(12):
        train_step(model, built, camera(0), step)
    assert len(model.frozen) == len(model.means) != len(outside)
    assert int(model.frozen.sum()) == int(outside.sum())
    for name in GROUPS:
        assert torch.equal(model.gauss_params[name][model.frozen], before[name][outside]), name
    inside = model.gauss_params["means"][~model.frozen]
    assert not any(torch.equal(mean, other) for mean in inside for other in before["means"][~outside])


def test_whatever_happens_while_frozen_is_kept_is_put_back_outside(splats, nerfacto):
    for model in (splats(50), nerfacto()):
        scene = scene_of(model)
        scene.freeze_outside(HALF)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        with scene.keeping_frozen(), torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
        kinds = {"moved": 0, "frozen": 0}
        for name, parameter in model.named_parameters():
            if (frozen := scene.frozen(name, parameter)) is None:
                continue
            mask = frozen.expand_as(parameter)
            assert torch.equal(parameter[mask], before[name][mask])
            assert not (parameter[~mask] == before[name][~mask]).any()
            kinds["frozen"] += int(mask.sum())
            kinds["moved"] += int((~mask).sum())
        assert all(kinds.values())


def test_a_box_without_anything_in_it_is_an_error(splats, nerfacto):
    nowhere = Box((50.0, 50.0, 50.0, 51.0, 51.0, 51.0))
    with pytest.raises(UserError, match="contains none of the 60 Gaussians"):
        scene_of(splats()).freeze_outside(nowhere)
    with pytest.raises(UserError, match="contains nothing"):
        scene_of(nerfacto(disable_scene_contraction=True)).freeze_outside(nowhere)
    assert scene_of(nerfacto()).freeze_outside(nowhere) is not None  # contracted space goes on for ever


def test_masks_hold_what_they_show_black(splats, make_dataset, tmp_path):
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(
        data=make_dataset(), eval_mode="all", auto_scale_poses=False, center_method="none", orientation_method="none"
    )
    views = train_views(FullImageDatamanagerConfig(dataparser=parser).setup(device="cpu"))
    folder = tmp_path / "masks"
    folder.mkdir()
    with pytest.raises(UserError, match="is named like a training view"):
        hull_of_masks(splats(), views, folder)
    mask = np.zeros((20, 16), np.uint8)
    mask[10:] = 255  # the lower half of every view
    for name in views.names:
        Image.fromarray(mask).save(folder / f"{name.split('/')[-1].split('.')[0]}.png")
    model = splats(300)
    inside = hull_of_masks(model, views, folder).contains(model.means.detach())
    height = model.means.detach()[:, 2]
    assert inside.any()
    assert height[inside].mean() < height[~inside].mean() - 0.1


def test_no_more_of_a_large_mask_is_kept_than_the_hull_needs(splats, make_dataset, tmp_path, monkeypatch):
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(data=make_dataset(), load_3D_points=False)
    views = train_views(FullImageDatamanagerConfig(dataparser=parser).setup(device="cpu"))
    folder = tmp_path / "masks"
    folder.mkdir()
    full = np.random.default_rng(0).integers(0, 256, (len(views), 203, 161), np.uint8)
    for name, mask in zip(views.names, full, strict=True):
        Image.fromarray(mask).save(folder / f"{name.split('/')[-1].split('.')[0]}.png")
    kept, from_renderings = [], Hull.from_renderings

    def watched(cameras, masks, renderings):
        kept.append((cameras, masks, renderings))
        return from_renderings(cameras, masks, renderings)

    monkeypatch.setattr(Hull, "from_renderings", watched)
    hull = hull_of_masks(splats(), views, folder)
    ((cameras, masks, renderings),) = kept
    assert [mask.shape for mask in masks] == [r.image.shape[-2:] for r in renderings] == [(20, 16)] * len(views)
    of_full = from_renderings(cameras, [torch.from_numpy(mask).float() / 255 for mask in full], renderings)
    for mask, expected in zip(hull.masks, of_full.masks, strict=True):
        torch.testing.assert_close(mask, expected)


def test_masks_lie_in_folders_like_those_of_their_photographs(tmp_path):
    names = ("data/images/cam0/1.jpg", "data/images/cam1/1.jpg", "data/images/cam1/2.jpg")
    for name in ("cam0/1.png", "cam1/1.png", "2.png", "._2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {i: str(path.relative_to(tmp_path)) for i, path in _mask_files(names, tmp_path).items()} == {
        0: "cam0/1.png",
        1: "cam1/1.png",
        2: "2.png",
    }
    for name in ("cam0", "cam1"):
        (tmp_path / name / "1.png").unlink()
    (tmp_path / "1.png").touch()
    with pytest.raises(UserError, match=r"1\.png is named like several views, .*cam0/1\.jpg and .*cam1/1\.jpg"):
        _mask_files(names, tmp_path)
