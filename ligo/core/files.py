"""Files that are either whole under their final name, or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ligo.core.errors import disk_full


def write_text(path: Path, text: str) -> None:
    """Write `text` aside, flush it to disk, then rename it to `path`.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise disk_full(error, path) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def folder_aside(final: Path) -> Iterator[Path]:
    """Give a fresh folder beside `final`; rename it to `final` when the block ends well, else remove it.

    A folder already there under the final name is replaced only at that last moment.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    aside = final.with_name(f".{final.name}.tmp-{os.getpid()}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for file in sorted(aside.rglob("*")):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.rename(aside, final)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise disk_full(error, final) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
