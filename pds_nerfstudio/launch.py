"""Begins a console script so that Ctrl-C before its first line is answered in a sentence, not by a traceback.

    python -m pds_nerfstudio.launch /path/to/ns-train METHOD …

`ns-train` imports nerfstudio and torch for some seconds before anything of this package. `pds edit` begins its stages
this way.
"""

import runpy
import signal
import sys

FAILED = 128
"""What a shell adds to the number of the signal that ended a command."""


def stop(number: int, _: object) -> None:
    """End at once: nothing was begun that could be kept."""
    print("Stopped while it was starting: the same command begins again.", file=sys.__stderr__)
    raise SystemExit(FAILED + number)


def main() -> None:
    """Run the program that the arguments name, with those behind it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    sys.argv[:] = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
