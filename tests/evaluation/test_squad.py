"""SQuAD's files, the edge cases of its official rules, and windows over long texts, each worked by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ligo.core.errors import ConfigError, DataError
from ligo.evaluation.finetuning.spans import EndsOfAnswer, Window, answers_given, windows_of
from ligo.evaluation.finetuning.squad import (
    Question,
    Questions,
    exact_match,
    f1,
    find_split,
    normalised,
    read_questions,
    score,
)
from ligo.evaluation.finetuning.text_rows import FixedRows, TextReader
from ligo.evaluation.models import ComputeConfig, Model, ModelConfig
from ligo.training.config import BatchShape, TrainConfig
from ligo.training.torch_engine import TorchEngine
from tests.evaluation.finetuned import BERT, run, value

CONTEXT = " ".join(
    f"In the year {number} the king of the house went to the river." for number in range(100, 112)
)


def answered(question: str, text: str, context: str = CONTEXT) -> Question:
    return Question(question, context, question, ((text, context.index(text)),))


def squad_file(file: Path, questions: list[Question], *, marked: bool = False) -> Path:
    """A file in SQuAD's format, every question with a paragraph of its own."""

    def qa(each: Question) -> dict[str, Any]:
        answers = [{"text": text, "answer_start": start} for text, start in each.answers]
        impossible = {"is_impossible": not answers} if marked else {}
        return {"id": each.id, "question": each.question, "answers": answers, **impossible}

    paragraphs = [{"context": each.context, "qas": [qa(each)]} for each in questions]
    file.write_text(
        json.dumps(
            {"version": "2.0" if marked else "1.1", "data": [{"title": "x", "paragraphs": paragraphs}]}
        )
    )
    return file


