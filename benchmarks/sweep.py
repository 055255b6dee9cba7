"""Sweeps that are killed, and what the status table says.

    python -m benchmarks.sweep

Runs are those of a stand-in that keeps its run folder as ligo.grow does (tests/sweeps/stand_in.py): the sweep is in
question here, not the growing. Figures go to benchmarks/results/sweep.json.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import REPO, finish, row, run_measures
from ligo.sweeps.attempt import run_once
from ligo.sweeps.status import RunState, read_state
from tests.sweeps.killing import killed_sweep

NUM_RUNS, KILLS = 60, 10
EXPECTED = {
    "good": ("finished", ""),
    "fails": ("failed", "the text is gone."),
    "diverges": ("failed", "the loss is nan at step 4."),
    "refuses": ("failed", "ConfigError: this cannot be."),
    "vanishes": ("crashed", "killed by SIGKILL"),
    "preempted": ("preempted", "its machine was taken away; the same command goes on"),
    "untouched": ("waiting", ""),
}
"""Arms of the stand-in, each with the state and the reason that the table is to show."""


def killed_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """kill -9 of the sweep and all below it, ten times at random, then once more to the end."""
    with tempfile.TemporaryDirectory() as folder:
        found = killed_sweep(Path(folder), num_runs=NUM_RUNS, kills=KILLS)
    whole = found["finished"] == found["num_runs"] == NUM_RUNS
    return {
        f"results of {NUM_RUNS} runs, the sweep killed {KILLS} times": row(
            found["finished"], NUM_RUNS, whole
        ),
        "runs done twice": row(len(found["double"]), 0, not found["double"]),
    }, found


def status_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    """Each way to end, and what is read of it."""
    os.environ["PYTHONPATH"] = str(REPO)
    shown: dict[str, RunState] = {}
    with tempfile.TemporaryDirectory() as root:
        for arm in EXPECTED:
            folder = Path(root) / arm
            options = [f"run.dir={folder}", f"run.name={arm}", "seed=0"]
            if arm != "untouched":
                run_once(folder, [sys.executable, "-m", "tests.sweeps.stand_in", *options])
            shown[arm] = read_state(folder)
    right = sum((shown[arm].state, shown[arm].why) == expected for arm, expected in EXPECTED.items())
    return {
        "ways to end that the status table tells with their reason": row(
            right, len(EXPECTED), right == len(EXPECTED)
        )
    }, {arm: f"{state.state}: {state.why}" for arm, state in shown.items()}


MEASURES = (killed_rows, status_rows)


if __name__ == "__main__":
    finish("sweep", *run_measures(MEASURES))
