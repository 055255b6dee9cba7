"""A file of JSON lines that only grows, and is whole again after any kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ligo.core.errors import DataError, disk_full
from ligo.core.files import from_json


class JsonLines:
    """Records, one per line; the file is made when it is not there.

    A line is written at once and a batch is on the disk when `append` returns. What a kill has left of a last line is
    cut off when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ResourceError: the file cannot be written.
        """
        self.path = path
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  open as long as the run
            self._cut_to(_end_of_last_line(path))
        except OSError as error:
            raise disk_full(error, path, kept=True) from error

    def read(self) -> list[dict[str, Any]]:
        """All records.

        Raises:
            DataError: a line is no record; it is named.
        """
        records = []
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                record = from_json(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise self.changed(number, "a record")
            records.append(record)
        return records

    def changed(self, number: int, wanted: str) -> DataError:
        """What to raise where a line is not as it was written."""
        return DataError(
            f"{self.path}, line {number}: {wanted} should stand here; the file was changed since it was written.\n"
            "  Try: another run.dir=DIR, or the file as the run wrote it"
        )

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add records, and have them on the disk.

        Raises:
            ResourceError: the disk is full.
        """
        try:
            for record in records:
                line = json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n"
                while line:  # one write, unless the disk is filling up
                    line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_full(error, self.path, kept=True) from error

    def keep(self, count: int) -> None:
        """Cut off what comes after the first `count` lines.

        Raises:
            DataError: there are fewer.
        """
        lines = self.path.read_bytes().splitlines(keepends=True)
        if len(lines) < count:
            raise DataError(
                f"{self.path} has {len(lines)} lines, but {count} were written.\n"
                "  Try: another run.dir=DIR, or the file as the run wrote it"
            )
        self._cut_to(sum(map(len, lines[:count])))

    def close(self) -> None:
        self._file.close()

    def _cut_to(self, size: int) -> None:
        if self._file.seek(0, os.SEEK_END) != size:
            self._file.truncate(size)
            os.fsync(self._file.fileno())


def _end_of_last_line(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1
