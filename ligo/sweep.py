"""python -m ligo.sweep: many runs of ligo.grow, as a study or as a plain grid; how they stand; their logs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ligo.command import refuse_secrets
from ligo.core.ending import ending
from ligo.core.errors import EXIT_PREEMPTED, ConfigError, Interrupted
from ligo.core.log import say
from ligo.core.permissions import take_permissions
from ligo.help import EXIT_CODES, example_lines, group_lines, option_lines
from ligo.study import SweepConfig, compose_sweep, make_cells
from ligo.sweeps.attempt import log_tail
from ligo.sweeps.follow import Follower
from ligo.sweeps.slurm import slurm_placed
from ligo.sweeps.status import best_run, find_run, find_study, planned, study_states, table

RUNS = Path("runs")
_LOG_LINES = 40

DESCRIPTION = """Run many growths: each arm of a study at each size, its peak rate searched until the best is bracketed, then other seeds.

  python -m ligo.sweep +study=NAME [options]    a study
  python -m ligo.sweep KEY=A,B [options]        a plain grid: every combination of the comma lists
  python -m ligo.sweep status [STUDY]           how runs stand, and why
  python -m ligo.sweep log RUN                  the last lines of a run's log
  python -m ligo.sweep best STUDY [ARM]         the folder of the run with the lowest loss

The same command goes on where a sweep was stopped or killed: finished runs are left alone, cut ones go on."""
EXAMPLES = (
    "python -m ligo.sweep +study=tiny cluster.workers=2",
    "python -m ligo.sweep operator=exact,stack seed=0,1 tracking=jsonl",
)


def main(arguments: Sequence[str]) -> None:
    """Do what the arguments say.

    Raises:
        LigoError: with the exit code that fits.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(help_text())
    elif arguments[0] == "status":
        status(list(arguments[1:]))
    elif arguments[0] == "log":
        log(list(arguments[1:]))
    elif arguments[0] == "best":
        best(list(arguments[1:]))
    else:
        sweep(arguments)


def sweep(arguments: Sequence[str]) -> None:
    """Run a study, or a grid, to its end; nothing starts before every arm has been composed, checked and planned."""
    refuse_secrets(arguments, "a sweep writes its options down for the runs that it starts")
    config, grow_options = compose_sweep(arguments)
    cells = make_cells(config.study, grow_options)
    say(
        f"{config.study.name}: {len(cells)} arms"
        + (f". {config.study.question}" if config.study.question else "")
    )
    Follower(config.study, cells, config.cluster, RUNS / config.study.name).run()


def status(names: list[str]) -> None:
    """Print how the runs of a study, or of all, stand."""
    if names:
        studies = [find_study(RUNS, name) for name in names]
    else:
        studies = sorted(path for path in RUNS.glob("*") if planned(path))
    if not studies:
        raise ConfigError(f"there are no runs in {RUNS}/.\n  Try: python -m ligo.sweep +study=NAME")
    for folder in studies:
        say(f"{folder.name}")
        say(table(study_states(folder, slurm_placed(folder)), planned(folder)))


def log(names: list[str]) -> None:
    """Print the last lines of a run's newest log."""
    if len(names) != 1:
        raise ConfigError("log takes one run.\n  Try: python -m ligo.sweep status, which names them")
    folder = find_run(RUNS, names[0])
    path, lines = log_tail(folder, _LOG_LINES)
    if path is None:
        raise ConfigError(
            f"{folder} has no log: no sweep has started it.\n  Try: python -m ligo.sweep status"
        )
    say("\n".join([f"{path}:", *lines]))


def best(names: list[str]) -> None:
    """Print the folder of a study's best run, for another command to go on with."""
    if len(names) not in (1, 2):
        raise ConfigError(
            "best takes a study and, if wanted, one arm.\n  Try: python -m ligo.sweep best STUDY"
        )
    say(str(best_run(find_study(RUNS, names[0]), *names[1:])))


def help_text() -> str:
    """Usage, examples, studies and clusters, and the options that are not those of ligo.grow."""
    config = SweepConfig()
    lines = [
        DESCRIPTION,
        "",
        *example_lines(EXAMPLES),
        "",
        "Groups, as group=name (a plus in front is allowed):",
    ]
    lines += group_lines("sweep", ("study", "cluster"))
    lines += [
        "",
        "Options, as key=value, with their defaults; all others are those of python -m ligo.grow --help:",
    ]
    return "\n".join([*lines, *option_lines(config), "", EXIT_CODES])


def _stopped(number: int, _frame: object) -> NoReturn:
    raise Interrupted(f"stopped by {signal.Signals(number).name}; the same command goes on", EXIT_PREEMPTED)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _stopped)
    with ending("the same command goes on with what is missing"):
        main(take_permissions(sys.argv[1:]))
