"""What benchmarks share: timing a command, and the one line of JSON at the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ligo.core.files import write_json
from ligo.core.run import hardware, versions

REPO = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def row(value: Any, reach: Any, ok: bool | None) -> dict[str, Any]:
    """One row of the last line; `ok` is None where something that it needs is not at hand."""
    return {"value": value, "reach": reach, "ok": ok}


def best_seconds(command: list[str], repeats: int = 5) -> float:
    """The fastest of several runs of a whole process: the others were disturbed."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, cwd=REPO, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def finish(topic: str, rows: dict[str, dict[str, Any]], details: dict[str, Any]) -> None:
    """Keep the figures with hardware, versions and date, and end with one line of JSON."""
    kept = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
        "rows": rows,
        **details,
    }
    write_json(RESULTS / f"{topic}.json", kept)
    print(json.dumps(rows))
    sys.stdout.flush()
