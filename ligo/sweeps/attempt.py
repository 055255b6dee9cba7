"""One attempt at one run: a child process, its log, and a lock that lives exactly as long as the child.

The child inherits the open lock. Whoever started it may be killed: while the child lives nobody else can take the lock,
and when it is gone, however it went, the lock is free. So nobody has to trust process ids, and no run is done twice at once.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ligo.core.files import read_json, write_json
from ligo.core.launcher import EXIT_CODE_FILE

LOGS = "logs"


@dataclass(frozen=True)
class Attempt:
    """What `logs/attempts.json` says of one start of a run."""

    started: float
    """Seconds since 1970."""
    log: str
    """Name of the log file in `logs/`."""
    where: str
    """local, or the Slurm job."""
    status_before: int | None
    """When STATUS was last written before this attempt (ns since 1970): a later one is this attempt's own."""
    ended: float | None = None
    exit_code: int | None = None
    """None while it runs, and for ever where nobody was left to see it end; -9: killed by signal 9."""


def attempts(folder: Path) -> list[Attempt]:
    """All attempts at the run in `folder`, oldest first."""
    path = folder / LOGS / "attempts.json"
    return [Attempt(**values) for values in read_json(path)] if path.exists() else []


def is_locked(folder: Path) -> bool:
    """Whether some process works on the run in `folder` just now."""
    return is_held(folder / LOGS / "lock")


def is_held(path: Path) -> bool:
    """Whether some process holds a lock on a file."""
    if not path.exists():
        return False
    with open(path, "rb") as lock:
        return not _take(lock.fileno(), fcntl.LOCK_SH)


def status_time(folder: Path) -> int | None:
    """When STATUS was last written (ns since 1970), or None."""
    try:
        return (folder / "STATUS").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def run_once(
    folder: Path,
    command: Sequence[str],
    *,
    where: str = "local",
    environment: Mapping[str, str] | None = None,
    is_finished: Callable[[], bool] = lambda: False,
    on_start: Callable[[subprocess.Popen[bytes]], None] = lambda child: None,
) -> int | None:
    """Run `command` once, unless the run is finished or somebody else is at it.

    Args:
        environment: variables to add.
        is_finished: asked once the lock is held.
        on_start: gets the child, to stop it.

    Returns:
        The exit code, or None where nothing was started.
    """
    with _locked(folder) as lock:
        if lock is None or is_finished():
            return None
        before = attempts(folder)
        now = Attempt(
            started=time.time(),
            log=f"attempt-{len(before) + 1:03}.log",
            where=where,
            status_before=status_time(folder),
        )
        _record(folder, [*before, now])
        said = folder / LOGS / "exit-code"
        said.unlink(missing_ok=True)
        with open(folder / LOGS / now.log, "ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, EXIT_CODE_FILE: str(said.absolute()), **(environment or {})},
                pass_fds=[lock],
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which passes it on once
            )
        on_start(child)
        exit_code = child.wait()
        if exit_code and said.is_file():  # what its ranks ended with, which torchrun does not pass on
            exit_code = int(said.read_text())
        record_end(folder, exit_code)
        return exit_code


def record_end(folder: Path, exit_code: int) -> None:
    """Write down how the newest attempt ended; for the one who holds its lock."""
    *before, last = attempts(folder)
    _record(folder, [*before, replace(last, ended=time.time(), exit_code=exit_code)])


def log_tail(folder: Path, lines: int) -> tuple[Path | None, list[str]]:
    """The newest log of a run, and its last lines."""
    logs = sorted((folder / LOGS).glob("attempt-*.log"))
    if not logs:
        return None, []
    return logs[-1], logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]


def _record(folder: Path, all_attempts: list[Attempt]) -> None:
    values: list[dict[str, Any]] = [asdict(attempt) for attempt in all_attempts]
    write_json(folder / LOGS / "attempts.json", values)


@contextmanager
def _locked(folder: Path) -> Iterator[int | None]:
    """The open lock of a run, or None while another process holds it."""
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOGS / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for _ in range(10):
            if held := _take(lock, fcntl.LOCK_EX):
                break
            time.sleep(0.05)  # who only looks (`is_locked`) holds it for an instant
        yield lock if held else None
    finally:
        os.close(lock)


def _take(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
