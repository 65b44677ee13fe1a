"""Suites are read as written, and a mistake names its line before anything runs."""

import contextlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.capture import Capture, CaptureSettings
from pds_nerfstudio.evaluation.cells import plan_cells
from pds_nerfstudio.evaluation.suite import read_suite
from pds_nerfstudio.evaluation.trial import SETTINGS, Toy
from pds_nerfstudio.toybox.spec import SceneSpec, find_edit

SUITES = Path(__file__).parents[2] / "suites"


def test_the_dev_suite_has_six_edits_of_each_kind_over_six_scenes_and_more():
    suite = read_suite(SUITES / "dev.yaml")
    assert suite.name == "dev"
    assert Counter(edit.kind for edit in suite.edits) == {"appearance": 6, "addition": 6, "shape": 6}
    assert len({edit.source for edit in suite.edits}) >= 6
    for edit in suite.edits:
        assert edit.target in edit.alternatives(), edit.name  # the kind fits what changes


def test_edits_are_named_or_spelled_out(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "edits:\n"
        "  - raise-arms\n"
        "  - name: cube\n    kind: addition\n    source: {shape: cube, floor: brown}\n    target: {hat: true}\n"
    )
    named, own = read_suite(path).edits
    assert named == find_edit("raise-arms")
    assert own.source == SceneSpec("cube", floor="brown")
    assert own.target == SceneSpec("cube", floor="brown", hat=True)


def test_the_rows_of_every_suite_can_be_run(tmp_path):
    named = 0
    for path in sorted(SUITES.glob("*.yaml")):
        if path.name not in ("real.yaml", "noe.yaml"):  # their captures are not in this repository
            suite = read_suite(path)
            plan_cells(suite, suite.methods, Toy("splatfacto", SETTINGS["splatfacto"]), 1, tmp_path)
            named += bool(suite.methods)
    assert named >= 3


def test_the_real_suite_names_edits_of_every_kind_of_captures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="line 6: there is no capture at data/in2n/bear: data_scripts/get"):
        read_suite(SUITES / "real.yaml")
    for name in ("bear", "face", "fangzhou-small"):
        (tmp_path / "data/in2n" / name).mkdir(parents=True)
    suite = read_suite(SUITES / "real.yaml")
    assert suite.of_captures
    assert {edit.kind for edit in suite.edits} == {"appearance", "addition", "shape"}
    assert Counter(edit.data.name for edit in suite.edits) == {"bear": 3, "face": 9, "fangzhou-small": 2}
    assert {edit.parser for edit in suite.edits} == {"nerfstudio"}


