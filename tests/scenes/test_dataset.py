"""Photographs, masks and cameras that cannot be used end in one sentence before they are loaded."""

import json
from pathlib import Path

import pytest
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.dataset import reading_dataset

NAME = "01.png"


def parse(data: Path, splats: bool = False, **settings):
    with reading_dataset(splats):
        return NerfstudioDataParserConfig(data=data, **settings).setup().get_dataparser_outputs("train")


def edit_transforms(data: Path, **changes) -> None:
    path = data / "transforms.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change(data: Path, make) -> None:
    """Replace one photograph by `make(photograph)`."""
    with Image.open(data / "images" / NAME) as image:
        changed = make(image.copy())
    changed.save(data / "images" / NAME)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pixels_that_nerfstudio_reads_are_taken(mode, make_dataset):
    data = make_dataset()
    change(data, lambda image: image.convert(mode))
    assert len(parse(data).image_filenames) == 4


@pytest.mark.parametrize("mode", ["LA", "P", "1", "I;16"])
def test_pixels_that_it_would_misread_are_refused(mode, make_dataset):
    data = make_dataset()
    change(data, lambda image: image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode))
    with pytest.raises(UserError, match=rf"{NAME} is .*\({mode}\).* save it as 8-bit RGB"):
        parse(data)


def test_a_missing_photograph_is_named(make_dataset):
    data = make_dataset()
    (data / "images" / NAME).unlink()
    with pytest.raises(UserError, match=f"{NAME} is missing: put it back"):
        parse(data)


def test_paths_of_windows_are_named_as_that(make_dataset):
    data = make_dataset()
    frames = json.loads((data / "transforms.json").read_text())["frames"]
    edit_transforms(data, frames=[frame | {"file_path": frame["file_path"].replace("/", "\\")} for frame in frames])
    with pytest.raises(UserError, match=r"images\\.*: write / for every \\ in the dataset's paths\.$"):
        parse(data)


@pytest.mark.parametrize("kind", [VanillaDataManagerConfig, FullImageDatamanagerConfig])
def test_a_photograph_that_is_cut_short_is_named_when_it_is_loaded(kind, make_dataset):
    path = make_dataset() / "images" / NAME
    path.write_bytes(path.read_bytes()[:200])
    parser = NerfstudioDataParserConfig(data=path.parents[1], load_3D_points=False)

    def load() -> None:
        with reading_dataset(splats=False):
            assert kind(dataparser=parser).setup(device="cpu", test_mode="val").cached_train

    with pytest.raises(UserError, match=f"{NAME} cannot be read"):
        load()


def test_a_photograph_of_another_size_than_its_camera_is_refused(make_dataset):
    data = make_dataset()
    change(data, lambda image: image.resize((8, 10)))
    with pytest.raises(UserError, match=f"{NAME} has 8 x 10 pixels and its camera 16 x 20: give w, h"):
        parse(data)


def test_one_that_viewers_turn_is_refused_with_how_to_turn_it(make_dataset):
    data = make_dataset()
    path = data / "images" / NAME
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(path, exif=exif)
    with pytest.raises(UserError, match=f"{NAME} has 20 x 16 pixels and its camera 16 x 20: its EXIF orientation"):
        parse(data)
    edit_transforms(data, w=20, h=16)  # as the pixels are stored: nerfstudio reads them so
    with pytest.raises(UserError, match=r"00.png has 16 x 20"):
        parse(data)


@pytest.mark.parametrize("scaled", [True, False])
def test_a_single_photograph_is_no_scene(scaled, make_dataset):
    data = make_dataset()
    edit_transforms(data, frames=json.loads((data / "transforms.json").read_text())["frames"][:1])
    with pytest.raises(UserError, match=r"00.png is the only photograph .*`pds preview`"):
        parse(data, auto_scale_poses=scaled)


def test_photographs_from_one_place_are_no_scene(make_dataset):
    data = make_dataset()
    frames = json.loads((data / "transforms.json").read_text())["frames"]
    edit_transforms(data, frames=[frame | {"transform_matrix": frames[0]["transform_matrix"]} for frame in frames])
    with pytest.raises(UserError, match="taken from one place"):
        parse(data, orientation_method="none")


@pytest.mark.parametrize("fault", ["missing", "size", "colours"])
def test_a_mask_that_does_not_fit_is_named(fault, make_dataset):
    data = make_dataset()
    frames = json.loads((data / "transforms.json").read_text())["frames"]
    (data / "masks").mkdir()
    for frame in frames:
        frame["mask_path"] = frame["file_path"].replace("images", "masks")
        Image.new("L", (16, 20), 255).save(data / frame["mask_path"])
    edit_transforms(data, frames=frames)
    assert len(parse(data).mask_filenames) == 4
    path = data / "masks" / NAME
    path.unlink()
    if fault != "missing":
        Image.new("RGB" if fault == "colours" else "L", (16, 20) if fault == "colours" else (8, 8)).save(path)
    with pytest.raises(UserError, match=rf"The mask .*{NAME}"):
        parse(data)


@pytest.mark.parametrize(
    ("camera", "taken"),
    [
        ({}, True),
        ({"k1": 0.1}, True),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1}, True),
        ({"camera_model": "OPENCV_FISHEYE"}, False),
        ({"camera_model": "EQUIRECTANGULAR"}, False),
    ],
)
def test_splats_take_the_cameras_that_become_pinholes_and_nerfs_all(camera, taken, make_dataset):
    data = make_dataset()
    edit_transforms(data, **camera)
    assert len(parse(data).image_filenames) == 4
    if taken:
        assert len(parse(data, splats=True).image_filenames) == 4
    else:
        with pytest.raises(UserError, match=r"00.png is .* splats are seen through perspective"):
            parse(data, splats=True)


@pytest.mark.parametrize("text", ["{", "{}", '{"frames": [{}]}', "[]"])
def test_a_dataset_that_is_none_is_named(text, make_dataset):
    data = make_dataset()
    (data / "transforms.json").write_text(text)
    with pytest.raises(UserError, match=r"data cannot be read .*: check it"):
        parse(data)


def test_the_check_ends_with_its_block(make_dataset):
    parse(data := make_dataset())
    change(data, lambda image: image.convert("LA"))
    parser = NerfstudioDataParserConfig(data=data).setup()
    assert len(parser.get_dataparser_outputs("train").image_filenames) == 4