# --- rules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Cat's, (an) hat!", "cats hat"),
        ("a.m.", "am"),  # punctuation goes before articles are looked for
        ("An apple\ta\nday", "apple day"),
        ("Theatre of another", "theatre of another"),  # articles are whole words
        ("the", ""),
        ("U.S.-led", "usled"),
        ("Zürich \u2013 1998", "zürich \u2013 1998"),  # only ASCII punctuation goes
        ("$1,200", "1200"),
    ],
)
def test_answers_are_normalised_by_the_official_rules(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


@pytest.mark.parametrize(
    ("given", "right", "overlap", "exact"),
    [
        ("the cat sat on the mat", "a cat on a mat", 2 * (3 / 4) * (3 / 3) / (3 / 4 + 3 / 3), 0),
        ("no no no", "no", 2 * (1 / 3) * 1 / (1 / 3 + 1), 0),  # words are bags: one counts once
        ("The Cat.", "cat", 1, 1),
        ("dog", "cat", 0, 0),
        ("", "cat", 0, 0),
        ("", "", 1, 1),
        ("the", "a", 1, 1),
    ],
)
def test_f1_and_exact_match_are_as_worked_by_hand(
    given: str, right: str, overlap: float, exact: float
) -> None:
    assert f1(given, right) == pytest.approx(overlap, abs=1e-12)
    assert exact_match(given, right) == exact


def test_the_nearest_of_several_right_answers_counts() -> None:
    question = Question("1", "x", "y", (("the blue sea", 0), ("sea", 0)))
    assert score(Questions((question,), False), ["sea"]) == {"f1": 1.0, "exact": 1.0}
    assert score(Questions((question,), False), ["blue"]) == {"f1": pytest.approx(2 / 3), "exact": 0.0}


def test_versions_differ_in_what_an_answer_without_words_is_worth() -> None:
    """1.1 finds no common word, so no F1; 2.0 takes such a right answer for none, and the empty answer for right."""
    question = Question("1", "x", "y", (("the", 0),))
    assert score(Questions((question,), False), ["The"]) == {"f1": 0.0, "exact": 1.0}
    assert score(Questions((question,), True), ["The"]) == {"f1": 1.0, "exact": 1.0}
    assert score(Questions((question,), True), [""]) == {"f1": 1.0, "exact": 1.0}
    absent = Question("2", "x", "y", ())
    assert score(Questions((absent, absent), True), ["", "word"]) == {"f1": 0.5, "exact": 0.5}


# --- files ---------------------------------------------------------------------------------------------------


def test_both_versions_are_read_and_told_apart(tmp_path: Path) -> None:
    questions = [answered("When?", "the year 104"), answered("Who?", "the king")]
    assert read_questions(squad_file(tmp_path / "train-v1.1.json", questions)) == Questions(
        tuple(questions), False
    )
    absent = Question("Why?", CONTEXT, "Why?", ())
    found = read_questions(squad_file(tmp_path / "dev-v2.0.json", [*questions, absent], marked=True))
    assert found == Questions((*questions, absent), True)
    assert find_split(str(tmp_path), "train").name == "train-v1.1.json"
    assert find_split(str(tmp_path), "validation").name == "dev-v2.0.json"


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"data": []}, "holds no question"),
        ({"rows": []}, "there is no list 'data'.\n  There: rows"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "article 1, paragraph 1: there is no text 'context'.\n  There: qas"),
        (
            {"data": [{"paragraphs": [{"context": "a b", "qas": [{"question": "q", "answers": []}]}]}]},
            "article 1, paragraph 1, question 1: there is no answer",
        ),
        (
            {"data": [{"paragraphs": [{"context": "a b", "qas": [{"question": "q", "answers": [{"text": "b", "answer_start": 0}]}]}]}]},
            "the answer 'b' should begin at character 0 of the context, and there is 'a'",
        ),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused_with_the_place(tmp_path: Path, tree: Any, words: str) -> None:
    (tmp_path / "train.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=words):
        read_questions(tmp_path / "train.json")


def test_a_folder_without_the_split_is_refused(tmp_path: Path) -> None:
    squad_file(tmp_path / "train-v1.1.json", [answered("Who?", "the king")])
    with pytest.raises(
        DataError, match=r"no file for the split validation, named dev\*.json or validation\*.json"
    ):
        find_split(str(tmp_path), "validation")
    squad_file(tmp_path / "train-v2.0.json", [answered("Who?", "the king")])
    with pytest.raises(DataError, match="2 files for the split train"):
        find_split(str(tmp_path), "train")


# --- windows -------------------------------------------------------------------------------------------------

LENGTH, STRIDE, QUESTION = 32, 10, 8


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return TextReader.of(Model.open("small", ModelConfig(path=str(BERT)), ComputeConfig()), None, 384)


def test_windows_cover_a_long_text_and_share_the_stride(reader: TextReader) -> None:
    assert reader.length == LENGTH  # as many as the model has positions
    windows = windows_of(reader, [answered("When?", "the year 108")], stride=STRIDE, question_length=QUESTION)
    assert len(windows) > 5 and all(len(window.encoded.ids) <= LENGTH for window in windows)
    places = [[tuple(pair) for pair in window.offsets] for window in windows]
    for before, after in pairwise(places):
        assert before[-STRIDE:] == after[:STRIDE]
    covered = {pair for window in places for pair in window}
    alone = reader.tokenizer(CONTEXT, add_special_tokens=False).encodings[0].offsets
    assert covered == set(alone)


def test_the_ends_of_an_answer_are_found_in_every_window_that_holds_it_whole_and_in_no_other(
    reader: TextReader,
) -> None:
    question = answered("When?", "the year 108")
    (text, start), holding = question.answers[0], 0
    for window in windows_of(reader, [question], stride=STRIDE, question_length=QUESTION):
        first, last = window.encoded.answers
        begins, ends = window.offsets[0, 0], window.offsets[-1, 1]
        if begins <= start and start + len(text) <= ends:
            holding += 1
            span = CONTEXT[window.offsets[first - window.first, 0] : window.offsets[last - window.first, 1]]
            assert span.strip() == text
        else:
            assert (first, last) == (0, 0)
    assert holding >= 1


def test_long_questions_are_cut(reader: TextReader, capsys: pytest.CaptureFixture[str]) -> None:
    question = answered("Who of all the people of the house went to the river in that year?", "the king")
    (window, *_) = windows_of(reader, [question], stride=STRIDE, question_length=QUESTION)
    assert window.first == QUESTION + 2  # behind a mark of either end
    assert "1 of 1 questions are longer than 8 tokens, and cut" in capsys.readouterr().out


class Oracle(nn.Module):
    """A model that knows the answers of some windows, and says of all others that they have none."""

    def __init__(self, windows: list[Window]) -> None:
        super().__init__()
        self.known = {tuple(window.encoded.ids): window.encoded.answers for window in windows}
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> Any:
        logits = torch.zeros(2, *input_ids.shape)
        for number, (ids, shown) in enumerate(zip(input_ids, attention_mask, strict=True)):
            first, last = self.known[tuple(ids[shown.bool()].tolist())]
            logits[0, number, first] = logits[1, number, last] = 10.0 if first else 5.0
        return type("Output", (), {"start_logits": logits[0], "end_logits": logits[1]})


@pytest.mark.parametrize("unanswerable", [False, True])
def test_a_model_that_knows_where_answers_end_scores_all_of_them(
    reader: TextReader, unanswerable: bool
) -> None:
    items = [
        answered("When?", "the year 108"),
        answered("Who?", "the king"),
        answered("Where?", "went to the river"),
    ]
    if unanswerable:
        items.insert(1, Question("Why?", CONTEXT, "Why?", ()))
    questions = Questions(tuple(items), unanswerable)
    windows = windows_of(reader, items, stride=STRIDE, question_length=QUESTION)
    rows = FixedRows([window.encoded for window in windows])
    objective = EndsOfAnswer(reader.family, lambda: reader.tokenizer)
    engine = TorchEngine(Oracle(windows), objective, TrainConfig(engine="torch"), BatchShape(1, 1, 1))
    given = answers_given(engine, objective, windows, rows, questions, answer_length=30)
    assert given == [each.answers[0][0] if each.answers else "" for each in items]
    assert score(questions, given) == {"f1": 1.0, "exact": 1.0}
    assert answers_given(engine, objective, windows, rows, questions, answer_length=1) != given


def test_a_model_learns_to_answer(tmp_path: Path) -> None:
    """Every text says where the king went; the answer is the word behind "to"."""
    places = ("river", "house", "city", "land", "sea", "mountain")
    items = [
        answered("Where to?", place, f"And the king went to the {place} in the year.") for place in places
    ]
    (tmp_path / "data").mkdir()
    for name in ("train", "dev"):
        squad_file(tmp_path / "data" / f"{name}-v1.1.json", items)
    options = ("evaluation.train.steps=30", "evaluation.train.batch_size=6", "evaluation.rates=[2e-3]")
    found = run(tmp_path / "run", "squad", {"small": BERT}, f"evaluation.path={tmp_path / 'data'}", *options)
    assert value(found, "exact") > 0.8 and value(found, "f1") >= value(found, "exact")
    assert found["models"]["small"]["details"]["runs"][0]["drawn"] == ["qa_outputs.bias", "qa_outputs.weight"]


def test_a_stride_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        squad_file(tmp_path / f"{name}.json", [answered("Who?", "the king")])
    with pytest.raises(
        ConfigError,
        match="evaluation.stride=30: beside questions of 10 tokens, a window of 32 has room for 18",
    ):
        run(tmp_path / "run", "squad", {"small": BERT}, f"evaluation.path={tmp_path}", "evaluation.stride=30")
