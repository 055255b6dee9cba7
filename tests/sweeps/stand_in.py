"""Stands in for ligo.grow where a test is about sweeps: the same run folder, kept by the same code, in a fifth of a second.

`cluster.command=[python, -m, tests.sweeps.stand_in]` has a sweep start this instead. It takes ligo.grow's options, does a few
steps of nothing, each recorded in metrics.jsonl, goes on from where it was cut, and leaves a loss that is best at a rate of
2e-3. The name of its arm may ask for trouble: diverges, fails, vanishes, preempted, refuses.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path

from ligo.core.errors import EXIT_PREEMPTED, ConfigError, DataError, Interrupted, LigoError, NumericsError
from ligo.core.run import Run
from ligo.tracking.jsonl import JsonlTracker, read_records

STEPS = 5
STEP_S = float(os.environ.get("STAND_IN_STEP_S", "0.02"))


def loss_at(rate: float, seed: int) -> float:
    """A parabola in log2(rate) with its bottom at 2e-3."""
    return 4.0 + 0.1 * (math.log2(rate) - math.log2(2e-3)) ** 2 + 0.01 * seed


def work(options: dict[str, str]) -> None:
    folder, seed = Path(options["run.dir"]), int(options["seed"])
    arm = options["run.name"]
    stages = options.get("stages", "[train]").strip("[]").split(",")
    if arm == "refuses":
        raise ConfigError("this cannot be.\n  Try: something else")
    run = Run(folder)
    run.open(
        {"options": {k: v for k, v in options.items() if not k.startswith("run.")}},
        f"stages: [{stages[0]}]\n",
        seed,
    )
    with run.keeping_status():
        tracker = JsonlTracker(run.metrics, run.summary)
        records = read_records(run.metrics)
        tracker.rewind(stages[0], len(records))
        for step in range(len(records) + 1, STEPS + 1):
            time.sleep(STEP_S)
            if step == STEPS - 1:
                trouble(arm, folder)
            tracker.log({"arm": stages[0], "step": step, "pid": os.getpid()})
        rate = float(options.get("train.lr", options.get("scratch.lr", "2e-3")))
        for stage in stages:
            run.finish_stage(stage, {"loss": loss_at(rate, seed)})


def trouble(arm: str, folder: Path) -> None:
    if arm == "fails":
        raise DataError("the text is gone.\n  Try: another")
    if arm == "diverges":
        raise NumericsError("the loss is nan at step 4.\n  Try: a lower rate")
    if arm == "vanishes":
        os.kill(os.getpid(), signal.SIGKILL)
    if arm == "preempted" and not (folder / "was-preempted").exists():
        (folder / "was-preempted").touch()
        raise Interrupted("stopped by SIGTERM", EXIT_PREEMPTED)


def stopped(number: int, _frame: object) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}", EXIT_PREEMPTED)


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):  # as ligo.grow does
        signal.signal(number, stopped)
    options = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:])
    try:
        work(options)
    except LigoError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
