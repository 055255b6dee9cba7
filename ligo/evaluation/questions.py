"""Questions to answer: a JSONL file in the form of FastChat's question files, of which Vicuna's 80 are one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ligo.core.errors import ConfigError, DataError
from ligo.data.sources import jsonl_records

_EXAMPLE = '{"question_id": 1, "category": "generic", "turns": ["How can I sleep better?"]}'


@dataclass(frozen=True)
class Question:
    """One question of one turn."""

    id: str
    category: str
    text: str


def read_questions(path: str | None) -> list[Question]:
    """The questions of a file, in its order.

    Raises:
        ConfigError: no path.
        DataError: the file cannot be read, or a record is no question of one turn, or two have one id.
    """
    if path is None:
        raise ConfigError(
            "evaluation.questions is not set.\n  Try: evaluation.questions=FILE.jsonl with lines such as "
            f"{_EXAMPLE}"
        )
    questions: list[Question] = []
    for where, record in jsonl_records(Path(path).expanduser(), _EXAMPLE):
        turns = record.get("turns")
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
            raise DataError(f"{where}: 'turns' is no list of texts.\n  Try: {_EXAMPLE}")
        if len(turns) > 1 or not turns[0].strip():
            raise DataError(
                f"{where}: {len(turns)} turns, the first of {len(turns[0].strip())} characters, but one turn of text is "
                "needed.\n  Try: a line for each question"
            )
        questions.append(
            Question(
                str(record.get("question_id", len(questions) + 1)), str(record.get("category", "")), turns[0]
            )
        )
    _check_ids(path, questions)
    return questions


def _check_ids(path: str, questions: Sequence[Question]) -> None:
    if not questions:
        raise DataError(f"{path} holds no question.\n  Try: lines such as {_EXAMPLE}")
    ids = [question.id for question in questions]
    twice = next((each for each in ids if ids.count(each) > 1), None)
    if twice is not None:
        raise DataError(
            f"{path} has the question_id {twice} twice.\n  Try: an id of its own for each question"
        )
