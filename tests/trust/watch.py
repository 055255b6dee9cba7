"""Who opens what: Python's own opens by an audit hook, those of compiled libraries by the kernel (inotify)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_IN_OPEN = 0x20
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Opens:
    """The opens below one folder while it is watched; an audit hook cannot be taken off, so there is one for all."""

    _below: str | None = None
    _seen: list[str] | None = None

    @classmethod
    def install(cls) -> None:
        if cls._seen is None:
            cls._seen = []
            sys.addaudithook(cls._audit)

    @classmethod
    def _audit(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and cls._below is not None and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path.startswith(cls._below):
                assert cls._seen is not None
                cls._seen.append(path)

    @classmethod
    @contextmanager
    def below(cls, folder: Path) -> Iterator[list[str]]:
        """A list that is filled, when the block ends, with what was opened in it."""
        cls.install()
        found: list[str] = []
        handle = _libc.inotify_init1(os.O_NONBLOCK)
        for each in (folder, *(inner for inner in folder.rglob("*") if inner.is_dir())):
            if _libc.inotify_add_watch(handle, os.fsencode(each), _IN_OPEN) < 0:
                raise OSError(ctypes.get_errno(), "inotify")
        cls._below, cls._seen = os.path.realpath(folder), []
        try:
            yield found
        finally:
            found += cls._seen
            cls._below = None
            found += _events(handle)
            os.close(handle)


def _events(handle: int) -> list[str]:
    try:
        content = os.read(handle, 2**16)
    except BlockingIOError:
        return []
    found, position = [], 0
    while position < len(content):
        *_, length = _EVENT.unpack_from(content, position)
        position += _EVENT.size
        found.append(content[position : position + length].rstrip(b"\0").decode())
        position += length
    return found