def test_noes_suite_reads_blenders_folders_and_its_rows_are_the_papers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("flower-box", "flamingo", "knight"):
        (tmp_path / "data/noe" / name).mkdir(parents=True)
    suite = read_suite(SUITES / "noe.yaml")
    assert {edit.kind for edit in suite.edits} == {"appearance", "addition", "shape"}
    assert {edit.parser for edit in suite.edits} == {"blender"}
    cells = plan_cells(suite, suite.methods, Capture("nerfacto", CaptureSettings()), 1, tmp_path)
    assert len(cells) == 3 * len(suite.edits)
    (tmp_path / "bad.yaml").write_text(
        "captures:\n- {name: x, kind: shape, data: data, source: a, target: b, parser: colmap}\n"
    )
    with pytest.raises(UserError, match="line 2: the parser is 'colmap': it is one of nerfstudio, blender"):
        read_suite(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("edits:\n- raise-arms\n- raise-legs\n", 3, "no toybox edit 'raise-legs'"),
        ("edits:\n- raise-arms\n- raise-arms\n", 3, "second edit is named 'raise-arms'"),
        ("edits: []\n", 1, "list of edits is empty"),
        ("edits:\n  raise-arms\n", 1, "list of edits under"),
        ("edit:\n- raise-arms\n", 1, "'edit' is not among edits"),
        ("edits:\n- {name: x, kind: shape, source: {}}\n", 2, "lacks target"),
        ("edits:\n- name: x\n  kind: form\n  source: {}\n  target: {hat: true}\n", 3, "the kind is 'form'"),
        ("edits:\n- name: x\n  kind: shape\n  source: {shape: cubus}\n  target: {}\n", 4, "no shape 'cubus'"),
        ("edits:\n- name: x\n  kind: shape\n  source: {}\n  target: {}\n", 5, "say what differs"),
        ("edits:\n- name: x\n  kind: addition\n  source: {}\n  target: {hat: big}\n", 5, "it is true or false"),
        ("edits:\n- name: x\n  kind: addition\n  source: {}\n  target: {hats: true}\n", 5, "'hats' is not among"),
        ("edits:\n- name: x\n  name: y\n  kind: shape\n  source: {}\n  target: {}\n", 3, "given twice"),
        ("edits:\n- {name: x, kind: shape, source: {}, target: {hat: !!int foo}}\n", 2, "hat is not what its tag"),
        ("edits:\n- {name: x, kind: shape, source: {}, target: {shape: !!timestamp foo}}\n", 2, "shape is not what"),
        ("edits:\n- [\n", 3, ""),
        ("edits: [raise-arms]\nmethods: pds-edit\n", 2, "methods are a list of names"),
        ("edits: [raise-arms]\nmethods:\n- [pds-edit]\n", 3, "methods are a list of names"),
        ("edits: [raise-arms]\ncaptures: []\n", 1, "under `edits:`, `studio:` or `captures:`"),
        ("captures:\n- raise-arms\n", 2, "expected `key: value`"),
        ("captures:\n- {name: x, kind: shape, source: a, target: b}\n", 2, "lacks data"),
        ("captures:\n- {name: x, kind: shape, source: a, target: b, data: no}\n", 2, "there is no capture at no"),
        ("captures:\n- {name: x, kind: shape, source: a, target: '', data: .}\n", 2, "target is one line of text"),
        ("captures:\n- {name: x, kind: shape, source: a, target: [b], data: .}\n", 2, "target is one line of text"),
    ],
)
def test_a_mistake_names_its_line(tmp_path, text, line, what):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_suite(path)
    assert f"suite.yaml, line {line}: " in str(caught.value)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_suite_at_all_says_so(tmp_path):
    with pytest.raises(UserError, match="There is no suite"):
        read_suite(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(UserError, match="is empty"):
        read_suite(tmp_path / "empty.yaml")


HOSTILE = ["../x", "/abs", ".", "a\0b", "x" * 300, "~", "null", "[a]", "{a: b}", "1e9"]
NAMES = st.one_of(st.text(), st.sampled_from(HOSTILE))
SUITE = "edits:\n  - name: {name}\n    kind: {kind}\n    source: {source}\n    target: {target}\n"
WRONG = ["[]", "3", "{hat: maybe}", "{shape: [ball]}", "&a {shape: *a}", "{colour: 3}", "{[a]: b}"]
SCENES = st.sampled_from(["{shape: ball}", "{colour: blue}", *WRONG])


@given(name=NAMES, kind=st.one_of(st.just("appearance"), NAMES), source=SCENES, target=SCENES)
def test_any_suite_is_read_or_refused_in_a_sentence(tmp_path_factory, name, kind, source, target):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(SUITE.format(name=name, kind=kind, source=source, target=target).encode(errors="replace"))
    with contextlib.suppress(UserError):
        read_suite(path)


@given(name=NAMES)
def test_names_of_edits_stay_in_their_folder(tmp_path_factory, name):
    path = tmp_path_factory.getbasetemp() / "named.yaml"
    scenes = {"source": "{shape: ball, colour: red}", "target": "{colour: blue}"}
    path.write_bytes(SUITE.format(name=name, kind="appearance", **scenes).encode(errors="replace"))
    with contextlib.suppress(UserError):
        (edit,) = read_suite(path).edits
        assert (Path("/out") / f"{edit.name}.pds-edit.0").parent == Path("/out")
        assert ".." not in Path(edit.name).parts


@pytest.mark.parametrize("name", ["../../x", "/abs", ".hidden", "x" * 300, '"a\\0b"', "[a, b]", "''"])
def test_a_name_that_leads_elsewhere_is_refused_with_its_line(tmp_path, name):
    path = tmp_path / "suite.yaml"
    scenes = {"source": "{shape: ball}", "target": "{shape: cube}"}
    path.write_text(SUITE.format(name=name, kind="shape", **scenes))
    with pytest.raises(UserError, match=r"suite\.yaml, line 2: the name"):
        read_suite(path)
