"""One safetensors file, written as its tensors come: what it holds is said first, so that nothing has to be kept."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ligo.checkpoint.headers import BYTES, seal, with_room_for_seal
from ligo.core.errors import disk_full

if TYPE_CHECKING:
    from torch import Tensor

Entries = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype as safetensors names it and shape, in the order of the bytes."""


class Digest(Protocol):
    """As those of hashlib."""

    def update(self, content: bytes | memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


_METADATA = {"format": "pt"}  # from_pretrained refuses files without it


def entry_bytes(entry: tuple[str, tuple[int, ...]]) -> int:
    """Bytes of one tensor."""
    dtype, shape = entry
    return BYTES[dtype] * math.prod(shape)


def append_tensors(
    path: Path, entries: Entries, pieces: Iterator[Tensor], metadata: Mapping[str, str] = _METADATA,
    digest: Digest | None = None,
) -> str:  # fmt: skip
    """Write a file from its first byte to its last, and have it on the disk at the end.

    Args:
        entries: everything that the file will hold.
        pieces: whole tensors, or rows of them one after another, in the order of `entries`; one is held at a time.
            No more are taken than fill the file.
        digest: a fresh one; None: SHA-256.

    Returns:
        The digest of the file, in hex.

    Raises:
        OSError: the disk is full or cannot be written; what is there is then of no use.
        ValueError: the pieces are not what the entries say.
    """
    digest = digest or hashlib.sha256()
    with open(path, "wb") as file, ThreadPoolExecutor(1) as hashing, _Flusher(file) as flusher:
        header = _header(entries, metadata)
        file.write(header)
        digest.update(header)
        for name, entry in entries.items():
            left = entry_bytes(entry)
            while left:
                piece = next(pieces, None)
                if piece is None:
                    raise ValueError(f"the pieces end before {name} is whole")
                left -= piece.nbytes
                if piece.element_size() != BYTES[entry[0]] or left < 0:
                    raise ValueError(
                        f"{name} comes as {piece.dtype} {tuple(piece.shape)}, which is not (a part of) {entry}"
                    )
                content = _content(piece)
                hashed = hashing.submit(digest.update, content)  # while it is written
                file.write(content)
                flusher.written(len(content))
                hashed.result()
    return digest.hexdigest()


def write_tensor_file(
    path: Path, entries: Entries, tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a file whole or not at all, with its checksum in its header.

    Args:
        entries: in the order in which the tensors come.
        tensors: in that order; one is held at a time.

    Raises:
        ResourceError: the disk is full or cannot be written.
        ValueError: a tensor is not what its entry says.
    """

    def checked() -> Iterator[Tensor]:
        for (name, (dtype, shape)), tensor in zip(entries.items(), tensors, strict=True):
            if tuple(tensor.shape) != shape or tensor.element_size() != BYTES[dtype]:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}")
            yield tensor

    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        seal(aside, append_tensors(aside, entries, checked(), with_room_for_seal(metadata)))
        os.replace(aside, path)
    except OSError as error:
        raise disk_full(error, path) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _header(entries: Entries, metadata: Mapping[str, str]) -> bytes:
    """As safetensors itself writes it, byte for byte."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, entry in entries.items():
        dtype, shape = entry
        end = offset + entry_bytes(entry)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data begin at a multiple of eight bytes
    return len(encoded).to_bytes(8, "little") + encoded


def _content(tensor: Tensor) -> memoryview:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data  # NumPy has no bfloat16


class _Flusher:
    """Has the disk write while the file grows, and the system use the same memory for all of it.

    Else the disk would idle until the system's buffers are full, and fresh memory for them takes longer than the copy.
    """

    _EVERY = 2**24  # bytes

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._pending = file, 0
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None

    def __enter__(self) -> _Flusher:
        return self

    def written(self, num_bytes: int) -> None:
        """So many bytes more are in the file."""
        self._pending += num_bytes
        if self._running is not None and self._running.done():
            self._running.result()
            self._running = None
        if self._running is None and self._pending >= self._EVERY:
            self._pending = 0
            self._running = self._thread.submit(self._flush)

    def _flush(self) -> None:
        os.fdatasync(self._file.fileno())
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # of what is on the disk

    def __exit__(self, kind: object, *_: object) -> None:
        with self._thread:
            pass  # waits for a flush under way
        if kind is None:
            if self._running is not None:
                self._running.result()
            self._file.flush()
            os.fsync(self._file.fileno())
