"""The header of a safetensors file, read and checked before any library maps the file.

Format: a length of eight bytes, so many bytes of JSON (tensor -> dtype, shape, first and last byte), and the tensors one
after another (https://github.com/huggingface/safetensors, "Format"). Every byte of the file must belong to exactly one tensor,
and every name be there once: libraries differ in what they do with files that break this.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo.checkpoint.strict_json import parse_json

BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Per number, by the dtype's name in safetensors; those of less than a byte are not known here."""

MOST_HEADER_BYTES = 2**25
"""A third of what the library allows; 100,000 tensors take 12 MB."""
_MOST_VALUES = 2_000_000
_SEAL, _UNSEALED = "sha256", "0" * 64


class DamagedFile(ValueError):
    """What is wrong with a file, in a few words; whoever asked for it says what to do."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    begin: int
    """First byte, counted from the end of the header."""
    end: int
    """The byte after its last."""


@dataclass(frozen=True)
class Header:
    """What a file says that it holds, which its length agrees with."""

    content: bytes
    """As it is in the file, its length included."""
    tensors: dict[str, Entry]
    metadata: dict[str, str]

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return max((entry.end for entry in self.tensors.values()), default=0)


def read_header(file: Path) -> Header:
    """The header of a file.

    Raises:
        DamagedFile: the file cannot be read, or breaks the format.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as handle:
            content = handle.read(8)
            length = int.from_bytes(content, "little")
            if len(content) < 8 or length > size - 8:
                raise DamagedFile("it is shorter than its header")
            if length > MOST_HEADER_BYTES:
                raise DamagedFile(
                    f"its header has {length:,} bytes, and none needs more than {MOST_HEADER_BYTES:,}"
                )
            content += handle.read(length)
        return _checked(content, parse_json(content[8:], _MOST_VALUES), size)
    except DamagedFile:
        raise
    except OSError as error:
        raise DamagedFile(error.strerror or str(error)) from error
    except ValueError as error:
        raise DamagedFile(f"its header is no JSON: {error}") from error


def _checked(content: bytes, found: Any, size: int) -> Header:
    if not isinstance(found, dict) or content[8:9] != b"{":
        raise DamagedFile("its header is no JSON object")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DamagedFile("its metadata are not texts")
    header = Header(content, {name: _entry(name, value) for name, value in found.items()}, metadata)
    position = 0
    for entry in sorted(header.tensors.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise DamagedFile("its tensors overlap, or leave bytes between them")
        position = entry.end
    if position != size - len(content):
        raise DamagedFile(
            f"its tensors take {position:,} bytes, and {size - len(content):,} follow the header"
        )
    return header


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise DamagedFile(f"it does not say dtype, shape and place of {name!r}, and these alone")
    dtype, shape, place = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise DamagedFile(f"{name!r} has the dtype {dtype!r}, which is not known")
    if not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2:
        raise DamagedFile(f"shape or place of {name!r} are not whole numbers from 0 on")
    begin, end = place
    if end - begin != BYTES[dtype] * math.prod(shape):
        raise DamagedFile(f"{name!r} has {end - begin:,} bytes, which {dtype} {shape} has not")
    return Entry(dtype, tuple(shape), begin, end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


# --- files that carry their own checksum -------------------------------------------------------------------


def with_room_for_seal(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata of a file that is sealed once it is written."""
    return {**metadata, _SEAL: _UNSEALED}


def seal(file: Path, digest: str) -> None:
    """Write the SHA-256 of a file into its header, where zeros keep the room for it."""
    with open(file, "r+b") as handle:
        content = handle.read(8)
        handle.seek(_place(content + handle.read(int.from_bytes(content, "little")), _UNSEALED))
        handle.write(digest.encode())
        handle.flush()
        os.fsync(handle.fileno())


def sealed(content: bytes) -> bytes:
    """The bytes of a file with their SHA-256 in the header, where zeros keep the room for it."""
    place, digest = _place(content, _UNSEALED), hashlib.sha256(content).hexdigest()
    return content[:place] + digest.encode() + content[place + len(digest) :]


def check_seal(file: Path, header: Header) -> None:
    """Compare a file with the checksum in its header, if it has one; every byte is read.

    Raises:
        DamagedFile: they differ.
    """
    expected = header.metadata.get(_SEAL)
    if expected is None:
        return
    place = _place(header.content, expected)
    digest = hashlib.sha256(
        header.content[:place] + _UNSEALED.encode() + header.content[place + len(expected) :]
    )
    with open(file, "rb") as handle:
        handle.seek(len(header.content))
        while piece := handle.read(2**22):
            digest.update(piece)
    if digest.hexdigest() != expected:
        raise DamagedFile("it is not what was saved: its bytes have another SHA-256 than its header says")


def _place(content: bytes, digest: str) -> int:
    """Where a checksum stands in a header; quotes inside a name or a text would be escaped."""
    found = content.find(f'"{_SEAL}":"{digest}"'.encode())
    if found < 0 or len(digest) != len(_UNSEALED):
        raise DamagedFile("the checksum in its header is no SHA-256")
    return found + len(_SEAL) + 4
