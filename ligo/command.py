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
    compose_from_file,
    compose_options,
    conf_dir,
    multirun_words,
    options,
    readable,
    register_schemas,
)
from ligo.core import distributed
from ligo.core.errors import (
    EXIT_INTERRUPTED,
    EXIT_PREEMPTED,
    ConfigError,
    Interrupted,
    LigoError,
    check_installed,
)
from ligo.core.launcher import end_with_launcher
from ligo.core.libraries import share_cores

Task = Callable[[Any, str], float | None]
"""A command's work: the config, and the same as resolved YAML; gives back what a search is to minimise, if anything."""


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
        print(help_text(description, examples, command))
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


def help_text(description: str, examples: tuple[str, ...], command: Options) -> str:
    """Usage, groups with their options, every key with its default, examples."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    register_schemas(command)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        defaults = OmegaConf.to_yaml(hydra_compose(command.root), resolve=True)
    groups = "\n".join(
        f"  {group:<11}{', '.join(options(group))}" for group in command.groups if options(group)
    )
    shown = "\n".join(f"  {example}" for example in examples)
    return (
        f"{description}\n\nExamples:\n{shown}\n\nGroups, as group=name (a plus in front is allowed):\n{groups}\n\n"
        f"Options, as key=value, and their defaults:\n"
        + "\n".join("  " + line for line in defaults.splitlines())
        + "\n\nOr --config FILE alone: a file that holds all of them, such as a run's config.yaml."
        "\n\nExit codes: 0 ok, 2 usage or config, 3 data, 4 checkpoint, 5 memory or disk, 6 numerics, "
        "75 pre-empted, 130 interrupted."
    )


def _complain(message: str) -> None:
    rank = distributed.rank()
    print(message if rank == 0 else f"rank {rank}: {message}", file=sys.stderr, flush=True)
