"""How a command ends: in words and with a documented exit code, whatever went wrong.

What is foreseen is a `LigoError` already. Of the rest, what the machine or a library ran into is put in words here, so
that the same command can be started again; what is left is an error of ligo, and says where. A traceback is shown where
LIGO_DEBUG=1 asks for it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import select
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from ligo.core import distributed, units
from ligo.core.errors import (
    EXIT_INTERRUPTED,
    EXIT_PREEMPTED,
    OUT_OF_MEMORY,
    CheckpointError,
    ConfigError,
    Interrupted,
    LigoError,
    ResourceError,
    disk_full,
)
from ligo.core.launcher import leave_exit_code
from ligo.core.redact import redact, redacted_output

GOES_ON = "the same command goes on from the last finished stage or checkpoint"

_OFFLINE = {
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ECONNRESET,
    errno.ECONNABORTED, errno.ETIMEDOUT, errno.EPIPE,
}  # fmt: skip
_NETWORK_LIBRARIES = {"aiohttp", "httpcore", "httpx", "openai", "requests", "urllib", "urllib3"}
_LOST_RANK = re.compile(
    r"connection (?:closed|reset) by peer|timed out waiting|nccl.*(?:remote process|abort)", re.IGNORECASE
)


@contextmanager
def ending(goes_on: str = GOES_ON) -> Iterator[None]:
    """Run a command in the block: secrets are kept out of what it prints, and what it raises becomes words and an exit.

    Args:
        goes_on: what to say after Ctrl-C.

    Raises:
        SystemExit: with the exit code, where the block did not end well.
    """
    logging.raiseExceptions = (
        is_debugging()
    )  # else the log of a library that cannot be written prints tracebacks
    with redacted_output():
        try:
            yield
            sys.stdout.flush()  # what cannot be printed is seen here, and not when Python ends
        except (Exception, KeyboardInterrupt) as error:
            unread = _leave_broken_output()
            if isinstance(error, BrokenPipeError) and unread:  # the reader, `head` say, has seen enough
                sys.exit(0)
            told = explain(error, goes_on)
            _complain(error, told)
            leave_exit_code(told.exit_code)
            sys.exit(told.exit_code)


def interrupted_early(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In the place of `sys.excepthook`: Ctrl-C while a command is still being imported."""
    if issubclass(kind, KeyboardInterrupt) and not is_debugging():
        _complain(error, explain(error))
    else:
        sys.__excepthook__(kind, error, trace)


def explain(error: BaseException, goes_on: str = GOES_ON) -> LigoError:
    """What went wrong as an error with words and an exit code; a `LigoError` as it is."""
    if isinstance(error, LigoError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"interrupted; {goes_on}", EXIT_INTERRUPTED)
    known = _memory(error) or _network(error) or _other_rank(error) or _library(error)
    if known is not None:
        return known
    if isinstance(error, OSError):
        return _system(error)
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({os.path.basename(frame[0].filename)}, line {frame[0].lineno})" if frame else ""
    return LigoError(
        f"{type(error).__name__}: {_first_line(error)}{where}. This is an error of ligo; {goes_on}.\n"
        "  Try: LIGO_DEBUG=1 before the command, which shows where; python -m ligo.doctor has what a report needs"
    )


