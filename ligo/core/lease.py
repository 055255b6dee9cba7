"""One writer per folder: a file that says who holds it, locked while its holder lives.

The lock (flock) ends with the process, however that ends. Where a file system does not carry locks from one
machine to the next, a heartbeat tells a holder elsewhere that lives from one that is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ligo.core.errors import CheckpointError, disk_full
from ligo.core.log import warn

LEASE = "LEASE"
_HEARTBEAT_S = 10.0
_STALE_AFTER_S = 60.0


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
            os.ftruncate(handle, 0)  # nobody holds it; the file stays, for whoever waits at it
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except BlockingIOError:
        locked = False
    except OSError:  # a file system without locks
        locked = True
    holder = _read(handle)
    age = time.time() - os.fstat(handle).st_mtime
    elsewhere = holder is not None and holder["host"] != socket.gethostname()
    if not locked or (elsewhere and age < _STALE_AFTER_S):
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
        warn(
            f"process {holder['pid']} on {holder['host']} held {path.parent} and is gone "
            f"(last seen {age:.0f} s ago); taking over"
        )
    _write(handle)


def _read(handle: int) -> dict[str, Any] | None:
    """Who wrote the file last and did not take leave; None too where that cannot be read."""
    try:
        holder = json.loads(os.pread(handle, 4096, 0) or b"null")
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
        os.utime(handle)


def _boot_id() -> str:
    """Of this start of the machine: process ids mean nothing in another one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
