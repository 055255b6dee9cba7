"""What every command line has in common: help, errors without traceback, exit codes, Hydra's multirun."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ligo.config import (
    GROW,
    Options,
    check_choices,
    compose_from_file,
    compose_options,
    conf_dir,
    register_schemas,
    strip_plus,
)
from ligo.core import distributed
from ligo.core.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, ConfigError, Interrupted, LigoError
from ligo.core.launcher import end_with_launcher
from ligo.core.libraries import share_cores
from ligo.help import help_text

Task = Callable[[Any, str], None]
"""A command's work: the config, and the same as resolved YAML."""


def main(task: Task, description: str, examples: tuple[str, ...], command: Options = GROW) -> None:
    """Compose the config from sys.argv, or read it from `--config FILE`, run the task, and exit with the documented code."""
    end_with_launcher()
    distributed.adopt_slurm_variables()
    share_cores()
    for number in (signal.SIGTERM, signal.SIGUSR1):  # what clusters send before they take the machine away
        signal.signal(number, _preempted)
    # deepspeed's launcher appends --local_rank=N; the LOCAL_RANK variable says the same
    arguments = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    if {"-h", "--help"} & set(arguments):
        print(help_text(description, examples, command, arguments))
        sys.exit(0)
    try:
        if {"-m", "--multirun"} & set(arguments):
            _multirun(task, arguments, command)
        else:
            task(*read_config(arguments, command))
    except LigoError as error:
        _complain(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on from the last finished stage or checkpoint")
        sys.exit(EXIT_INTERRUPTED)


def read_config(arguments: list[str], command: Options = GROW) -> tuple[Any, str]:
    """The config of a command line: options, or `--config FILE` alone.

    Raises:
        ConfigError: as `compose_options` does, or there are options beside the file.
    """
    if "--config" not in arguments:
        return compose_options(arguments, command)
    if len(arguments) != 2 or arguments[0] != "--config":
        raise ConfigError(
            "--config FILE holds all options already, and takes no others beside it.\n"
            "  Try: --config FILE alone, or the options without it"
        )
    return compose_from_file(Path(arguments[1]), command)


def _preempted(number: int, _frame: object) -> None:
    raise Interrupted(
        f"stopped by {signal.Signals(number).name}; the same command goes on from the last finished stage",
        EXIT_PREEMPTED,
    )


def _multirun(task: Task, arguments: list[str], command: Options) -> None:
    """Hand a sweep (-m, comma lists, launchers) to Hydra; each job is one ordinary run."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    def job(_: object) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()  # composing our checked config needs Hydra for itself
        try:
            config = compose_options(overrides, command)
        finally:
            GlobalHydra.instance().clear()
            GlobalHydra.instance().hydra = outer
        task(*config)

    for argument in arguments:
        if not argument.startswith("-") and not argument.startswith("hydra"):
            check_choices(argument, command.groups)
    register_schemas(command)
    sys.argv[1:] = strip_plus(arguments, command.groups)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    hydra.main(config_path=str(conf_dir()), config_name=command.root, version_base="1.3")(job)()


def _complain(message: str) -> None:
    rank = distributed.rank()
    print(message if rank == 0 else f"rank {rank}: {message}", file=sys.stderr, flush=True)
