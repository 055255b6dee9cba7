"""metrics.jsonl: the truth. One JSON object per line, appended and flushed at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ligo.core.errors import DataError, disk_full
from ligo.core.files import from_json, write_json, write_text
from ligo.core.redact import redact

MEASURED = ("wall_s", "tokens_per_s", "mfu", "memory_bytes")
"""Keys of a record in which two runs of the same config differ; all others are equal."""


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line that was cut in the middle is left out.

    Raises:
        DataError: another line is no record; it is named.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = from_json(line)
            if not isinstance(record["arm"], str) or not isinstance(record["step"], int):
                raise TypeError("arm or step")
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise DataError(
                f"{path}, line {number}, is no record ({error}); {len(lines) - number} lines come after it.\n"
                "  Try: correct or remove that line"
            ) from error
        records.append(record)
    return records


class JsonlTracker:
    """Appends every record to `metrics`, and writes the summary to `summary`."""

    def __init__(self, metrics: Path, summary: Path) -> None:
        self._metrics, self._summary = metrics, summary

    def log(self, record: dict[str, Any]) -> None:
        try:
            with open(self._metrics, "a", encoding="utf-8") as file:
                file.write(redact(json.dumps(record)) + "\n")
        except OSError as error:
            raise disk_full(error, self._metrics) from error

    def rewind(self, arm: str, step: int) -> None:
        kept = [r for r in read_records(self._metrics) if r["arm"] != arm or r["step"] <= step]
        write_text(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def summary(self, values: dict[str, Any]) -> None:
        write_json(self._summary, values)

    def finish(self) -> None:
        pass
