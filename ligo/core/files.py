"""Files that are either whole under their final name, or not there; none with a secret in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ligo.core.errors import DamagedError, ResourceError, disk_full
from ligo.core.redact import redact, redact_page


def write_text(path: Path, text: str) -> None:
    """Write `text`, its secrets left out, aside, flush it to disk, then rename it to `path`.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    text = redact_page(text) if path.suffix == ".html" else redact(text)
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


def remove_half_written(folder: Path) -> None:
    """Remove what `write_text` left in a folder, or below it, when its process was killed. No other may be at work there."""
    for file in folder.rglob(".*.tmp-*"):
        if file.is_file():
            file.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def from_json(text: str | bytes) -> Any:
    """The value that JSON stands for.

    Raises:
        ValueError: it is no JSON, or is nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DamagedError: it holds something else; it is also a ValueError, for those who can do without the file.
        OSError: it cannot be read.
    """
    try:
        return from_json(path.read_bytes())
    except ValueError as error:
        raise DamagedError(
            f"{path} is damaged: {error}.\n  Try: the file as it was; or move its folder away, and start again"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DamagedError: it holds something else.
        OSError: it cannot be read.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DamagedError(
            f"{path} is damaged: it holds a {type(value).__name__}, not an object.\n"
            "  Try: the file as it was; or move its folder away, and start again"
        )
    return value


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
        _put_in_place(aside, final)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise disk_full(error, final) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def folder_resumed(final: Path, key: str) -> Iterator[tuple[Path, Path]]:
    """Like `folder_aside`, but what the block has written stays when it fails, for the next start with the same key.

    Args:
        key: short name of everything that decides what will be written.

    Yields:
        The folder, and a file beside it to keep a record in, which is gone at the end.

    Raises:
        ResourceError: the disk is full or cannot be written, or another process is at this work.
    """
    kept = final.with_name(f"{_unfinished(final)}{key}")
    try:
        folder = kept / final.name
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(kept, os.O_RDONLY)
        try:
            _lock(lock, final)
            remove_half_written(kept)
            yield folder, kept / "record.json"
            _put_in_place(folder, final)
        finally:
            os.close(lock)
        for stale in final.parent.glob(
            f"{_unfinished(final)}*"
        ):  # of other keys: it will not be asked for again
            shutil.rmtree(stale, ignore_errors=True)
    except OSError as error:
        raise disk_full(error, final, kept=kept.exists()) from error


def unfinished_bytes(final: Path, key: str = "") -> int:
    """Bytes that lie on the disk already for a folder that `folder_resumed` has not finished."""
    asides = final.parent.glob(f"{_unfinished(final)}{key}*")
    return sum(file.stat().st_size for aside in asides for file in aside.rglob("*") if file.is_file())


def _unfinished(final: Path) -> str:
    return f".{final.name}.unfinished-"


def _lock(folder: int, final: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ResourceError(
            f"another process is writing {final} just now.\n  Try: wait for it, or another run.dir=DIR"
        ) from None


def _put_in_place(aside: Path, final: Path) -> None:
    """Have a folder on the disk, then under its final name, where it replaces what is there."""
    for file in sorted(aside.rglob("*")):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    if not final.exists():
        os.rename(aside, final)
        return
    # removing a large folder takes seconds, in which a kill would leave none under the name
    replaced = aside.with_name(f"{aside.name}-replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    os.rename(final, replaced)
    os.rename(aside, final)
    shutil.rmtree(replaced)
