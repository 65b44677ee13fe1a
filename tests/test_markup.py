"""Whatever a message takes from outside is escaped where rich reads markup: checked in the sources, print by print."""

import ast
from pathlib import Path

import pytest

import pds_nerfstudio

PACKAGE = Path(pds_nerfstudio.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
PRINTS = {"print", "log", "add_row", "Table", "add_task", "rule"}
ESCAPES = {"in_rich", "len"}
HARMLESS = {
    # Numbers, and words from a fixed list of this package.
    *("count", "cropped", "step", "self.steps", "frames", "number", "variant.number", "self.objective"),
    *("stage.name", "outcome.report", "report", "title", "self.config.method_name", "settings.steps", "broken"),
    *("images.shape", "state", "v", "table", "what", "kind", "name", "edit.source_prompt", "edit.target_prompt"),
    *("metric.name", "metric.formula", "self._rays_per_chunk", "type(error).__name__"),
    "sheet",  # escaped where it is made
    "' (finished before)' * (stage.name in done)",
}


def prints(tree: ast.AST) -> list[ast.Call]:
    """Calls that print markup: those that say markup=False, and the builtin, do not."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        call
        for call in calls
        if (isinstance(call.func, ast.Attribute) and call.func.attr in PRINTS)
        or (isinstance(call.func, ast.Name) and call.func.id == "Table")
        if not any(k.arg == "markup" and getattr(k.value, "value", None) is False for k in call.keywords)
    ]


def unescaped(call: ast.Call) -> list[str]:
    """What a call puts into its markup without a format for numbers and without escaping it."""
    found = []
    for argument in (*call.args, *(k.value for k in call.keywords if k.arg in ("title", "caption"))):
        values = [v for v in ast.walk(argument) if isinstance(v, ast.FormattedValue)]
        found += [v.value for v in values if v.format_spec is None and v.conversion == -1]
        found += [v.value for v in values if v.conversion != -1]
        if isinstance(argument, ast.Attribute | ast.Name):
            found.append(argument)
        if isinstance(argument, ast.Subscript):  # what a run has decided, in words that may hold a prompt or a path
            found.append(argument)
    texts = [ast.unparse(value) for value in found]
    return [
        text
        for text in texts
        if text.partition("(")[0] not in ESCAPES and text.partition("[")[0] not in HARMLESS and not text.isdigit()
    ]


@pytest.mark.parametrize("file", FILES)
def test_messages_escape_what_they_take_from_outside(file):
    source = (PACKAGE / file).read_text()
    if "from rich" not in source and "CONSOLE" not in source:
        return
    if "CONSOLE" not in source and all("markup=False" in line for line in source.splitlines() if "Console(" in line):
        source = source.replace("console.print", "console.plain")  # none of its markup is read
    problems = [f"{file}:{call.lineno}: {text}" for call in prints(ast.parse(source)) for text in unescaped(call)]
    assert not problems
