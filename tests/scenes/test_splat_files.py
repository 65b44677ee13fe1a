"""Formats of splats: what is written is read, as their specifications say, and no header is believed."""

import gzip
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.metrics import psnr
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.formats.gltf import write_glb
from pds_nerfstudio.scenes.formats.splat_files import WRITERS, read_splats
from pds_nerfstudio.scenes.formats.spz import write_spz
from pds_nerfstudio.scenes.gaussians import C0, OPAQUE, Splats

SPZ = struct.Struct("<4sIIBBBB")


def some_splats(count: int = 40, degree: int = 2, seed: int = 0) -> Splats:
    """Gaussians about the origin with view-dependent colours, all within what 8 bits can hold."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Splats(
        0.4 * normal(count, 3),
        torch.nn.functional.normalize(normal(count, 4), dim=1),
        0.3 * normal(count, 3) - 2,
        2 * normal(count, 1),
        torch.cat([0.8 * normal(count, 1, 3), 0.15 * normal(count, (degree + 1) ** 2 - 1, 3)], dim=1).clamp(-1, 0.99),
    )


def rotations(quats: torch.Tensor) -> torch.Tensor:
    """The matrices, by scipy."""
    from scipy.spatial.transform import Rotation

    return torch.tensor(Rotation.from_quat(quats[:, [1, 2, 3, 0]].numpy()).as_matrix(), dtype=torch.float32)


def covariances(splats: Splats) -> torch.Tensor:
    """R S Sᵀ Rᵀ, which tells Gaussians apart however their axes are named."""
    axes = rotations(splats.quats) * splats.scales.exp()[:, None]
    return axes @ axes.mT


def pictures(splats_model, camera, splats: Splats) -> torch.Tensor:
    model = splats_model(len(splats.means), sh_degree=splats.sh_degree)
    model.load_state_dict({f"gauss_params.{k}": v for k, v in splats.state_dict().items()}, strict=False)
    model.step = 30_000
    with torch.no_grad():
        return render(model.eval(), camera(height=32, width=32)).image


@pytest.mark.parametrize(("suffix", "degree", "least"), [("spz", 0, 40), ("spz", 3, 35), ("splat", 0, 35)])
def test_a_round_trip_looks_the_same(splats, camera, tmp_path, suffix, degree, least):
    before = some_splats(300, degree)
    path = tmp_path / f"a.{suffix}"
    WRITERS[suffix](path, before)
    after, broken = read_splats(path)
    assert (broken, after.sh_degree, len(after.means)) == (0, degree, 300)
    images = [pictures(splats, camera, each) for each in (before, after)]
    assert images[0].std() > 0.05
    assert psnr(images[1], images[0]).min() >= least


def test_spz_is_laid_out_as_niantic_says(tmp_path):
    """By the specification alone: axes right, up, back; real part last; colours and harmonics of one basis together."""
    splats = some_splats(1, degree=1)
    write_spz(tmp_path / "a.spz", splats)
    content = gzip.decompress((tmp_path / "a.spz").read_bytes())
    magic, version, count, degree, fraction, flags, _ = SPZ.unpack(content[:16])
    assert (magic, version, count, degree, flags, len(content)) == (b"NGSP", 3, 1, 1, 0, 16 + 9 + 1 + 3 + 3 + 4 + 9)
    place = [int.from_bytes(content[16 + 3 * i : 19 + 3 * i], "little", signed=True) / 2**fraction for i in range(3)]
    x, y, z = splats.means[0].tolist()
    assert place == pytest.approx([x, -y, -z], abs=2**-fraction)
    assert content[25] == pytest.approx(255 * splats.opacities[0].sigmoid().item(), abs=0.51)
    assert list(content[26:29]) == pytest.approx((255 * (0.5 + 0.15 * splats.harmonics[0, 0])).tolist(), abs=0.51)
    assert sorted(content[29:32]) == pytest.approx((16 * (splats.scales[0] + 10)).sort()[0].tolist(), abs=0.51)
    r, g, b = splats.harmonics[0, 1].tolist()  # the harmonic along y, which changes its sign with it
    assert list(content[36:39]) == pytest.approx([128 - 128 * r, 128 - 128 * g, 128 - 128 * b], abs=0.51)
    along_x = (128 + 128 * splats.harmonics[0, 3]).tolist()
    assert list(content[42:45]) == pytest.approx(along_x, abs=0.51)


@pytest.mark.parametrize("antialiased", [True, False])
def test_spz_tells_how_its_gaussians_are_rasterised(tmp_path, antialiased):
    write_spz(tmp_path / "a.spz", replace(some_splats(), antialiased=antialiased))
    assert gzip.decompress((tmp_path / "a.spz").read_bytes())[14] == antialiased
    assert read_splats(tmp_path / "a.spz")[0].antialiased == antialiased


@pytest.mark.parametrize("version", [2, 3])
def test_both_encodings_of_rotations_are_read(tmp_path, version):
    random = np.random.default_rng(0)
    quats = random.normal(size=(60, 4))
    xyzw = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    packed = []
    for q in xyzw:
        if version == 2:
            q = q * (1 if q[3] >= 0 else -1)
            packed.append(bytes(round(127.5 + 127.5 * v) for v in q[:3]))
        else:
            largest = max(range(4), key=lambda i: abs(q[i]))
            q = q * (1 if q[largest] >= 0 else -1)
            bits = f"{largest:02b}"
            bits += "".join(
                f"{q[i] < 0:b}{round(511 * abs(q[i]) * math.sqrt(2)):09b}" for i in range(4) if i != largest
            )
            packed.append(int(bits, 2).to_bytes(4, "little"))
    count = len(packed)
    body = bytes(9 * count) + b"\x80" * 7 * count + b"".join(packed)
    (tmp_path / "a.spz").write_bytes(gzip.compress(SPZ.pack(b"NGSP", version, count, 0, 12, 0, 0) + body))
    read = read_splats(tmp_path / "a.spz")[0]
    expected = np.diag([1, -1, -1]) @ rotations(torch.tensor(xyzw[:, [3, 0, 1, 2]])).double().numpy()
    got = rotations(read.quats).double().numpy()
    np.testing.assert_allclose(np.abs(np.einsum("nij,nij->nj", got, expected)), 1, atol=0.02)  # up to an axis' sign


def test_an_opaque_byte_is_an_opaque_gaussian(tmp_path):
    rows = np.zeros(2, dtype=[("f", "<f4", 6), ("rgba", "u1", 4), ("q", "u1", 4)])
    rows["f"], rows["rgba"], rows["q"] = 1, [[255, 128, 0, 255], [0, 0, 0, 0]], [255, 128, 128, 128]
    (tmp_path / "a.splat").write_bytes(rows.tobytes())
    splats, broken = read_splats(tmp_path / "a.splat")
    assert broken == 0
    assert splats.opacities[:, 0].tolist() == [OPAQUE, -OPAQUE]
    assert (0.5 + C0 * splats.harmonics[0, 0]).tolist() == pytest.approx([1, 128 / 255, 0], abs=1e-6)


def compressed(path: Path, splats: Splats, colors: bool = True) -> None:
    """As PlayCanvas's splat-transform packs, value by value."""
    count, chunks = len(splats.means), -(-len(splats.means) // 256)
    rgb, rest = 0.5 + C0 * splats.harmonics[:, 0], splats.harmonics[:, 1:].mT.reshape(count, -1)
    groups = {"": splats.means, "scale_": splats.scales} | ({"rgb": rgb} if colors else {})
    head, ranges = [], []
    for name, values in groups.items():
        ends = [values[256 * i : 256 * (i + 1)].aminmax(dim=0) for i in range(chunks)]
        for end, letter in ((0, "min"), (1, "max")):
            head += [f"{letter}_{'' if name == 'rgb' else name}{axis}" for axis in ("rgb" if name == "rgb" else "xyz")]
            ranges.append(torch.stack([pair[end] for pair in ends]))
    table = torch.cat(ranges, dim=1).numpy().astype("<f4")

    def share(values: torch.Tensor, i: int, axis: int, bits: int) -> int:
        low, high = values[256 * (i // 256) : 256 * (i // 256 + 1), axis].aminmax()
        return round(float((values[i, axis] - low) / (high - low)) * (2**bits - 1))

    packed = []
    for i in range(count):
        quat = splats.quats[i].tolist()
        largest = max(range(4), key=lambda k: abs(quat[k]))
        quat = [v * (1 if quat[largest] >= 0 else -1) for v in quat]
        rotation = largest
        for k in range(4):
            if k != largest:
                rotation = rotation << 10 | round((quat[k] / math.sqrt(2) + 0.5) * 1023)
        position, scale = (
            share(v, i, 0, 11) << 21 | share(v, i, 1, 10) << 11 | share(v, i, 2, 11)
            for v in (splats.means, splats.scales)
        )
        shares = [share(rgb, i, a, 8) if colors else round(255 * float(rgb[i, a].clamp(0, 1))) for a in range(3)]
        color = shares[0] << 24 | shares[1] << 16 | shares[2] << 8 | round(255 * splats.opacities[i].sigmoid().item())
        packed.append([position, rotation, scale, color])
    text = ["ply", "format binary_little_endian 1.0", f"element chunk {chunks}", *(f"property float {n}" for n in head)]
    text += [
        f"element vertex {count}",
        *(f"property uint packed_{n}" for n in ("position", "rotation", "scale", "color")),
    ]
    if rest.shape[1]:
        text += [f"element sh {count}", *(f"property uchar f_rest_{i}" for i in range(rest.shape[1]))]
    body = table.tobytes() + np.array(packed, "<u4").tobytes()
    body += ((rest / 8 + 0.5) * 256).floor().clamp(0, 255).byte().numpy().tobytes() if rest.shape[1] else b""
    path.write_bytes("\n".join([*text, "end_header", ""]).encode() + body)


@pytest.mark.parametrize(("degree", "colors"), [(0, True), (0, False), (2, True)])
def test_a_compressed_ply_of_supersplat_is_read(splats, camera, tmp_path, degree, colors):
    before = some_splats(300, degree)
    compressed(tmp_path / "a.ply", before, colors)
    after, broken = read_splats(tmp_path / "a.ply")
    assert (broken, after.sh_degree) == (0, degree)
    torch.testing.assert_close(after.means, before.means, atol=3e-3, rtol=0)
    torch.testing.assert_close(covariances(after), covariances(before), atol=1e-3, rtol=2e-2)
    torch.testing.assert_close(after.opacities.sigmoid(), before.opacities.sigmoid(), atol=3e-3, rtol=0)
    torch.testing.assert_close(after.harmonics[:, 1:], before.harmonics[:, 1:], atol=0.02, rtol=0)
    if colors:
        images = [pictures(splats, camera, each) for each in (before, after)]
        assert psnr(images[1], images[0]).min() >= 35


def test_a_glb_holds_what_the_extension_asks_for(tmp_path):
    splats = some_splats(7, degree=1)
    write_glb(tmp_path / "a.glb", splats)
    content = (tmp_path / "a.glb").read_bytes()
    magic, version, length, json_length, kind = struct.unpack("<4sII I4s", content[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(content), b"JSON")
    document = json.loads(content[20 : 20 + json_length])
    binary = content[28 + json_length :]
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]

    def values(name: str) -> np.ndarray:
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5121: "u1"}[accessor["componentType"]]
        found = np.frombuffer(binary, kind, view["byteLength"] // np.dtype(kind).itemsize, view["byteOffset"])
        return found.reshape(accessor["count"], -1)

    name = "KHR_gaussian_splatting:"
    x, y, z = splats.means.numpy().T
    np.testing.assert_allclose(values("POSITION"), np.stack([x, z, -y], axis=1), atol=1e-6)
    np.testing.assert_allclose(values(name + "SCALE"), splats.scales.exp(), rtol=1e-5)
    np.testing.assert_allclose(values(name + "OPACITY"), splats.opacities.sigmoid(), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(values(name + "ROTATION"), axis=1), 1, atol=1e-5)
    xyzw = values(name + "ROTATION")
    moved = Splats(splats.means, torch.tensor(xyzw[:, [3, 0, 1, 2]]), splats.scales, splats.opacities, splats.harmonics)
    up = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    torch.testing.assert_close(covariances(moved), up @ covariances(splats) @ up.T, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(values(name + "SH_DEGREE_0_COEF_0"), splats.harmonics[:, 0], atol=1e-6)
    # Degree 1 is −C y, C z, −C x of the direction: glTF's y is z, and its z is −y.
    np.testing.assert_allclose(values(name + "SH_DEGREE_1_COEF_0"), -splats.harmonics[:, 2], atol=1e-5)
    np.testing.assert_allclose(values(name + "SH_DEGREE_1_COEF_1"), splats.harmonics[:, 1], atol=1e-5)
    np.testing.assert_allclose(values(name + "SH_DEGREE_1_COEF_2"), splats.harmonics[:, 3], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.splat", b"\0" * 33, "no multiple of 32"),
        ("a.splat", b"", "holds no Gaussians"),
        ("a.splat", b"\xff" * 64, "no Gaussian with finite values"),
        ("a.ksplat", b"\0" * 20, "export PLY from there"),
        ("a.sog", b"PK\x03\x04", "export PLY from there"),
        ("a.spz", b"NGSP\4\0\0\0" + bytes(24), "version 4 of .spz"),
        ("a.ply", gzip.compress(b"hello"), "holds no .spz"),
        ("a.spz", gzip.compress(SPZ.pack(b"NGSP", 1, 1, 0, 12, 0, 0)), "is version 1"),
        ("a.spz", gzip.compress(SPZ.pack(b"NGSP", 3, 1, 9, 12, 0, 0)), "degree 9"),
        ("a.spz", gzip.compress(SPZ.pack(b"NGSP", 3, 4_000_000_000, 3, 12, 0, 0)), "4000000000 Gaussians"),
        ("a.spz", gzip.compress(SPZ.pack(b"NGSP", 3, 9_000_000, 3, 12, 0, 0)), "ends before"),
        ("a.spz", gzip.compress(SPZ.pack(b"NGSP", 3, 0, 2, 12, 0, 0)), "holds no Gaussians"),
        ("a.spz", gzip.compress(SPZ.pack(b"NGSP", 3, 1, 0, 12, 2, 0)), "extensions"),
        ("a.spz", gzip.compress(bytes(1 << 12))[:-9], "holds no .spz"),
        ("a.spz", b"\x1f\x8b" + bytes(40), "cannot be read"),
        ("a.bin", b"\0" * 64, "cannot be read as a .ply"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,  # gzip writes the time into its header
)
def test_files_that_cannot_be_read_are_named_with_a_way_on(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_splats(tmp_path / name)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """One whole file of each format; .spz uncompressed, so that damage reaches what gzip's sum would catch."""
    folder = tmp_path_factory.mktemp("formats")
    splats = some_splats(3, 1)
    compressed(folder / "packed.ply", splats)
    write_spz(folder / "a.spz", splats)
    WRITERS["splat"](folder / "a.splat", splats)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    return whole | {"inside.spz": gzip.decompress(whole["a.spz"])}


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["a.spz", "inside.spz", "a.splat", "packed.ply"]),
    start=st.integers(0, 1500),
    length=st.integers(0, 30),
    put=st.binary(max_size=30),
)
def test_any_damage_is_an_answer_or_a_sentence(files, tmp_path_factory, name, start, length, put):
    whole = files[name]
    start %= len(whole) + 1
    path = tmp_path_factory.getbasetemp() / f"damaged_{name}"
    damaged = whole[:start] + put + whole[start + length :]
    path.write_bytes(gzip.compress(damaged, 1) if name == "inside.spz" else damaged)
    try:
        splats, broken = read_splats(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert len(splats.means) + broken > 0
        assert all(value.isfinite().all() for value in splats.state_dict().values())
