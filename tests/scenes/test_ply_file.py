"""A .ply is read as another library reads it, and no header makes more of it than there is."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.formats.ply import read_ply
from pds_nerfstudio.scenes.formats.ply_file import read_table, write_table

KINDS = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("a", "u1"), ("b", "i2"), ("c", "f8"), ("d", "u4")]
HEAD = "ply\nformat ascii 1.0\n"
GAUSSIAN = (
    *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    rows = np.empty(20, KINDS)
    for name, kind in KINDS:
        rows[name] = random.normal(size=20) if kind[0] == "f" else random.integers(0, 100, 20)
    return rows


@pytest.mark.parametrize("text", [False, True])
def test_what_is_written_is_read(tmp_path, rows, text):
    write_table(tmp_path / "a.ply", rows, ["by a test"], text)
    table = read_table(tmp_path / "a.ply")
    assert table.comments == ("by a test",)
    np.testing.assert_array_equal(table.rows, rows)


@pytest.mark.parametrize("text", [False, True])
def test_another_library_reads_the_same(tmp_path, rows, text):
    write_table(tmp_path / "a.ply", rows, text=text)
    read = trimesh.load(tmp_path / "a.ply", process=False)
    expected = np.stack([rows[axis] for axis in "xyz"], axis=1)
    np.testing.assert_allclose(np.sort(read.vertices, axis=0), np.sort(expected, axis=0), rtol=1e-6)


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_big_endian"])
def test_the_vertices_of_a_mesh_of_another_library_are_read(tmp_path, encoding):
    mesh = trimesh.creation.box()
    content = mesh.export(file_type="ply", encoding="ascii" if encoding == "ascii" else "binary_little_endian")
    if encoding == "binary_big_endian":
        header, _, body = content.partition(b"end_header\n")
        size = len(mesh.vertices) * 12
        body = np.frombuffer(body[:size], "<f4").astype(">f4").tobytes() + body[size:]
        content = header.replace(b"little", b"big") + b"end_header\n" + body
    (tmp_path / "box.ply").write_bytes(content)
    rows = read_table(tmp_path / "box.ply").rows
    np.testing.assert_allclose(np.stack([rows[axis] for axis in "xyz"], axis=1), mesh.vertices)


def header(count: object, columns=GAUSSIAN, first: str = HEAD) -> str:
    return f"{first}element vertex {count}\n" + "".join(f"property float {c}\n" for c in columns) + "end_header\n"


BAD = {
    "nothing": "",
    "another format": "solid cube\n",
    "no end": HEAD + "element vertex 1\n",
    "no format": header(1, first="ply\n") + "0 " * 14,
    "an unknown format": header(1, first="ply\nformat binary_middle_endian 1.0\n"),
    "a negative count": header(-5),
    "a count that is no number": header("many"),
    "a count far beyond the file": header(10**12) + "0 " * 14 + "\n",
    "a count beyond numpy": header(10**30),
    "a count of one more": header(2) + "0 " * 14 + "\n",
    "too few values": header(1) + "0 " * 13 + "\n",
    "too many values": header(1) + "0 " * 15 + "\n",
    "words for numbers": header(1) + "a " * 14 + "\n",
    "a list": header(1).replace("float x", "list uchar float x") + "1 0 " + "0 " * 13 + "\n",
    "an unknown type": header(1).replace("float x", "quaternion x") + "0 " * 14 + "\n",
    "a column twice": header(1, (*GAUSSIAN, "x")) + "0 " * 15 + "\n",
    "a property before an element": HEAD + "property float x\nend_header\n",
    "no vertex": header(1).replace("element vertex", "element point") + "0 " * 14 + "\n",
    "no rows": header(0),
    "f_rest without a number": header(1, (*GAUSSIAN, "f_rest_abc")) + "0 " * 15 + "\n",
    "f_rest with gaps": header(1, (*GAUSSIAN, *(f"f_rest_{2 * i}" for i in range(9)))) + "0 " * 23 + "\n",
    "f_rest of degree 7": header(1, (*GAUSSIAN, *(f"f_rest_{i}" for i in range(189)))) + "0 " * 203 + "\n",
    "binary cut short": header(3, first="ply\nformat binary_little_endian 1.0\n") + "x" * 167,
    "nothing finite": header(1) + "nan " * 14 + "\n",
    "a line without end": "ply\n" + "x" * 5000,
}


@pytest.mark.parametrize("case", BAD)
def test_a_header_is_not_believed(tmp_path, case):
    path = tmp_path / "a.ply"
    path.write_text(BAD[case])
    with pytest.raises(UserError, match=r"a\.ply (cannot be read|has no|holds no)"):
        read_ply(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ply") / "a.ply"


WHOLE = (header(2) + ("0 " * 14 + "\n") * 2).encode()
BINARY = header(2, first="ply\nformat binary_little_endian 1.0\n").encode() + bytes(2 * 56)


@settings(max_examples=200)
@given(st.sampled_from([WHOLE, BINARY]), st.integers(0, 500), st.integers(0, 30), st.binary(max_size=30))
def test_any_damage_is_an_answer_or_a_sentence(scratch, whole, start, length, put):
    scratch.write_bytes(whole[:start] + put + whole[start + length :])
    try:
        splats, broken = read_ply(scratch)
    except UserError as error:
        assert str(scratch) in str(error)  # noqa: PT017
    else:
        assert len(splats.means) + broken > 0
