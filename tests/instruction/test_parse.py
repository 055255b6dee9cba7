"""Completions taken apart, however the teacher wrote them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ligo.instruction.parse import Parsed, Task, parse

COLOUR = Task("Name a warm colour.", "", "Red.")
SUM = Task("Add the numbers.", "2, 3", "2 + 3 = 5\n\nSo the sum is 5.")
CODE = Task("What does this print?", "print(1)", "Output: 1\nInput: nothing is read")

CONTINUED = """ Name a warm colour.
Input: <none>
Output: Red.

### Task 5
Instruction: Add the numbers.
Input: 2, 3
Output: 2 + 3 = 5

So the sum is 5.

### Task 6
Instruction: What does this print?
Input: print(1)
Output: Output: 1
Input: nothing is read
"""
CHATTY = """Here are the tasks!

**Task 4**
**Instruction:** Name a warm colour.
**Input:** None
**Output:** Red.

**Task 5**
**Instruction:** Add the
numbers.
**Input:**
2, 3
**Output:**
2 + 3 = 5

So the sum is 5.
"""
NUMBERED = """4. Instruction: Name a warm colour.
4. Input: <noinput>
4. Output: Red.
5. Instruction: Add the numbers.
5. Input: 2, 3
5. Output: 2 + 3 = 5

So the sum is 5."""
NO_INPUT_FIELD = "Instruction: Name a warm colour.\nOutput: Red."


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        (CONTINUED, [COLOUR, SUM, CODE]),
        ("### Task 4\nInstruction:" + CONTINUED, [COLOUR, SUM, CODE]),
        (CHATTY, [COLOUR, SUM]),
        (NUMBERED, [COLOUR, SUM]),
        (NO_INPUT_FIELD, [COLOUR]),
        (" Name a warm colour.\nInput: \nOutput: Red.", [COLOUR]),
    ],
)
def test_blocks(text: str, tasks: list[Task]) -> None:
    assert parse(text, cut=False) == Parsed(tasks, 0)


def as_json(*tasks: Task) -> list[str]:
    return [json.dumps(vars(task)) for task in tasks]


@pytest.mark.parametrize(
    "form", ["{0}\n{1}\n", "Sure:\n```json\n{0}\n{1}\n```", "[{0}, {1}]", "[\n  {0},\n  {1}\n]"]
)
def test_json_in_lines_or_a_list(form: str) -> None:
    first, second = as_json(SUM, COLOUR)
    text = form.replace("{0}", first).replace("{1}", second)
    assert parse(text, cut=False) == Parsed([SUM, COLOUR], 0)
    assert parse(text, cut=True).tasks == [SUM, COLOUR]  # whole objects are whole


def test_indented_json() -> None:
    assert parse(json.dumps([vars(SUM), vars(CODE)], indent=2), cut=False) == Parsed([SUM, CODE], 0)


def test_the_block_at_the_limit_of_tokens_is_dropped_even_if_it_looks_whole() -> None:
    assert parse(CONTINUED, cut=True) == Parsed([COLOUR, SUM], 1)


def test_cut_or_broken_json_costs_its_own_task_only() -> None:
    first, second = as_json(SUM, COLOUR)
    assert parse(f"{first}\n{second[:-10]}", cut=True) == Parsed([SUM], 1)
    broken = second.replace('"Red."', "Red.")
    assert parse(f"{broken}\n{first}", cut=False) == Parsed([SUM], 1)
    wrong = '{"instruction": "Name it.", "input": "", "output": 5}'
    assert parse(f"{wrong}\n{first}", cut=False) == Parsed([SUM], 1)


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("", 0),
        ("I cannot help with that.", 0),
        ("### Task 4\nInstruction: Say hi.\n\n### Task 5\nInstruction: Say bye.\nOutput:", 2),
        ('{"instruction": "Say hi.", "input": "", "output": ""}', 1),
    ],
)
def test_what_is_no_task_gives_none(text: str, broken: int) -> None:
    assert parse(text, cut=False) == Parsed([], broken)


def test_half_a_surrogate_pair_becomes_writable() -> None:
    (task,) = parse('{"instruction": "Say hi.", "input": "", "output": "hi \\ud83d"}', cut=False).tasks
    assert task.output.encode() == b"hi ?"


@given(st.text(alphabet='#Task 45\nIinputsrcoO:{}"[],.<>*\\', max_size=120), st.booleans())
def test_any_text_is_taken_apart_into_whole_tasks(text: str, cut: bool) -> None:
    for task in parse(text, cut=cut).tasks:
        assert task.instruction and task.output
        assert "\n" not in task.instruction
