"""SQuAD: its files, version 1.1 (Rajpurkar et al. 2016, arXiv 1606.05250) and 2.0 (Rajpurkar et al. 2018, arXiv
1806.03822), and how answers are scored, by the rules of the official evaluation scripts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo.core.errors import DataError
from ligo.core.files import from_json
from ligo.data.sources import text_lines


@dataclass(frozen=True)
class Question:
    """A question on a text; without answers it cannot be answered from it."""

    id: str
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]
    """Texts, and the characters of `context` at which they begin."""


@dataclass(frozen=True)
class Questions:
    """A file of questions."""

    items: tuple[Question, ...]
    may_be_unanswerable: bool
    """Whether the file is of version 2.0: some questions have no answer, and to say so is an answer."""


# --- reading -------------------------------------------------------------------------------------------------


def find_split(path: str, split: str) -> Path:
    """A file as it is, or the one of a folder: train*.json; dev*.json or validation*.json; test*.json.

    Raises:
        DataError: there is none, or more than one.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return place
    words = {"validation": ("dev", "validation")}.get(split, (split,))
    found = sorted(
        file for word in words for ending in ("json", "json.gz") for file in place.glob(f"{word}*.{ending}")
    )
    if len(found) == 1:
        return found[0]
    there = (
        ", ".join(sorted(file.name for file in place.iterdir())[:6]) if place.is_dir() else "no such folder"
    )
    count = f"{len(found)} files" if found else "no file"
    raise DataError(
        f"{path} has {count} for the split {split}, named {' or '.join(f'{word}*.json' for word in words)}: there is "
        f"{there or 'nothing'}.\n  Try: evaluation.path=FILE evaluation.validation_path=FILE, as train-v1.1.json and dev-v1.1.json"
    )


def read_questions(file: Path) -> Questions:
    """Read a file in the format of SQuAD 1.1 or 2.0, .json or .json.gz.

    Raises:
        DataError: it is no such file, an answer does not stand where it says, or there is no question; the place is named.
    """
    try:
        tree = from_json("".join(text_lines(file)))
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}).\n  Try: fetch it again") from error
    found = [(where, qa, context) for where, qa, context in _walk(file, tree)]
    marked = any("is_impossible" in qa for _, qa, _ in found)
    questions = tuple(_question(where, qa, context, marked) for where, qa, context in found)
    if not questions:
        raise DataError(f"{file} holds no question.\n  Try: another file, such as train-v1.1.json")
    return Questions(questions, marked)


def _walk(file: Path, tree: Any) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Where each question stands, its record, and its context."""
    for number, article in enumerate(_list(str(file), tree, "data"), start=1):
        where = f"{file}, article {number}"
        for place, paragraph in enumerate(_list(where, article, "paragraphs"), start=1):
            inside = f"{where}, paragraph {place}"
            context = _text(inside, paragraph, "context")
            for count, qa in enumerate(_list(inside, paragraph, "qas"), start=1):
                yield f"{inside}, question {count}", _record(f"{inside}, question {count}", qa), context


def _question(where: str, qa: Mapping[str, Any], context: str, marked: bool) -> Question:
    impossible = bool(qa.get("is_impossible", False))
    answers = [] if impossible else [
        (_text(where, _record(where, answer), "text"), answer.get("answer_start"))
        for answer in _list(where, qa, "answers")
    ]  # fmt: skip
    if not answers and not impossible:
        raise DataError(
            f"{where}: there is no answer" + (", and is_impossible is not true" if marked else "") + ".\n"
            '  Try: "is_impossible": true, as in SQuAD 2.0, or remove the question'
        )
    for text, start in answers:
        if not isinstance(start, int) or start < 0 or context[start : start + len(text)] != text:
            there = (
                repr(context[start : start + len(text)])
                if isinstance(start, int) and start >= 0
                else "nothing"
            )
            raise DataError(
                f"{where}: the answer {text!r} should begin at character {start} of the context, and there is {there}.\n"
                "  Try: correct answer_start, or remove the answer"
            )
    return Question(str(qa.get("id", where)), context, _text(where, qa, "question"), tuple(answers))


def _record(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(
            f"{where}: a {type(value).__name__}, but an object is needed.\n  Try: SQuAD's own format"
        )
    return value


def _list(where: str, record: Any, key: str) -> list[Any]:
    value = _record(where, record).get(key)
    if not isinstance(value, list):
        raise DataError(
            f"{where}: there is no list '{key}'.\n  There: {', '.join(map(str, record)) or 'nothing'}.\n"
            '  Try: {"data": [{"paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ..., "answers": '
            '[{"text": ..., "answer_start": ...}]}]}]}]}'
        )
    return value


def _text(where: str, record: Any, key: str) -> str:
    value = _record(where, record).get(key)
    if not isinstance(value, str):
        raise DataError(
            f"{where}: there is no text '{key}'.\n  There: {', '.join(map(str, record)) or 'nothing'}.\n"
            "  Try: SQuAD's own format"
        )
    return value


# --- scoring -------------------------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """In lower case, without ASCII punctuation and English articles, white space made single blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, right: str) -> float:
    """1 where both are the same once they are normalised, else 0."""
    return float(normalised(given) == normalised(right))


def f1(given: str, right: str) -> float:
    """The harmonic mean of precision and recall over the words of both, as bags; of two empty answers 1."""
    mine, theirs = normalised(given).split(), normalised(right).split()
    if not mine or not theirs:
        return float(mine == theirs)
    same = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * same / (len(mine) + len(theirs))


def score(questions: Questions, given: Sequence[str]) -> dict[str, float]:
    """Mean F1 and exact match over all questions, each by the right answer that it is nearest to, from 0 to 1.

    Version 2.0 leaves right answers out of which nothing is left once they are normalised, and counts the empty answer as
    right where none is left; 1.1 gives no F1 for one without words.

    Args:
        given: one for each question; "" says that there is no answer.
    """
    pairs = [
        (answer, _right(question, questions.may_be_unanswerable))
        for question, answer in zip(questions.items, given, strict=True)
    ]

    def overlap(answer: str, right: str) -> float:
        blank = not normalised(right)
        return 0.0 if blank and not questions.may_be_unanswerable else f1(answer, right)

    return {
        "f1": sum(max(overlap(answer, one) for one in right) for answer, right in pairs) / len(pairs),
        "exact": sum(max(exact_match(answer, one) for one in right) for answer, right in pairs) / len(pairs),
    }


def _right(question: Question, may_be_unanswerable: bool) -> list[str]:
    texts = [text for text, _ in question.answers]
    if not may_be_unanswerable:
        return texts
    return [text for text in texts if normalised(text)] or [""]
