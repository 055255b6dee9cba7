"""From a teacher's completion to tasks.

Teachers do not always keep to the form that the prompt asks for, so both forms are understood whatever was asked:
JSON objects, one per line or in a list, with or without a fence; and blocks of Instruction, Input and Output, under
headings or numbers or nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

NO_INPUT = "<none>"
"""Stands for an empty input in blocks."""


@dataclass(frozen=True)
class Task:
    """What is asked, what it is asked about (may be empty), and the answer."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Parsed:
    """The tasks of a completion, in their order."""

    tasks: list[Task]
    num_broken: int
    """Blocks that lack a field, or that were cut off."""


def parse(text: str, *, cut: bool) -> Parsed:
    """Take a completion apart.

    Args:
        cut: whether the completion ended at the teacher's limit of tokens: the last block is then not whole.
    """
    return _json_tasks(text) if _STARTS_JSON.search(text) else _block_tasks(text, cut)


# JSON

_JSON_TASK = re.compile(r'\{\s*"(?:instruction|input|output)"\s*:')
_STARTS_JSON = re.compile(rf"^[ \t\[]*{_JSON_TASK.pattern}", re.MULTILINE)


def _json_tasks(text: str) -> Parsed:
    decoder, tasks, broken = json.JSONDecoder(strict=False), [], 0
    start = _JSON_TASK.search(text)
    while start is not None:
        try:
            record, end = decoder.raw_decode(text, start.start())
        except (json.JSONDecodeError, RecursionError):  # cut off, or not quite JSON: go on behind its brace
            record, end = None, start.end()
        task = _from_record(record)
        if task is None:
            broken += 1
        else:
            tasks.append(task)
        start = _JSON_TASK.search(text, end)
    return Parsed(tasks, broken)


def _from_record(record: object) -> Task | None:
    if not isinstance(record, dict):
        return None
    fields: list[Any] = [record.get("instruction"), record.get("input") or "", record.get("output")]
    return _task(*fields) if all(isinstance(value, str) for value in fields) else None


# Blocks

_HEADING = re.compile(
    r"^[ \t]*(?:[#*]+[ \t]*task[ \t]+\d+\b.*|task[ \t]+\d+[ \t]*[.:)]*[ \t]*|#{3,}[ \t]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_FIELD = r"^[#* \t]*(?:\d+[ \t]*[.):][ \t]*)?\**{}\**[ \t]*:\**[ \t]*"
_INSTRUCTION, _INPUT, _OUTPUT = (
    re.compile(_FIELD.format(name), re.IGNORECASE | re.MULTILINE)
    for name in ("instruction", "input", "output")
)


def _block_tasks(text: str, cut: bool) -> Parsed:
    blocks = [block for block in _blocks(text) if block.strip()]
    tasks = [task for block in (blocks[:-1] if cut else blocks) if (task := _from_block(block))]
    return Parsed(tasks, len(blocks) - len(tasks))


def _blocks(text: str) -> list[str]:
    """The text between headings, or, where there are none, from each instruction to the next."""
    if _HEADING.search(text):
        first, *rest = _HEADING.split(text)
    else:
        starts = [match.start() for match in _INSTRUCTION.finditer(text)]
        first, *rest = [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)]
    # before the first there may be a task that goes on where the prompt ended, or only words about the tasks
    return [first, *rest] if _OUTPUT.search(first) else rest


def _from_block(block: str) -> Task | None:
    """Instruction, input, output in this order; what looks like a field after that belongs to the output."""
    output = _OUTPUT.search(block)
    if output is None:
        return None
    above = block[: output.start()]
    head = _INSTRUCTION.search(above)
    above = above[head.end() :] if head else above
    middle = _INPUT.search(above)
    instruction, input_ = (above[: middle.start()], above[middle.end() :]) if middle else (above, "")
    return _task(instruction, input_, block[output.end() :])


def _task(instruction: str, input_: str, output: str) -> Task | None:
    """The task without white space around its fields, or None where one that must not be empty is."""
    # half a surrogate pair, which JSON can spell, could not be written
    instruction, input_, output = (
        value.encode(errors="replace").decode().strip() for value in (instruction, input_, output)
    )
    task = Task(" ".join(instruction.split()), "" if _NONE.fullmatch(input_) else input_, output)
    return task if task.instruction and task.output else None


_NONE = re.compile(r"[<(\[]?(?:none|no[ _]?input|n/a|empty)[>)\]]?\.?", re.IGNORECASE)
