"""How runs stand: read from their folders alone, so that anybody can ask at any time."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ligo.core import units
from ligo.core.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, ConfigError, NumericsError, nearest
from ligo.core.files import from_json, read_json
from ligo.core.run import Run
from ligo.sweeps.attempt import LOGS, Attempt, attempts, is_held, is_locked, log_tail, status_time

STATES = (
    "running",  # its process lives and has opened the run folder
    "starting",  # its process lives, but has not come that far
    "crashed",  # its process is gone, and did not say why
    "failed",  # it said why
    "interrupted",  # Ctrl-C: the same command goes on
    "preempted",  # exit code 75: the same command goes on
    "queued",  # its turn comes, here or in Slurm
    "waiting",  # nobody has started it
    "finished",
)
"""In the order of a table: what wants to be seen first."""

_LOG_ERROR_LINES = 60
_SILENCE_S = 600.0  # a run that no sweep started, and that has written nothing for so long, counts as gone


@dataclass(frozen=True)
class RunState:
    """One row of the table."""

    name: str
    state: str
    why: str = ""
    """Why it crashed, failed or waits."""
    step: int | None = None
    """Steps of the arm that is being trained."""
    loss: float | None = None
    """Last validation loss, nats per token or image."""
    num_attempts: int = 0
    exit_code: int | None = None
    """Of the newest attempt, where somebody saw it end."""

    @property
    def diverged(self) -> bool:
        """Whether it failed because losses were no longer finite, which no second attempt changes."""
        return self.state == "failed" and self.exit_code == NumericsError.exit_code


def read_state(folder: Path, stages: Sequence[str] | None = None) -> RunState:
    """How the run in `folder` stands.

    Args:
        stages: those that make it finished, where not all that its STATUS speaks of.
    """
    tries = attempts(folder)
    last = tries[-1] if tries else None
    step, loss = _newest_metrics(folder)
    state = RunState(
        folder.name, "waiting", step=step, loss=loss, num_attempts=len(tries),
        exit_code=last.exit_code if last else None,
    )  # fmt: skip
    status = _status(folder)
    if status == "done" and set(stages or ()) - {"report"} <= set(Run(folder).stage_results()):
        return replace(state, state="finished")
    own = last is None or status_time(folder) != last.status_before  # STATUS is of the newest attempt
    if is_locked(folder):
        return replace(state, state="running" if own and status == "running" else "starting")
    if last is None and status == "running":
        return _by_hand(folder, state)
    if last is None and status is None:
        return state
    return _ended(folder, state, status if own else None, last)


def is_finished(folder: Path, stages: Sequence[str]) -> bool:
    """Whether `stages` are done in `folder`."""
    return read_state(folder, stages).state == "finished"


def _ended(folder: Path, state: RunState, status: str | None, last: Attempt | None) -> RunState:
    """A run that has been started, is not finished, and has no process."""
    code = state.exit_code
    if status is not None and status.startswith("failed"):
        return replace(state, state="failed", why=status.removeprefix("failed: "))
    if code == EXIT_PREEMPTED:
        return replace(state, state="preempted", why="its machine was taken away; the same command goes on")
    if status == "interrupted" or code == EXIT_INTERRUPTED:
        return replace(state, state="interrupted", why="stopped on purpose; the same command goes on")
    if code is not None and code < 0:
        return replace(state, state="crashed", why=f"killed by {signal.Signals(-code).name}")
    if code:
        return replace(state, state="failed", why=_error_in_log(folder) or f"exit code {code}")
    if status == "done" or code == 0:
        return state  # other stages were asked for before
    where = f" (Slurm job {last.where})" if last is not None and last.where != "local" else ""
    return replace(
        state, state="crashed", why=f"its process{where} is gone, and STATUS still says {status or 'nothing'}"
    )


def _by_hand(folder: Path, state: RunState) -> RunState:
    """A run that no sweep started: what it holds and writes tells whether its process lives."""
    lease, by_hand = folder / "LEASE", "not started by a sweep"
    if is_held(lease):
        return replace(state, state="running", why=by_hand)
    signs = [
        path.stat().st_mtime for path in (folder / "STATUS", folder / "metrics.jsonl", lease) if path.exists()
    ]
    silent = time.time() - max(signs)
    if silent < _SILENCE_S:
        return replace(state, state="running", why=f"{by_hand}; wrote {units.seconds(silent)} ago")
    why = f"{by_hand}; STATUS says running, but it wrote nothing for {units.seconds(silent)}"
    return replace(state, state="crashed", why=why)


def _status(folder: Path) -> str | None:
    try:
        return (folder / "STATUS").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def _error_in_log(folder: Path) -> str | None:
    """The line of the newest log that names the error: `SomethingError: ...`."""
    _, lines = log_tail(folder, _LOG_ERROR_LINES)
    named = [
        line.strip() for line in lines if line.split(":")[0].endswith(("Error", "Exception", "Interrupted"))
    ]
    return named[-1] if named else (lines[-1].strip() if lines else None)


def _newest_metrics(folder: Path) -> tuple[int | None, float | None]:
    """Step and validation loss from the end of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return None, None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 16384))
        lines = file.read().decode("utf-8", "replace").splitlines()
    step = loss = None
    for line in reversed(lines):
        try:
            record = from_json(line)
        except ValueError:  # cut at either end
            continue
        step = record.get("step") if step is None else step
        loss = record.get("eval/loss")
        if loss is not None:
            break
    return step, loss


