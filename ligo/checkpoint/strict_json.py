"""JSON from strangers: refused at once where it is large, deep, ambiguous, or has numbers that nothing can compute with.

Readers differ in which of two equal keys they take, and take NaN and 1e999 for numbers; a file that nests or repeats
enough needs a hundred times its size in memory. What is refused here never becomes an object.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ligo.core.errors import CheckpointError

MOST_BYTES = 2**22
"""Of a config; names of 20,000 classes are a quarter of it."""
INDEX_BYTES = 2**25
"""Of an index of shards; one of 90,000 tensors is a third of it."""
_MOST_VALUES = 500_000
_MOST_LEVELS = 64
_LARGEST = 3.4e38  # float32 holds no larger number
_MOST_DIGITS = 40  # a tokenizer without a limit says 10^30

SAVE_AGAIN = "Try: download the checkpoint again, or save it again with save_pretrained"


def read_json_object(file: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        CheckpointError: it is no such object, or one that is refused; the reason is given.
    """
    try:
        if (size := file.stat().st_size) > most_bytes:
            raise ValueError(f"it has {size:,} bytes, and no such file needs more than {most_bytes:,}")
        value = parse_json(file.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not readable JSON: {error}.\n  {SAVE_AGAIN}") from error
    return value


def parse_json(content: bytes, most_values: int = _MOST_VALUES) -> Any:
    """The value that JSON in UTF-8 stands for.

    Raises:
        ValueError: it is no JSON, or is refused.
    """
    if sum(map(content.count, (b"[", b"{", b","))) > most_values:
        raise ValueError(f"it has more than {most_values:,} values")
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_float=_number, parse_int=_whole
        )  # fmt: skip
    except RecursionError:
        raise ValueError(f"it is nested more than {_MOST_LEVELS} deep") from None
    _check_depth(value)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value


def _number(text: str) -> float:
    value = float(text)
    return value if abs(value) <= _LARGEST else _no_number(text)


def _whole(text: str) -> int:
    return int(text) if len(text) <= _MOST_DIGITS else _no_number(text)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text[:_MOST_DIGITS]} is no number to compute with")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MOST_LEVELS):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested more than {_MOST_LEVELS} deep")
