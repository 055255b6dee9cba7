"""A folder that ligo wrote carries checksums of its files, and is compared with them before it is used.

The list is in the format of `xxhsum`, so `xxhsum -c XXH128SUMS` checks a folder without ligo. It guards against disks and
copies, not against people: whoever can change a file can change the list. So it need not be SHA-256, which is slower than
the disks that large models are written to; XXH3 (128 bits) is as fast as memory. A list of `sha256sum` is heeded too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from xxhash import xxh3_128

from ligo.core import distributed
from ligo.core.errors import CheckpointError
from ligo.core.files import write_text
from ligo.core.log import progress

SUMS_FILE = "XXH128SUMS"
_ALGORITHMS: Mapping[str, Callable[[], Any]] = {SUMS_FILE: xxh3_128, "SHA256SUMS": hashlib.sha256}
# The moments have their own checksum, and may be removed.
_LEFT_OUT = (*_ALGORITHMS, "README.md", "optimizer.safetensors")
_LINE = re.compile(r"([0-9a-f]{32}|[0-9a-f]{64})  ([^\x00-\x1f]+)")
_MOST_BYTES = 2**22
_checked: dict[Path, object] = {}


def write_hashes(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write `XXH128SUMS` over the files of a folder, but for card and moments; the last thing that is written there.

    Args:
        known: file name -> checksum, of files that had theirs taken while they were written.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    known = known or {}
    lines: list[str] = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = file.relative_to(folder).as_posix()
        if name not in _LEFT_OUT:
            lines.append(f"{known.get(name) or checksum(file)}  {name}\n")
    write_text(folder / SUMS_FILE, "".join(lines))


def check_hashes(folder: Path) -> None:
    """Compare a folder with its list of checksums, if it has one; rank 0 does, once while nothing changes.

    Raises:
        CheckpointError: a file is not what was saved, or gone, or weights lie there that were not saved with them.
    """
    sums = next((folder / name for name in _ALGORITHMS if (folder / name).is_file()), None)
    if sums is None or not distributed.is_main():
        return
    expected = _read(sums)
    unknown = sorted({file.name for file in folder.glob("*.safetensors")} - {*expected, *_LEFT_OUT})
    if unknown:
        raise _changed(sums, unknown[0], "was not saved with it")
    state = [(name, *_state(folder / name)) for name in (sums.name, *expected)]
    if _checked.get(folder.resolve()) == state:
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("comparing checksums", len(expected)) as bar:
        found = pool.map(lambda name: _digest_or_none(folder / name, _ALGORITHMS[sums.name]), expected)
        for name, digest in zip(expected, found, strict=True):
            if digest != expected[name]:
                raise _changed(sums, name, "is gone" if digest is None else "is not what was saved")
            bar.advance()
    _checked[folder.resolve()] = state


def checksum(file: Path) -> str:
    """XXH3 of a file, 128 bits in hex."""
    return _digest(file, xxh3_128)


def sha256(file: Path) -> str:
    """Of a file, in hex."""
    return _digest(file, hashlib.sha256)


def _digest(file: Path, algorithm: Callable[[], Any]) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest()


def _read(sums: Path) -> dict[str, str]:
    if sums.stat().st_size > _MOST_BYTES:
        raise _changed(sums, sums.name, "is no list of checksums")
    expected = {}
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None or not _is_inside(sums.parent, match[2]) or match[2] in expected:
            raise _changed(sums, sums.name, "is no list of checksums")
        expected[match[2]] = match[1]
    return expected


def _is_inside(folder: Path, name: str) -> bool:
    """Links at the top have been looked at (`inspect_files`); further down there are none."""
    path = PurePosixPath(name)
    below = [folder / place for place in (path, *path.parents)[:-2]]
    return not path.is_absolute() and ".." not in path.parts and not any(map(Path.is_symlink, below))


def _state(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest_or_none(file: Path, algorithm: Callable[[], Any]) -> str | None:
    return _digest(file, algorithm) if file.is_file() else None


def _changed(sums: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{sums.parent / name} {what}: {sums.parent.name} is no longer the folder that ligo wrote.\n"
        f"  Try: write or copy it again; if you changed it on purpose, remove {sums}"
    )
