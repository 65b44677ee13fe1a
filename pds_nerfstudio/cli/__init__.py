"""The `pds` command, and the subcommands it has."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pds_nerfstudio import __version__
from pds_nerfstudio.errors import UserError, one_sentence
from pds_nerfstudio.quiet import silence_children, silence_libraries
from pds_nerfstudio.text import meant

DESCRIPTION = """Edit nerfstudio scenes from text. Start with `pds edit RUN --from "…" --to "…"`, or with `pds demo`.

`pds COMMAND --help` lists a command's flags, the most used first. `pds --version` prints the version.
`pds --tyro-print-completion bash` (or zsh, tcsh) prints a script that lets the shell complete commands and flags."""


def commands() -> dict[str, type]:
    """Every subcommand by the name that users type, the most used first."""
    from pds_nerfstudio.cli.bench import Bench
    from pds_nerfstudio.cli.calibrate import CalibrateEta
    from pds_nerfstudio.cli.check import Check
    from pds_nerfstudio.cli.demo import Demo
    from pds_nerfstudio.cli.doctor import Doctor
    from pds_nerfstudio.cli.dreambooth import Dreambooth
    from pds_nerfstudio.cli.edit import Edit
    from pds_nerfstudio.cli.evaluate import Evaluate
    from pds_nerfstudio.cli.gallery import Gallery
    from pds_nerfstudio.cli.history import History
    from pds_nerfstudio.cli.import_ply import ImportPly
    from pds_nerfstudio.cli.pie import PieBench
    from pds_nerfstudio.cli.preview import Preview
    from pds_nerfstudio.cli.render import Render
    from pds_nerfstudio.cli.runs import Runs
    from pds_nerfstudio.cli.studio import Studio
    from pds_nerfstudio.cli.svg import Svg
    from pds_nerfstudio.cli.toybox import Toybox

    return {
        "edit": Edit,
        "preview": Preview,
        "gallery": Gallery,
        "runs": Runs,
        "history": History,
        "render": Render,
        "evaluate": Evaluate,
        "demo": Demo,
        "doctor": Doctor,
        "dreambooth": Dreambooth,
        "import-ply": ImportPly,
        "check": Check,
        "svg": Svg,
        "toybox": Toybox,
        "studio": Studio,
        "bench": Bench,
        "pie-bench": PieBench,
        "calibrate-eta": CalibrateEta,
    }


def main() -> None:
    """Entry point of the console script."""
    # Before torch comes: threads that spin while they wait take, on a busy machine, the time of those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    silence_libraries()
    silence_children()
    if sys.argv[1:] == ["--version"]:
        print(f"pds-nerfstudio {__version__}")
        return
    with one_sentence():
        try:
            command_of(sys.argv[1:]).run()
        except KeyboardInterrupt:
            print("Interrupted. What was finished is kept.", file=sys.__stderr__)
            raise SystemExit(130) from None
        except BrokenPipeError:  # `pds --help | head`: whoever read has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise SystemExit(0) from None


def command_of(arguments: Sequence[str]) -> Any:
    """The subcommand that a command line names, with its flags.

    Raises:
        UserError: a word or a flag is mistyped.
        SystemExit: it asks for help, or a value cannot be read.
    """
    import tyro

    from pds_nerfstudio.flags import flags_of, parser_of, refuse_mistyped, refuse_unquoted, tidied
    from pds_nerfstudio.help_texts import join_lines

    join_lines()
    known, name = commands(), next(iter(arguments), "")
    if name in known:
        kind = known[name]
        refuse_unquoted(arguments[1:], behind=1 if name == "edit" else None)
        arguments = tidied(arguments, "--")
        refuse_mistyped(arguments[1:], f"pds {name}", lambda: flags_of(parser_of(kind)))
    elif name and not name.startswith("-"):
        raise UserError(no_such_command(name, known))
    if name in known:
        return tyro.cli(known[name], prog=f"pds {name}", args=arguments[1:])
    return tyro.extras.subcommand_cli_from_dict(known, prog="pds", description=DESCRIPTION, args=arguments)


def no_such_command(typed: str, known: Iterable[str]) -> str:
    """What to say about a mistyped command."""
    close = meant(typed, known)
    return f"There is no command pds {typed}: {f'did you mean pds {close}?' if close else 'pds --help lists all.'}"
