"""The seed tasks that come with ligo, and files of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ligo.core.errors import DataError
from ligo.instruction.config import FilterConfig
from ligo.instruction.filter import TaskFilter
from ligo.instruction.seeds import read_seeds

SEEDS = read_seeds(None)


def test_there_are_175_and_each_is_complete() -> None:
    assert len(SEEDS) == 175
    for task in SEEDS:
        for text in (task.instruction, task.input, task.output):
            assert text == text.strip()
        assert len(task.output.split()) <= 100
        assert len(task.input.split()) <= 100


def test_they_pass_the_filters_that_a_teachers_tasks_must_pass_each_against_all_before() -> None:
    """Unique, ROUGE-L at most 0.7 between any two, and nothing that a text model cannot do."""
    judge = TaskFilter(FilterConfig(), [])
    for task in SEEDS:
        assert judge.refusal(task) is None, task.instruction
        judge.add(task)


def test_some_need_an_input_and_some_do_not() -> None:
    empty = sum(not task.input for task in SEEDS)
    assert 0.35 < empty / len(SEEDS) < 0.55


def test_the_python_in_them_does_what_it_says() -> None:
    made = {task.instruction: task.output for task in SEEDS}

    def run(start: str) -> dict[str, object]:
        (output,) = [output for instruction, output in made.items() if instruction.startswith(start)]
        names: dict[str, object] = {}
        exec(output[output.find("def ") :], names)
        return names

    assert run("Write a Python function that returns the longest")["longest_word"]("a bcd ef") == "bcd"  # type: ignore[operator]
    assert run("Find the bug in this Python code")["total"](4) == 10  # type: ignore[operator]
    assert run("Add a docstring and type hints")["clamp"](7, 0, 5) == 5  # type: ignore[operator]
    assert run("Write a recursive function")["factorial"](5) == 120  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"instruction": "Say hi.", "input": "", "output": "Hi."}\n{"instruction": "x"', "line 2: not JSON"),
        ('{"instruction": "Say hi.", "input": ""}', "line 1: there is no field 'output'.\n  There: instruction, input"),
        ('{"instruction": "Say hi.", "output": "  "}', "line 1: 'output' is empty"),
        ('{"instruction": ["Say hi."], "output": "Hi."}', "line 1: 'instruction' is a list, not text"),
        ('["Say hi."]', "line 1: a list, but a record with keys is needed"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "seeds.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_seeds(str(tmp_path / "seeds.jsonl"))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read .*none.json"):
        read_seeds(str(tmp_path / "none.json"))
