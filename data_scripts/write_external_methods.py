"""Writes docs/nerfstudio/external_methods.patch: this package's entry in nerfstudio's list of external methods.

    python data_scripts/write_external_methods.py

The patch is for nerfstudio 1.1.5. A test compares it with the methods that there are.
"""

from pathlib import Path

from pds_nerfstudio.methods import METHODS

PATCH = Path(__file__).parents[1] / "docs" / "nerfstudio" / "external_methods.patch"
LINE = 283
"""Of nerfstudio's file, at which three unchanged lines stand before what is added."""
BEFORE, AFTER = ("    )", ")", ""), ("", "@dataclass", "class ExternalMethodDummyTrainerConfig:")


def entry() -> list[str]:
    """The lines that are added."""
    methods = [f'            ("{name}", "{str(method.description).rstrip(".")}"),' for name, method in METHODS.items()]
    return [
        "# PDS",
        "external_methods.append(",
        "    ExternalMethod(",
        '        """[bold yellow]PDS[/bold yellow]',
        "For more information visit: https://docs.nerf.studio/nerfology/methods/pds.html",
        "",
        "To enable PDS, you must install it first by running, in the checkout of pds_nerfstudio:",
        '  [grey]pip install .[/grey]""",',
        "        configurations=[",
        *methods,
        "        ],",
        "    )",
        ")",
        "",
    ]


def main() -> None:
    """Write it."""
    added = entry()
    around = len(BEFORE) + len(AFTER)
    lines = [
        "--- a/nerfstudio/configs/external_methods.py",
        "+++ b/nerfstudio/configs/external_methods.py",
        f"@@ -{LINE},{around} +{LINE},{around + len(added)} @@",
        *(f" {line}" for line in BEFORE),
        *(f"+{line}" for line in added),
        *(f" {line}" for line in AFTER),
    ]
    PATCH.write_text("\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
