"""python -m ligo.sweep: many runs of ligo.grow, as a study or as a plain grid; how they stand; their logs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from ligo.config import options
from ligo.core.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, ConfigError, Interrupted, LigoError
from ligo.core.log import say
from ligo.core.permissions import take_permissions
from ligo.study import compose_sweep, make_cells
from ligo.sweeps.attempt import log_tail
from ligo.sweeps.follow import Follower
from ligo.sweeps.grid import StudyConfig
from ligo.sweeps.slurm import slurm_placed
from ligo.sweeps.status import find_run, find_study, planned, study_states, table
from ligo.sweeps.submit import ClusterConfig

RUNS = Path("runs")
_LOG_LINES = 40

USAGE = """Run many growths: each arm of a study at each size, its peak rate searched until the best is bracketed, then other seeds.

  python -m ligo.sweep +study=NAME [cluster=local cluster.workers=2] [options of ligo.grow]
  python -m ligo.sweep operator=exact,stack seed=0,1 [options of ligo.grow]      a plain grid: every combination
  python -m ligo.sweep status [STUDY]                                            how runs stand, and why
  python -m ligo.sweep log RUN                                                   the last lines of a run's log

The same command goes on where a sweep was stopped or killed: finished runs are left alone, cut ones go on."""


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
    else:
        sweep(arguments)


def sweep(arguments: Sequence[str]) -> None:
    """Run a study, or a grid, to its end; nothing starts before every arm has been composed, checked and planned."""
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


def help_text() -> str:
    """Usage, studies, launchers, and the options that are not those of ligo.grow."""
    lines = [
        USAGE,
        "",
        f"Studies: {', '.join(options('study'))}.  Clusters: {', '.join(options('cluster'))}.",
        "",
    ]
    lines.append("Options, and their defaults; all others are those of python -m ligo.grow --help:")
    for group, schema in (("study", StudyConfig()), ("cluster", ClusterConfig())):
        lines += [f"  {group}.{field.name}={getattr(schema, field.name)}" for field in fields(schema)]
    return "\n".join(lines)


def _stopped(number: int, _frame: object) -> NoReturn:
    raise Interrupted(f"stopped by {signal.Signals(number).name}; the same command goes on", EXIT_PREEMPTED)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _stopped)
    try:
        main(take_permissions(sys.argv[1:]))
    except LigoError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is missing", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
