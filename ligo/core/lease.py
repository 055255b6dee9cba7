"""One writer per folder: a file that says who holds it, locked while its holder lives.

The lock (flock) ends with the process, however that ends. Where a file system does not carry locks from one machine to the
next, a heartbeat tells a holder elsewhere that lives from one that is gone: it is waited for, and no two clocks are compared,
which may be apart or jump.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ligo.core.errors import CheckpointError, disk_full
from ligo.core.files import from_json
from ligo.core.log import say, warn

LEASE = "LEASE"
_HEARTBEAT_S = 10.0
_GONE_AFTER_S = 30.0
"""Without a heartbeat."""
_TRIES, _BETWEEN_TRIES_S = 10, 0.05  # who only looks whether the lock is held holds it for an instant


@contextmanager
def lease(folder: Path) -> Iterator[None]:
    """Hold `folder` for the length of the block.

    Raises:
        CheckpointError: another process holds it; process, machine and time are named.
        ResourceError: the folder cannot be written.
    """
    path = folder / LEASE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise disk_full(error, path) from error
    try:
        _acquire(handle, path)
        ended = threading.Event()
        beating = threading.Thread(target=_beat, args=(handle, ended), daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            with suppress(OSError):
                os.ftruncate(handle, 0)  # nobody holds it; the file stays, for whoever waits at it
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path) -> None:
    locked, holder = _lock(handle), _read(handle)
    elsewhere = holder is not None and holder["host"] != socket.gethostname()
    if not locked or (elsewhere and _beats(path)):
        who = (
            "another process"
            if holder is None
            else f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
        )
        raise CheckpointError(
            f"{who} is at work in {path.parent}; a second one would mix its files with those.\n"
            "  Try: wait for it, stop it, or another run.dir=DIR"
        )
    if holder is not None:
        warn(f"process {holder['pid']} on {holder['host']} held {path.parent} and is gone; taking over")
    try:
        _write(handle)
    except OSError as error:
        raise disk_full(error, path) from error


def _lock(handle: int) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_BETWEEN_TRIES_S)
        except OSError:  # a file system without locks
            return True
        else:
            return True
    return False


def _beats(path: Path) -> bool:
    """Whether the file's time changes while one looks on."""
    say(f"somebody on another machine held {path.parent}: looking {_GONE_AFTER_S:.0f} s for signs of life")
    before, end = _beat_time(path), time.monotonic() + _GONE_AFTER_S
    while time.monotonic() < end:
        time.sleep(_GONE_AFTER_S / 30)
        if _beat_time(path) != before:
            return True
    return False


def _beat_time(path: Path) -> int:
    """Opened anew each time, which is when network file systems ask their server."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _read(handle: int) -> dict[str, Any] | None:
    """Who wrote the file last and did not take leave; None too where that cannot be read."""
    try:
        holder = from_json(os.pread(handle, 4096, 0) or b"null")
        return {key: holder[key] for key in ("pid", "host", "boot", "since")} if holder else None
    except (ValueError, KeyError, TypeError):
        return None


def _write(handle: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(holder).encode(), 0)
    os.fsync(handle)


def _beat(handle: int, ended: threading.Event) -> None:
    while not ended.wait(_HEARTBEAT_S):
        with suppress(OSError):  # a server that does not answer now may do so in time for the next one
            os.utime(handle)


def _boot_id() -> str:
    """Of this start of the machine: process ids mean nothing in another one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