# --- a study --------------------------------------------------------------------------------------------


def planned(study: Path) -> dict[str, dict[str, Any]]:
    """The runs of a study and what each is (arm, size, seed, rate, stages), as its sweep wrote down; also found ones."""
    path = study / "study.json"
    runs: dict[str, dict[str, Any]] = dict(read_json(path)["runs"]) if path.exists() else {}
    for status in sorted(study.glob("*/STATUS")):
        runs.setdefault(status.parent.name, {})
    return runs


def best_run(study: Path, arm: str | None = None) -> Path:
    """The run of a finished study, or of one arm of it, with the lowest final loss, of all seeds at its arm's best rate.

    Args:
        arm: as the table names it: ARM, or ARM (SIZE).

    Raises:
        ConfigError: the study has not come to an end, or has no such arm.
    """
    path = study / "rates.json"
    found = {_label(entry): entry for entry in read_json(path)} if path.exists() else {}
    finished = {
        label: [
            (loss, name)
            for name, loss in zip(entry.get("finished", ()), entry["losses"], strict=False)
            if loss is not None
        ]
        for label, entry in found.items()
    }
    finished = {label: runs for label, runs in finished.items() if runs}
    if not finished:
        raise ConfigError(
            f"the study {study.name} has no results yet.\n  Try: python -m ligo.sweep status {study.name}"
        )
    if arm is not None and arm not in finished:
        close = nearest(arm, finished) or next(iter(finished))
        raise ConfigError(
            f"the study {study.name} has no result of an arm {arm!r}.\n  Arms: {', '.join(finished)}.\n"
            f"  Try: python -m ligo.sweep best {study.name} '{close}'"
        )
    candidates = finished[arm] if arm is not None else [run for runs in finished.values() for run in runs]
    return study / min(candidates)[1]


def _label(entry: Mapping[str, Any]) -> str:
    return f"{entry['arm']} ({entry['size']})" if entry["size"] else str(entry["arm"])


def study_states(study: Path, placed: Mapping[str, tuple[str, str]] | None = None) -> list[RunState]:
    """How all runs of a study stand.

    Args:
        placed: name of a run -> its state and the reason, as a launcher knows them.
    """
    return [
        with_launcher(read_state(study / name, run.get("stages")), (placed or {}).get(name))
        for name, run in planned(study).items()
    ]


def with_launcher(state: RunState, placed: tuple[str, str] | None) -> RunState:
    """The state that the folder tells, or what a launcher knows, where the folder cannot know it."""
    if placed is None or state.state in ("running", "starting", "finished"):
        return state
    return replace(state, state=placed[0], why=placed[1])


def table(states: Iterable[RunState], runs: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The table of a study, for a person to read; the first line counts."""
    ordered = sorted(states, key=lambda state: (STATES.index(state.state), state.name))
    if not ordered:
        return "no runs"
    counted = Counter(state.state for state in ordered)
    lines = [
        f"{len(ordered)} runs: "
        + ", ".join(f"{counted[state]} {state}" for state in STATES if counted[state])
    ]
    width = max(len(state.name) for state in ordered)
    lines.append(
        f"  {'run':<{width}}  {'seed':>4}  {'rate':>8}  {'state':<11}  {'step':>6}  {'loss':>8}  tries  why"
    )
    for state in ordered:
        run = (runs or {}).get(state.name, {})
        rate = "" if run.get("rate") is None else f"{run['rate']:g}"
        loss = "" if state.loss is None else f"{state.loss:.4f}"
        step = "" if state.step is None else str(state.step)
        lines.append(
            f"  {state.name:<{width}}  {run.get('seed', ''):>4}  {rate:>8}  {state.state:<11}  {step:>6}  {loss:>8}"
            f"  {state.num_attempts:>5}  {state.why}".rstrip()
        )
    return "\n".join(lines)


def find_study(root: Path, name: str) -> Path:
    """The folder of a study.

    Raises:
        ConfigError: there is none of that name; the nearest is named.
    """
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if name in there:
        return root / name
    close = nearest(name, there)
    raise ConfigError(
        f"there is no study '{name}' in {root}/.\n  There are: {', '.join(there) or 'none'}.\n"
        f"  Try: python -m ligo.sweep {'status ' + close if close else '+study=NAME to run one'}"
    )


def find_run(root: Path, name: str) -> Path:
    """The folder of a run: its path, its name, or the beginning of its name.

    Raises:
        ConfigError: there is none, or there are several.
    """
    if (Path(name) / LOGS).is_dir():
        return Path(name)
    there = {
        path.name: path
        for path in sorted(root.glob("*/*"))
        if path.is_dir() and not path.name.startswith(".")
    }
    matching = [name] if name in there else [known for known in there if known.startswith(Path(name).name)]
    if len(matching) == 1:
        return there[matching[0]]
    if matching:
        raise ConfigError(
            f"'{name}' is the beginning of {len(matching)} runs: {', '.join(matching[:4])}"
            f"{', ...' if len(matching) > 4 else ''}.\n  Try: python -m ligo.sweep log {matching[0]}"
        )
    close = nearest(name, there)
    raise ConfigError(
        f"there is no run '{name}' in {root}/.\n"
        f"  Try: python -m ligo.sweep {'log ' + close if close else 'status lists them'}"
    )
