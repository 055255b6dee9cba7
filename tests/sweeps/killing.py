"""A sweep that is killed again and again, children and all, and what is left of it in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ligo.core.run import Run
from ligo.sweeps.attempt import attempts
from ligo.sweeps.status import planned, study_states
from ligo.tracking.jsonl import read_records
from tests.conftest import REPO
from tests.sweeps.stand_in import STEPS

STAND_IN = f"cluster.command=[{sys.executable},-m,tests.sweeps.stand_in]"


def start_sweep(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`python -m ligo.sweep` in a folder, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ligo.sweep", *arguments],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def descendants(pid: int) -> Iterator[int]:
    """All processes below one."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = [int(child) for child in children.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in found:
            yield child
            yield from descendants(child)


def kill_family(sweep: subprocess.Popen[str]) -> None:
    """kill -9 of a sweep and of everything that it started."""
    family = [sweep.pid, *descendants(sweep.pid)]
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    sweep.communicate()


def killed_sweep(
    folder: Path, *, num_runs: int, kills: int, workers: int = 2, seed: int = 0
) -> dict[str, Any]:
    """Start a sweep of `num_runs` runs, kill it `kills` times at random times while runs go on, then let it finish.

    Returns:
        num_runs, finished, double (runs with a step recorded twice, or more than one attempt that ended well), kills that
        cut a run, attempts.
    """
    num_arms = 4
    arguments = (
        "study.name=killed", f"study.seeds={[*range(num_runs // num_arms)]}".replace(" ", ""),
        "operator=exact,stack,interpolate,pad", "stages=[write]", STAND_IN, f"cluster.workers={workers}",
    )  # fmt: skip
    study, dice, cut = folder / "runs" / "killed", random.Random(seed), 0
    for _ in range(kills):
        sweep = start_sweep(folder, *arguments)
        begun = len(list(study.glob("*/logs/attempt-*.log")))
        while sweep.poll() is None and len(list(study.glob("*/logs/attempt-*.log"))) == begun:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 1.5))
        kill_family(sweep)
        cut += sum(state.state == "crashed" for state in study_states(study))
    last = start_sweep(folder, *arguments)
    output, _ = last.communicate()
    assert last.returncode == 0, output
    finished = [state for state in study_states(study) if state.state == "finished"]
    double = []
    for name in planned(study):
        steps = Counter(record["step"] for record in read_records(Run(study / name).metrics))
        well = sum(attempt.exit_code == 0 for attempt in attempts(study / name))
        if well > 1 or steps != dict.fromkeys(range(1, STEPS + 1), 1):
            double.append(name)
    return {
        "num_runs": len(planned(study)), "finished": len(finished), "double": double, "runs_cut": cut,
        "attempts": sum(len(attempts(study / name)) for name in planned(study)),
    }  # fmt: skip
