"""The files of a checkpoint, planned from shapes alone: each can be written from its first byte on, and kept.

Names, headers and boundaries are known before any tensor is. Finished files are recorded with their checksums, so that
a write which was cut goes on with the first file that is not whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128

from ligo.checkpoint.hashes import checksum
from ligo.checkpoint.inspect import INDEX_FILE, WEIGHTS_FILE
from ligo.checkpoint.stream import append_tensors, entry_bytes
from ligo.core.errors import ConfigError
from ligo.core.files import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """One safetensors file."""

    file: str
    entries: Mapping[str, tuple[str, tuple[int, ...]]]
    """Name -> dtype as safetensors names it and shape, in the order of the bytes."""

    @property
    def num_bytes(self) -> int:
        """Of its tensors."""
        return sum(entry_bytes(entry) for entry in self.entries.values())


def lay_out(shapes: Mapping[str, tuple[int, ...]], dtype: str, shard_bytes: int) -> list[Shard]:
    """Deal tensors out to files in order; a tensor larger than `shard_bytes` gets a file of its own.

    Within a file they lie by name, as safetensors itself puts them.

    Args:
        dtype: as safetensors names it.

    Raises:
        ConfigError: `shard_bytes` is not positive.
    """
    check_shard_bytes(shard_bytes)
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    for name, shape in shapes.items():
        size = entry_bytes((dtype, shape))
        if groups[-1] and held + size > shard_bytes:
            groups.append({})
            held = 0
        groups[-1][name] = shape
        held += size
    return [
        Shard(shard_name(number, len(groups)), {name: (dtype, group[name]) for name in sorted(group)})
        for number, group in enumerate(groups)
    ]


def write_shards(
    folder: Path, shards: Sequence[Shard], pieces: Callable[[Sequence[str]], Iterator[Tensor]], record: Path
) -> dict[str, Any]:
    """Write the files that are not there yet, and their index.

    Args:
        folder: gets the files; those that `record` names and whose bytes have the checksum in there stay.
        pieces: given the names of the tensors to write, gives these one after another, whole or row by row.
        record: JSON file of what is finished.

    Returns:
        num_bytes (of all tensors), num_shards, reused_shards, checksums (file name -> as in `hashes`).

    Raises:
        OSError: the disk is full or cannot be written; the finished files stay.
    """
    found = _finished(folder, record)
    checksums = {shard.file: found[shard.file] for shard in shards if shard.file in found}
    reused = len(checksums)
    missing = [shard for shard in shards if shard.file not in checksums]
    tensors = pieces([name for shard in missing for name in shard.entries])
    for shard in missing:
        file = folder / shard.file
        checksums[shard.file] = append_tensors(file, shard.entries, tensors, digest=xxh3_128())
        write_json(record, checksums)
    for _ in tensors:
        raise ValueError("there are more pieces than the files hold")
    write_index(folder, {shard.file: list(shard.entries) for shard in shards}, num_bytes(shards))
    return {
        "num_bytes": num_bytes(shards),
        "num_shards": len(shards),
        "reused_shards": reused,
        "checksums": {shard.file: checksums[shard.file] for shard in shards},
    }


def num_bytes(shards: Sequence[Shard]) -> int:
    """Of all tensors."""
    return sum(shard.num_bytes for shard in shards)


def write_index(folder: Path, names_of: Mapping[str, Sequence[str]], total_size: int) -> None:
    """Write which file each tensor is in, where there are several files."""
    if len(names_of) > 1:
        weight_map = {name: file for file, names in names_of.items() for name in names}
        index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX_FILE, index)


def shard_name(number: int, num_shards: int) -> str:
    """The name of a file, counted from 0, as stock loaders expect it."""
    return WEIGHTS_FILE if num_shards == 1 else f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"


def check_shard_bytes(shard_bytes: int) -> None:
    """
    Raises:
        ConfigError: it is not positive.
    """
    if shard_bytes <= 0:
        raise ConfigError(
            f"write.shard_bytes={shard_bytes} is not a size.\n  Try: write.shard_bytes=5000000000"
        )


def _finished(folder: Path, record: Path) -> dict[str, str]:
    """File -> checksum, of the files that are as the record says."""
    recorded = read_json(record) if record.is_file() else {}
    return {
        file: expected
        for file, expected in recorded.items()
        if (folder / file).is_file() and checksum(folder / file) == expected
    }
