"""Follow a study to its end: submit what it still needs, look, and ask again what it needs now."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ligo.core.errors import Interrupted, LigoError, ResourceError
from ligo.core.files import read_json, write_json
from ligo.core.log import say
from ligo.core.run import Run
from ligo.sweeps.grid import Cell, Outcome, StudyConfig, Trial, outcomes_of
from ligo.sweeps.slurm import SlurmLauncher
from ligo.sweeps.status import RunState, read_state, table, with_launcher
from ligo.sweeps.submit import ClusterConfig, Job, Launcher, LocalLauncher, run_command

_POLL_S = {"local": 0.5, "slurm": 2.0}
_ALIVE = ("running", "starting", "queued")


class UnfinishedError(LigoError):
    """Runs that the study needs and that did not finish."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Follower:
    """One study on one cluster. All that it knows lies in the run folders, so it may be killed and started again."""

    def __init__(
        self, study: StudyConfig, cells: Sequence[Cell], cluster: ClusterConfig, folder: Path
    ) -> None:
        self._study, self._cells, self._cluster, self._folder = study, cells, cluster, folder
        self._launcher: Launcher = (
            SlurmLauncher(cluster, folder)
            if cluster.name == "slurm"
            else LocalLauncher(cluster.workers, cluster.processes)
        )
        self._submitted: Counter[str] = Counter()  # by this process
        self._states: dict[str, RunState] = {}

    def run(self) -> list[Outcome]:
        """Try what is not finished until all is, or nothing more can be done.

        Raises:
            UnfinishedError: with the exit code of the first run that failed.
            Interrupted: the sweep was stopped; its local runs saved their checkpoints.
        """
        with _display() as show:
            try:
                while True:
                    outcomes = self._look()
                    trials = _distinct(outcomes)
                    self._write_down(trials)
                    todo = [trial for trial in trials if self._is_due(trial)]
                    self._submit(todo)
                    show(list(self._states.values()), self._rows(trials))
                    if not todo and not any(self._state(trial).state in _ALIVE for trial in trials):
                        break
                    time.sleep(_POLL_S[self._cluster.name])
            except (KeyboardInterrupt, Interrupted) as stop:
                self._launcher.stop(signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
                raise
        self._finish(outcomes)
        return outcomes

    # --- what is, and what is to be done --------------------------------------------------------------------

    def _look(self) -> list[Outcome]:
        self._states = {}
        self._placed = self._launcher.placed()
        return outcomes_of(self._study, self._cells, self._loss)

    def _state(self, trial: Trial) -> RunState:
        if trial.name not in self._states:
            state = read_state(trial.folder, trial.stages)
            self._states[trial.name] = with_launcher(state, self._placed.get(trial.name))
        return self._states[trial.name]

    def _loss(self, trial: Trial) -> float | None:
        state = self._state(trial)
        if state.diverged:
            return math.inf
        if state.state != "finished" or trial.loss_stage is None:
            return None
        return float(Run(trial.folder).stage_results()[trial.loss_stage]["loss"])

    def _is_due(self, trial: Trial) -> bool:
        """Whether a run is to be tried now: once by each sweep, and again where its machine was taken away."""
        state, tried = self._state(trial), self._submitted[trial.name]
        if state.state in ("finished", *_ALIVE) or state.diverged:
            return False
        return tried == 0 or (state.state == "preempted" and tried <= self._cluster.max_restarts)

    def _submit(self, trials: Sequence[Trial]) -> None:
        jobs = [
            Job(trial.folder, trial.stages, run_command(self._cluster, trial.options)) for trial in trials
        ]
        self._launcher.submit(jobs)
        self._submitted.update(trial.name for trial in trials)

    # --- what is said ---------------------------------------------------------------------------------------

    def _rows(self, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
        return {trial.name: {"seed": trial.seed, "rate": trial.rate} for trial in trials}

    def _write_down(self, trials: Sequence[Trial]) -> None:
        """study.json: what the study is, and its runs as far as they are known."""
        runs = {
            trial.name: {
                "arm": trial.arm, "size": trial.size, "seed": trial.seed, "rate": trial.rate,
                "stages": list(trial.stages), "options": list(trial.options),
            }
            for trial in trials
        }  # fmt: skip
        path = self._folder / "study.json"
        before = read_json(path)["runs"] if path.exists() else {}
        runs = {name: run for name, run in before.items() if (self._folder / name).exists()} | runs
        if runs != before:
            write_json(path, {"name": self._study.name, "question": self._study.question, "runs": runs})

    def _write_rates(self, outcomes: Sequence[Outcome]) -> None:
        """rates.json: what was found of each arm; arms that this sweep leaves out keep what an earlier one found."""
        path, now = self._folder / "rates.json", [_as_json(found) for found in outcomes]
        done = {(row["arm"], row["size"]) for row in now}
        before = read_json(path) if path.exists() else []
        kept = [
            row for row in before
            if (row["arm"], row["size"]) not in done and all((self._folder / name).exists() for name in row["runs"])
        ]  # fmt: skip
        write_json(path, kept + now)

    def _finish(self, outcomes: Sequence[Outcome]) -> None:
        trials = _distinct(outcomes)
        say(table(self._states.values(), self._rows(trials)))
        self._write_rates(outcomes)
        if any(found.losses for found in outcomes):
            say("\n" + results_table(outcomes, len(self._study.seeds)))
        left = [self._states[t.name] for t in trials if self._states[t.name].state != "finished"]
        left = [state for state in left if not state.diverged]
        if left:
            worst = left[0]
            code = worst.exit_code if worst.exit_code and worst.exit_code > 0 else ResourceError.exit_code
            raise UnfinishedError(
                f"{len(left)} of {len(trials)} runs did not finish; the first: {worst.name} {worst.state}: {worst.why}\n"
                f"  Try: python -m ligo.sweep log {worst.name}; the same sweep goes on with what is missing",
                code,
            )


def results_table(outcomes: Sequence[Outcome], num_seeds: int) -> str:
    """Arms by loss: best rate, whether it is bracketed, mean and deviation over seeds."""
    ordered = sorted(outcomes, key=lambda found: (found.size, math.inf if found.mean is None else found.mean))
    width = max(len(_label(found)) for found in ordered)
    lines = [f"  {'arm':<{width}}  {'rate':>8}  {'bracketed':<9}  {'loss':>8}  {'+-':>7}  seeds"]
    for found in ordered:
        rate = "" if found.best_rate is None else f"{found.best_rate:g}"
        bracketed = {None: "not swept", True: "yes", False: "no"}[found.bracketed]
        loss = "" if found.mean is None else f"{found.mean:.4f}"
        spread = "" if found.deviation is None else f"{found.deviation:.4f}"
        lines.append(
            f"  {_label(found):<{width}}  {rate:>8}  {bracketed:<9}  {loss:>8}  {spread:>7}  {len(found.losses)} of {num_seeds}"
        )
    return "\n".join(lines)


def _label(found: Outcome) -> str:
    return f"{found.arm} ({found.size})" if found.size else found.arm


def _as_json(found: Outcome) -> dict[str, Any]:
    finite = [loss if math.isfinite(loss) else None for loss in found.losses]
    return {
        "arm": found.arm, "size": found.size, "best_rate": found.best_rate, "bracketed": found.bracketed,
        "rates_tried": sorted({trial.rate for trial in found.trials if trial.rate is not None}),
        "finished": list(found.finished), "losses": finite, "mean": found.mean if found.mean is not None and math.isfinite(found.mean) else None,
        "deviation": found.deviation, "runs": [trial.name for trial in found.trials],
    }  # fmt: skip


def _distinct(outcomes: Sequence[Outcome]) -> list[Trial]:
    return list({trial.name: trial for found in outcomes for trial in found.trials}.values())


@contextmanager
def _display() -> Iterator[Any]:
    """Show the table as it changes: in place on a terminal, elsewhere a line for each run that changed."""
    if sys.stdout.isatty():
        from rich.live import Live
        from rich.text import Text

        with Live(transient=True, auto_refresh=False) as live:
            yield lambda states, rows: live.update(Text(table(states, rows)), refresh=True)
        return
    before: dict[str, str] = {}

    def lines(states: list[RunState], _: Any) -> None:
        for state in states:
            if before.get(state.name, "waiting") != state.state:
                loss = "" if state.loss is None else f"  loss {state.loss:.4f}"
                say(f"{state.name}: {state.state}{loss}" + (f": {state.why}" if state.why else ""))
            before[state.name] = state.state

    yield lines
