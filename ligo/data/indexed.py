"""Shards of tokens in the format of Megatron-LM's `IndexedDataset` (Shoeybi et al. 2019, arXiv 1909.08053), version 1.

A shard is two files. NAME.bin holds token ids, one after another. NAME.idx, little-endian, says what they are:

    bytes           what
    9               "MMIDIDX", two zero bytes
    8               version, 1
    1               kind of number in .bin: 4 is int32, 8 is uint16 (there are others)
    8, 8            S sequences; D + 1, for D documents
    4 S             tokens of each sequence, int32
    8 S             byte in .bin at which each begins, int64
    8 (D + 1)       the sequence at which each document begins, and S, int64
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from ligo.core.errors import DataError

_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_HEADER = struct.Struct("<9sQBQQ")
_KINDS = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


def dtype_for(vocab_size: int) -> np.dtype:
    """The smallest kind of number for ids below `vocab_size`; the bound is Megatron-LM's."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


@dataclass(frozen=True)
class Shard:
    """A pair of files, opened by name: what the index says, and the tokens when they are asked for."""

    bin: Path
    dtype: np.dtype
    num_tokens: int
    document_starts: np.ndarray
    """The token at which each document begins, int64 [documents]."""

    def tokens(self) -> np.ndarray:
        """All ids, 1-D, memory-mapped."""
        return np.memmap(self.bin, dtype=self.dtype, mode="r")


def open_shard(idx: Path) -> Shard:
    """Read an index, and check that it agrees with its file of tokens; these are not read.

    Raises:
        DataError: a file is missing, no index, or shorter or longer than the index says.
    """
    try:
        content = np.fromfile(idx, dtype=np.uint8)
        size = idx.with_suffix(".bin").stat().st_size
    except OSError as error:
        raise damaged(Path(error.filename or idx), error.strerror or str(error)) from error
    if len(content) < _HEADER.size or bytes(content[: len(_MAGIC)]) != _MAGIC:
        raise damaged(idx, "it does not begin as an index of Megatron-LM does")
    _, version, kind, num_sequences, num_bounds = _HEADER.unpack(content[: _HEADER.size].tobytes())
    if version != _VERSION or kind not in _KINDS:
        raise damaged(
            idx, f"it is of version {version} and kind {kind}, and only 1 and {[*_KINDS]} are known"
        )
    needed = _HEADER.size + 12 * num_sequences + 8 * num_bounds
    if len(content) < needed:
        raise damaged(
            idx, f"it has {len(content):,} bytes, and needs {needed:,} for {num_sequences:,} sequences"
        )
    at = _HEADER.size
    lengths = np.frombuffer(content, np.int32, num_sequences, at)
    offsets = np.frombuffer(content, np.int64, num_sequences, at + 4 * num_sequences)
    bounds = np.frombuffer(content, np.int64, num_bounds, at + 12 * num_sequences)
    dtype = np.dtype(_KINDS[kind])
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if not np.array_equal(offsets, starts[:-1] * dtype.itemsize) or not (
        num_bounds > 1 and bounds[0] == 0 and bounds[-1] == num_sequences and (np.diff(bounds) >= 0).all()
    ):
        raise damaged(idx, "its sequences do not follow one another")
    if size != starts[-1] * dtype.itemsize:
        raise damaged(
            idx.with_suffix(".bin"),
            f"it has {size:,} bytes, and its index says {starts[-1]:,} tokens of {dtype.itemsize} bytes",
        )
    return Shard(idx.with_suffix(".bin"), dtype, int(starts[-1]), starts[bounds[:-1]])


def damaged(file: Path, why: str) -> DataError:
    """The error of a shard that cannot be used."""
    return DataError(
        f"the shard {file} is damaged: {why}.\n"
        f"  Try: fetch it again; or rm -r {file.parent}, and start again, where ligo made it"
    )


class ShardWriter:
    """Write one shard, sequence by sequence; memory holds a number for each sequence.

    What was appended is whole only when the block has ended.
    """

    def __init__(self, bin: Path, dtype: np.dtype) -> None:
        self._bin, self._dtype = bin, dtype
        self._lengths, self._bounds = array("i"), array("q", [0])
        self._digest = hashlib.sha256()

    def __enter__(self) -> ShardWriter:
        self._file = open(self._bin, "wb")
        return self

    def append(self, tokens: np.ndarray, *, ends_document: bool = True) -> None:
        """Add a sequence; ids fit the dtype."""
        content = tokens.astype(self._dtype).tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._lengths.append(len(tokens))
        if ends_document:
            self._bounds.append(len(self._lengths))

    def __exit__(self, failed: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._file.close()
        if failed is not None:
            return
        if self._bounds[-1] != len(self._lengths):
            self._bounds.append(len(self._lengths))
        lengths = np.frombuffer(self._lengths, np.int32) if self._lengths else np.empty(0, np.int32)
        ends = np.cumsum(lengths, dtype=np.int64)
        kind = next(kind for kind, dtype in _KINDS.items() if np.dtype(dtype) == self._dtype)
        index = b"".join(
            (
                _HEADER.pack(_MAGIC, _VERSION, kind, len(lengths), len(self._bounds)),
                lengths.tobytes(),
                ((ends - lengths) * self._dtype.itemsize).tobytes(),
                self._bounds.tobytes(),
            )
        )
        self._bin.with_suffix(".idx").write_bytes(index)
        self.num_tokens, self.num_documents = int(lengths.sum(dtype=np.int64)), len(self._bounds) - 1
        self.sha256 = {".bin": self._digest.hexdigest(), ".idx": hashlib.sha256(index).hexdigest()}
