"""Pictures of docs/ that are drawn by rules show what the code says."""

import ast
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "data_scripts"))

import draw_choice  # noqa: E402
import draw_house  # noqa: E402


def test_the_picture_of_the_choice_is_what_its_script_draws():
    assert draw_choice.OUT.read_text(encoding="utf8") == draw_choice.draw()


def test_the_choice_says_what_the_recipes_set():
    said = [column.does() for column in draw_choice.COLUMNS]
    assert ["frozen" in text for text in said] == [True, True, False, False, False]
    assert ["perturbs nothing" in text for text in said] == [True, False, False, True, False]


def test_the_commands_of_the_choice_are_read_as_they_stand():
    import shlex

    from pds_nerfstudio.cli.edit import Edit
    from pds_nerfstudio.flags import parser_of

    for column in draw_choice.COLUMNS:
        line = ["RUN", "--from", "a", "--to", "b", *shlex.split(column.command)]
        parser_of(Edit).parse_args(line)


def imports_by_reading() -> set[tuple[str, str]]:
    """Which room imports which, read from the source by Python's own parser."""
    found = set()
    for path in (ROOT / draw_house.PACKAGE).rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith(f"{draw_house.PACKAGE}."):
                    found.add((draw_house.room_of(module), draw_house.room_of(name)))
    return {(one, other) for one, other in found if one != other}


def drawn_edges() -> set[tuple[str, str]]:
    """Which room imports which, as the picture says."""
    found = set()
    for element in ElementTree.fromstring(draw_house.OUT.read_text(encoding="utf8")).iter():
        if one := element.get("data-from"):
            found |= {(one, other) for other in str(element.get("data-to")).split()}
    return found


def test_the_picture_of_the_house_shows_the_imports_of_the_code():
    uses = imports_by_reading()
    rooms = {(room, draw_house.SHARED) for room in draw_house.ROOMS}
    assert rooms <= uses, "the picture says that every room uses the shared files"
    assert drawn_edges() == uses - rooms, "python data_scripts/draw_house.py draws it anew"


def test_the_picture_of_the_house_is_what_its_script_draws():
    assert draw_house.OUT.read_text(encoding="utf8") == draw_house.draw()


def test_an_arrow_that_others_imply_is_left_out():
    chain = {("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")}
    assert draw_house.needed(chain) == chain - {("a", "c")}
