"""What benchmarks share: timing a command, and the one line of JSON at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ligo.core.files import write_json
from ligo.core.run import hardware, versions

Figures = tuple[dict[str, Any], dict[str, Any]]
"""Rows, and what they come from."""

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


def peak_resident_bytes() -> int:
    """The most memory that this process has held. Not `ru_maxrss`, which begins at what its parent held."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def run_campaigns(module: str, counts: dict[str, int], within: Iterable[str] = ()) -> dict[str, Any]:
    """What campaigns of tests/ found, by name: good trials and all, and what went wrong.

    They run in a process of their own, which has one thread and can be forked.

    Args:
        within: a command that starts another in its arguments.
    """
    command = [*within, sys.executable, "-m", module, *(f"{name}={count}" for name, count in counts.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, cwd=REPO, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_measures(measures: Iterable[Callable[[], Figures]]) -> Figures:
    """The rows of several measures, one after another on one thread, and their details under each one's name."""
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for measure in measures:
        more, details[measure.__name__.removesuffix("_rows")] = measure()
        rows |= more
    return rows, details


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