def _leave_broken_output() -> bool:
    """Let go of what is still to be printed, where that cannot be: to a closed pipe or a full disk. Whether it was so."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, as in notebooks
        return False
    reader = select.poll()
    reader.register(number, select.POLLOUT)
    broken = any(event & select.POLLERR for _, event in reader.poll(0))
    try:
        sys.stdout.flush()
    except OSError:
        broken = True
    if broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return broken


def is_debugging() -> bool:
    """Whether tracebacks are asked for: LIGO_DEBUG=1."""
    return os.environ.get("LIGO_DEBUG", "0") not in ("", "0")


def _memory(error: BaseException) -> ResourceError | None:
    """Of the host (MemoryError, torch's CPU allocator, a map that the system refuses) or of a GPU."""
    text = str(error)
    on_gpu = type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text
    on_host = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not (
        on_gpu
        or on_host
        or (isinstance(error, (RuntimeError, ImportError, SystemError)) and OUT_OF_MEMORY.search(text))
    ):
        return None
    wanted = re.search(r"allocate (\d+) bytes", text)
    detail = f"{units.num_bytes(int(wanted[1]))} could not be had" if wanted else _first_line(error)
    place, also = ("a GPU", "") if on_gpu else ("this machine", "end other programs; or ")
    return ResourceError(
        f"the memory of {place} is not enough: {detail}. What was saved is kept.\n"
        f"  Try: {also}train.micro_batch_tokens= one window, train.activation_checkpointing=full or deepspeed=zero3 in another "
        "run.dir=DIR; python -m ligo.plan says what each takes"
    )


def _network(error: BaseException) -> LigoError | None:
    """A name that is not found, a connection that is refused or lost, an answer that does not come."""
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    offline = isinstance(error, OSError) and error.errno in _OFFLINE
    if not (
        offline
        or isinstance(error, (ConnectionError, TimeoutError))
        or type(error).__name__
        in ("gaierror", "CommError", "OfflineModeIsEnabled", "LocalEntryNotFoundError")
        or libraries & _NETWORK_LIBRARIES
    ):
        return None
    return Interrupted(
        f"the network does not answer: {_first_line(error)}. What was saved is kept.\n"
        "  Try: the same command once it does, which goes on; or files on this machine, and tracking.wandb=offline",
        EXIT_PREEMPTED,
    )


def _other_rank(error: BaseException) -> LigoError | None:
    """What a rank is told when another one is gone; that one has said why."""
    of_ranks = type(error).__module__.startswith("torch.distributed") or type(error).__name__.startswith(
        "Dist"
    )
    if not (of_ranks or (isinstance(error, RuntimeError) and _LOST_RANK.search(str(error)))):
        return None
    return Interrupted(
        f"another rank is gone: {_first_line(error)}. It may have said why.\n"
        "  Try: the same command, which goes on from the last checkpoint",
        EXIT_PREEMPTED,
    )


def _library(error: BaseException) -> LigoError | None:
    """Errors that Hydra, W&B and safetensors have for what they are given."""
    library, name = type(error).__module__.partition(".")[0], type(error).__name__
    if library in ("hydra", "omegaconf"):
        return ConfigError(
            f"the configuration cannot be composed: {_first_line(error)}\n  Try: --help, which lists the options"
        )
    if library == "wandb":
        return ConfigError(
            f"W&B stops: {_first_line(error)}\n  Try: tracking.wandb=offline, or tracking=jsonl"
        )
    if name == "SafetensorError":
        return CheckpointError(
            f"a file of weights cannot be used: {_first_line(error)}\n  Try: the file again, from where it came"
        )
    return None


def _system(error: OSError) -> LigoError:
    """What the system refuses: a full disk, a folder that may not be written, too many open files, and the rest."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ResourceError(
            "too many files are open at once (a limit of this machine).\n  Try: ulimit -n 4096 before the command"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(error, error.filename or "a file")
    return ResourceError(
        f"cannot use {error.filename or 'a file'}: {error.strerror or _first_line(error)}.\n"
        "  Try: ls -ld, which shows who may; or another folder, run.dir=DIR"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300].rstrip(".")


def _complain(error: BaseException, told: LigoError) -> None:
    """Print the words; they may be all that there is room for."""
    rank = distributed.rank()
    # notes say where a traceback was left
    lines = [f"{type(told).__name__}: {told}", *(f"  {note}" for note in getattr(error, "__notes__", ()))]
    with suppress(OSError):
        if is_debugging():
            print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
        for line in lines:
            print(line if rank == 0 else f"rank {rank}: {line}", file=sys.stderr, flush=True)
