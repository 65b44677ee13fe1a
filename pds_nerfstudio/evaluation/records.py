"""What is kept of cells that are done: JSON that is complete or not there, read with a way out where it is damaged."""

import json
import math
from pathlib import Path
from typing import Any

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import read_json, write_whole


def write_json(path: Path, content: Any) -> None:
    """JSON, complete or not there at all."""
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """A cell's record.

    Raises:
        UserError: it cannot be read.
    """
    return with_numbers(read_raw_record(path))


def read_raw_record(path: Path) -> dict[str, Any]:
    """A cell's record as it is stored.

    Raises:
        UserError: it cannot be read, or lacks what a record has.
    """
    remedy = "remove it, and run the same line again"
    record = read_json(path, dict, "The record", remedy)
    kinds = {"edit": str, "kind": str, "method": str, "seed": int, "metrics": dict}
    if other := [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]:
        raise UserError(f"The record {path} is damaged (its {other[0]} is missing or of another type): {remedy}.")
    for name, value in record["metrics"].items():
        if not (value is None or isinstance(value, int | float) or value in ("inf", "-inf")):
            raise UserError(f"The record {path} is damaged (its {name} is {value!r}, no number): {remedy}.")
    return record


def with_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is stored, with numbers where JSON has "inf" or null."""
    record["metrics"] = {name: math.nan if v is None else float(v) for name, v in record["metrics"].items()}
    return record


def kept_value(file: Path, name: str, kind: type) -> Any:
    """One value of a record of ours. Raises UserError where the record is damaged."""
    remedy = f"remove {file.parent}, and run the same line again"
    value = read_json(file, dict, "The record", remedy).get(name)
    if not isinstance(value, kind):
        raise UserError(f"The record {file} is damaged (it has no {name}): {remedy}.")
    return value
