"""Instants of a save at which a process can be killed: before and after each of its calls to the file system.

The calls are wrapped in a forked rank, so that nothing of this is in the program itself.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ligo.checkpoint import stream
from ligo.core import distributed

_CALLS = ((os, "mkdir"), (os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree"))


class Points:
    """Counts the instants of the saves of one rank, notes their names, and dies at one of them."""

    def __init__(self, below: Path, *, rank: int, die_at: tuple[str, int] | None = None) -> None:
        """
        Args:
            below: only what happens below this folder counts.
            rank: the one that is watched; it takes all ranks with it.
            die_at: name of an instant, and the how manieth time it comes; None to note only.
        """
        self._below, self._rank, self._die_at = str(below), rank, die_at
        self.seen: list[str] = []

    def install(self) -> None:
        if distributed.rank() != self._rank:
            return
        for module, name in _CALLS:
            setattr(module, name, self._around(name, getattr(module, name)))
        stream._content = self._halfway(stream._content)  # type: ignore[assignment]

    def _pass(self, point: str) -> None:
        self.seen.append(point)
        if self._die_at is not None and (point, self.seen.count(point)) == self._die_at:
            os.killpg(0, signal.SIGKILL)

    def _around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(target: Any, *arguments: Any, **options: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
            if not path.startswith(self._below):
                return call(target, *arguments, **options)
            what = f"{name} {_plain(path)}, rank {self._rank}"
            self._pass(f"before {what}")
            result = call(target, *arguments, **options)
            self._pass(f"after {what}")
            return result

        return wrapped

    def _halfway(self, content: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(tensor: Any) -> Any:
            self._pass(f"a tensor of the state, rank {self._rank}")
            return content(tensor)

        return wrapped


def _plain(path: str) -> str:
    """The name of a file or folder, without the step and the process in it."""
    name = Path(path).name
    for part in name.replace(".", "-").split("-"):
        if part.isdigit():
            name = name.replace(part, "N", 1)
    return name
