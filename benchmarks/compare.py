"""make bench-compare: what comparisons of runs rest on: FLOPs, savings, reports, sweeps.

`make bench-report` and `make bench-sweep` are parts of it. Figures go to benchmarks/results/compare.json; the last line
printed is one line of JSON.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report, sweep
from benchmarks.common import REPO, Figures, finish, row, run_measures
from ligo.core.files import write_json
from ligo.core.libraries import quiet_libraries
from ligo.sweeps.attempt import log_tail
from ligo.sweeps.status import study_states, table
from tests.accounting.flop_shapes import SHAPES, step_flops
from tests.accounting.test_published import saving

TABLE_3 = {
    "500 + 215 k": (500, 215_000, 44.5),
    "1 k + 215 k": (1000, 215_000, 44.2),
    "10 k + 214 k": (10_000, 214_000, 38.9),
}
"""Steps of learning and of training, and the percentage that the paper prints (arXiv 2303.00980, table 3)."""
_WATCHED = ("good", "vanishes", "fails")
_WAIT_S = 60.0


def flop_rows() -> Figures:
    """The formula beside torch's counter."""
    found = {name: step_flops(config) for name, config in SHAPES.items()}
    exact = sum(formula == counted for formula, counted in found.values())
    what = f"shapes whose FLOPs by formula are exactly torch's, of {len(SHAPES)}"
    details = {name: {"formula": formula, "torch": counted} for name, (formula, counted) in found.items()}
    return {what: row(exact, len(SHAPES), exact == len(SHAPES))}, details


def table_3_rows() -> Figures:
    """LiGO's savings, from its own counter."""
    rows = {}
    for name, (operator_steps, main_steps, percent) in TABLE_3.items():
        ours = round(100 * saving(operator_steps, main_steps), 1)
        rows[f"LiGO's table 3, {name} steps, saved %"] = row(ours, percent, ours == percent)
    return rows, {}


def watched_rows() -> Figures:
    """The status table while runs start, go on and end, and the log of the one that crashed."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "STAND_IN_STEP_S": "0.5"}
    seen: dict[str, set[str]] = {arm: set() for arm in _WATCHED}
    with tempfile.TemporaryDirectory() as root:
        study = Path(root) / "runs" / "watched"
        write_json(
            study / "study.json", {"name": "watched", "question": "", "runs": {arm: {} for arm in _WATCHED}}
        )
        children = [_start(study / arm, arm, environment) for arm in _WATCHED]
        deadline = time.monotonic() + _WAIT_S
        while any(child.poll() is None for child in children) and time.monotonic() < deadline:
            for state in study_states(study):
                seen[state.name].add(state.state)
            time.sleep(0.01)
        states = study_states(study)
        shown, last = (
            table(states),
            {state.name: f"{state.state}: {state.why}".rstrip(": ") for state in states},
        )
        command = [sys.executable, "-m", "ligo.sweep", "log", "vanishes"]
        said = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True).stdout
        _, lines = log_tail(study / "vanishes", 1)
    expected = {arm: ": ".join(filter(None, sweep.EXPECTED[arm])) for arm in _WATCHED}
    right = sum(last[arm] == expected[arm] and {"starting", "running"} <= seen[arm] for arm in _WATCHED)
    told = lines == ["vanishes is about to work"] == said.splitlines()[-1:]
    return {
        "runs that the status table shows starting, going on and ending, with the reason": row(
            right, 3, right == 3
        ),
        "the last lines of a crashed run's log, commands away": row(1 if told else None, 1, told),
    }, {
        "table": shown.splitlines(),
        "seen": {arm: sorted(states) for arm, states in seen.items()},
        "log": lines,
    }


def _start(folder: Path, arm: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """One attempt at a run of the stand-in, as a sweep starts it."""
    code = "import sys; from pathlib import Path; from ligo.sweeps.attempt import run_once; run_once(Path(sys.argv[1]), sys.argv[2:])"
    loud = ["sh", "-c", 'echo "$0 is about to work"; exec "$@"', arm]
    run = [
        *loud,
        sys.executable,
        "-m",
        "tests.sweeps.stand_in",
        f"run.dir={folder}",
        f"run.name={arm}",
        "seed=0",
    ]
    return subprocess.Popen([sys.executable, "-c", code, str(folder), *run], env=environment)


MEASURES = (flop_rows, table_3_rows, *report.MEASURES, *sweep.MEASURES, watched_rows)


if __name__ == "__main__":
    quiet_libraries()
    finish("compare", *run_measures(MEASURES))
