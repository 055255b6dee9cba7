"""What was found out by reading a large file whole, kept on disk for as long as the file stays as it was."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ligo.core.errors import ResourceError
from ligo.core.files import read_json, write_json

_SETTLED_S = 2.0  # clocks of file systems are coarse: what was written just now may yet change unseen


class Facts:
    """Facts about files, in facts.json of the cache folder; a file is known by place, size and time of writing.

    Processes that keep facts at the same time may lose some of each other's, which are then found out again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "facts.json"
        self._known = self._read()

    def get(self, file: Path, name: str, find: Callable[[Path], Any]) -> Any:
        """The fact that `find` gives for a file, from the disk if it is there."""
        known = self._known.get(f"{name} {file.resolve()}")
        if known is not None and known[:2] == _state(file):
            return known[2]
        fact = find(file)
        self.keep(name, {file: fact})
        return fact

    def keep(self, name: str, facts: Mapping[Path, Any]) -> None:
        """Keep what is known already; of files written within the last seconds nothing is kept."""
        settled = time.time() - _SETTLED_S
        new = {
            f"{name} {file.resolve()}": [*_state(file), fact]
            for file, fact in facts.items()
            if file.stat().st_mtime < settled
        }
        if new:
            try:
                self._known = self._read() | new
                write_json(self._path, self._known)
            except ResourceError:
                return  # a cache that cannot be written costs time only

    def _read(self) -> dict[str, Any]:
        try:
            return dict(read_json(self._path))
        except (OSError, ValueError):
            return {}


def _state(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def sha256(file: Path) -> str:
    """Hexadecimal digits of the file's content."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def largest(tokens: np.ndarray, chunk: int = 2**24) -> int:
    """The largest number of a memory-mapped array, read part by part."""
    return max(int(tokens[first : first + chunk].max()) for first in range(0, len(tokens), chunk))
