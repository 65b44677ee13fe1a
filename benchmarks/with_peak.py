"""A console script, and at its end the most GPU memory that its process had allocated and reserved, as JSON.

python benchmarks/with_peak.py PEAK.json ns-train pds-edit-splat …
"""

import json
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the script as it would run by itself; its exit status stays."""
    place, program = Path(sys.argv[1]), Path(sys.executable).parent / sys.argv[2]
    sys.argv = [str(program), *sys.argv[3:]]
    try:
        runpy.run_path(str(program), run_name="__main__")
    finally:
        import torch

        if torch.cuda.is_available():
            peaks = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
            place.write_text(json.dumps(peaks))


if __name__ == "__main__":
    main()
