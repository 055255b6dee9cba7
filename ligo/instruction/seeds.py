"""The seed tasks: the 175 that come with ligo, or a file of one's own."""

from __future__ import annotations

from pathlib import Path

from ligo.data.instructions import records, text_field
from ligo.instruction.parse import Task

OWN = Path(__file__).with_name("seeds.jsonl")


def read_seeds(path: str | None) -> list[Task]:
    """Seed tasks of a file in Alpaca's format; None: ligo's own.

    Raises:
        DataError: the file cannot be read, or a record lacks a field; it is named.
    """
    return [
        Task(
            text_field(where, record, "instruction", filled=True),
            text_field(where, record, "input"),
            text_field(where, record, "output", filled=True),
        )
        for where, record in records(Path(path).expanduser() if path else OWN)
    ]
