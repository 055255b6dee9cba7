"""What every command line has in common: help, how it ends, secrets that were typed, Hydra's multirun."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ligo.config import GROW
from ligo.core import distributed
from ligo.core.ending import ending
from ligo.core.errors import EXIT_PREEMPTED, ConfigError, Interrupted, check_installed
from ligo.core.launcher import end_with_launcher
from ligo.core.libraries import share_cores
from ligo.core.log import warn
from ligo.core.permissions import take_permissions
from ligo.core.redact import redact
from ligo.help import help_text
from ligo.options import Options, compose_from_file, compose_options, conf_dir, multirun_words, readable

Task = Callable[[Any, str], float | None]
"""A command's work: the config, and the same as resolved YAML; gives back what a search is to minimise, if anything."""


def main(task: Task, description: str, examples: tuple[str, ...], command: Options = GROW) -> None:
    """Compose the config from sys.argv, or read it from `--config FILE`, run the task, and exit with the documented code."""
    with ending():
        end_with_launcher()
        distributed.adopt_slurm_variables()
        share_cores()
        for number in (signal.SIGTERM, signal.SIGUSR1):  # what clusters send before they take a machine away
            signal.signal(number, _preempted)
        # deepspeed's launcher appends --local_rank=N; the LOCAL_RANK variable says the same
        arguments = take_permissions([a for a in sys.argv[1:] if not a.startswith("--local_rank")])
        if {"-h", "--help"} & set(arguments):
            print(help_text(description, examples, command, arguments))
        elif {"-m", "--multirun"} & set(arguments):
            refuse_secrets(arguments, "a sweep writes its options down for the runs that it starts")
            _multirun(task, arguments, command)
        else:
            task(*read_config(arguments, command))


def read_config(arguments: list[str], command: Options = GROW) -> tuple[Any, str]:
    """The config of a command line: options, or `--config FILE` alone.

    Raises:
        ConfigError: as `compose_options` does, or there are options beside the file.
    """
    if "--config" not in arguments:
        if typed := _with_secret(arguments):
            warn(
                f"{typed} holds a secret, which lists of processes and shells show; it is kept out of all files"
            )
        return compose_options(arguments, command)
    if len(arguments) != 2 or arguments[0] != "--config":
        raise ConfigError(
            "--config FILE holds all options already, and takes no others beside it.\n"
            "  Try: --config FILE alone, or the options without it"
        )
    return compose_from_file(Path(arguments[1]), command)


def refuse_secrets(
    arguments: Iterable[str],
    why: str,
    instead: str = "export it as a variable, and 'KEY=${oc.env:VARIABLE}' in its place",
) -> None:
    """Refuse options that hold a secret where others must be able to read them as they are.

    Raises:
        ConfigError: the option is named, without the secret.
    """
    if typed := _with_secret(arguments):
        raise ConfigError(f"{typed} holds a secret, and {why}.\n  Try: {instead}")


def _with_secret(arguments: Iterable[str]) -> str | None:
    """The first option that holds a secret, its secret left out."""
    return next((redact(argument) for argument in arguments if redact(argument) != argument), None)


def _preempted(number: int, _frame: object) -> None:
    raise Interrupted(
        f"stopped by {signal.Signals(number).name}; the same command goes on from the last finished stage",
        EXIT_PREEMPTED,
    )


def _multirun(task: Task, arguments: list[str], command: Options) -> None:
    """Hand a sweep (-m: comma lists, launchers, searches) to Hydra; each job is one ordinary run, in a folder of its own."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    def job(_: object) -> float | None:
        overrides = list(HydraConfig.get().overrides.task)
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()  # composing our checked config needs Hydra for itself
        try:
            config = compose_options(overrides, command)
        finally:
            GlobalHydra.instance().clear()
            GlobalHydra.instance().hydra = outer
        return task(*config)

    words = multirun_words(arguments, command)
    for argument in arguments:
        if argument.startswith("run.dir=") and "," not in argument:
            raise ConfigError(
                f"{argument} is one folder, and each job of -m is a run of its own.\n"
                "  Try: run.study=NAME, for runs/NAME/ with a folder for each"
            )
        if argument in ("hydra/sweeper=optuna", "hydra/sweeper=learning_rate"):
            check_installed("optuna", extra="search", why=argument)
    sys.argv[1:] = words
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        hydra.main(config_path=str(conf_dir()), config_name=command.root, version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(readable(error, command)) from error
