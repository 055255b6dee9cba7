"""metrics.jsonl: the truth. One JSON object per line, appended and flushed at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ligo.core.errors import disk_full
from ligo.core.files import write_json, write_text

MEASURED = ("wall_s", "tokens_per_s", "mfu", "memory_bytes")
"""Keys of a record in which two runs of the same config differ; all others are equal."""


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line that was cut in the middle is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class JsonlTracker:
    """Appends every record to `metrics`, and writes the summary to `summary`."""

    def __init__(self, metrics: Path, summary: Path) -> None:
        self._metrics, self._summary = metrics, summary

    def log(self, record: dict[str, Any]) -> None:
        try:
            with open(self._metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise disk_full(error, self._metrics) from error

    def rewind(self, arm: str, step: int) -> None:
        kept = [r for r in read_records(self._metrics) if r["arm"] != arm or r["step"] <= step]
        write_text(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def summary(self, values: dict[str, Any]) -> None:
        write_json(self._summary, values)

    def finish(self) -> None:
        pass
