"""Errors that say what is wrong with the value, why, and what to type instead.

Exit codes: 0 ok, 2 usage or config, 3 data, 4 checkpoint, 5 memory or disk, 6 numerics,
75 pre-empted (start again to go on), 130 interrupted; 1 an error of ligo itself.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from types import ModuleType

EXIT_INTERRUPTED, EXIT_PREEMPTED = 130, 75


class LigoError(Exception):
    """Base of every error that ligo raises on purpose; the entry points print it without traceback."""

    exit_code = 1


class ConfigError(LigoError):
    """A wrong option, key or value, or a combination that cannot work."""

    exit_code = 2


class PlanError(ConfigError):
    """A growth that cannot be: the rule that the shapes break is named."""


class DataError(LigoError):
    """Text that cannot be read, is empty, or does not fit the tokenizer or the model."""

    exit_code = 3


class DamagedError(DataError, ValueError):
    """A file of ligo's own that is not as it was written."""


class CheckpointError(LigoError):
    """A checkpoint that cannot be found or cannot be used."""

    exit_code = 4


class ResourceError(LigoError):
    """Not enough disk or memory."""

    exit_code = 5


class NumericsError(LigoError):
    """Losses or weights that are no longer finite."""

    exit_code = 6


class Interrupted(LigoError):
    """Stopped on purpose: 130 after Ctrl-C, 75 when the machine asked for it. The same command goes on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(word: str, options: Iterable[str], *, however_far: bool = False) -> str | None:
    """The option that looks most like `word`, or None when there is none, or none comes close."""
    matches = difflib.get_close_matches(word, list(options), n=1, cutoff=0.0 if however_far else 0.5)
    return matches[0] if matches else None


def check_installed(module: str, *, extra: str, why: str) -> None:
    """Refuse early, without importing it, where an optional module is missing.

    Raises:
        ConfigError: it is not installed; the message names the extra that installs it.
    """
    package = module.split(".")[0]
    loaded = sys.modules.get(package) is not None
    if not loaded and (package in sys.modules or importlib.util.find_spec(package) is None):
        raise ConfigError(
            f"{why} needs the package '{package}', which is not installed.\n"
            f"  Try: pip install 'ligo[{extra}]'"
        )


OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|unable to allocate|not enough memory"
    r"|can't start new thread|failed to map segment|error return without exception set", re.IGNORECASE
)  # fmt: skip
"""What the system and libraries say then; the last is of C extensions, which could not even say that."""


def require(module: str, *, extra: str, why: str) -> ModuleType:
    """Import an optional module, or say which extra installs it.

    Raises:
        ConfigError: the module is not installed, or cannot be imported.
    """
    check_installed(module, extra=extra, why=why)
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # a part of it, or a library of the system, is missing
        if OUT_OF_MEMORY.search(str(error)):
            raise
        package = module.split(".")[0]
        raise ConfigError(
            f"{why} needs the package '{package}', which is installed and cannot be imported: {error}.\n"
            f"  Try: pip install --force-reinstall --no-deps {package}, or do without {why.split(' ')[0]}"
        ) from error


def disk_full(error: OSError, where: object, *, kept: bool = False) -> LigoError:
    """Turn an OSError raised while writing below `where` into a message about the disk.

    Args:
        kept: whether the same command goes on from what has been written.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        go_on = " and start again, what is finished is kept aside" if kept else ""
        return ResourceError(
            f"the disk is full while writing {where}; nothing was left there under its final name.\n"
            f"  Try: free some space{go_on}; or another folder, run.dir=DIR"
        )
    return ResourceError(
        f"cannot write {where}: {error.strerror or error}.\n  Try: another folder, run.dir=DIR"
    )
