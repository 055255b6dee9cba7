"""Questions as windows over their texts, the ends of an answer as what is to be found, and answers read off a model.

A long text is cut into windows that overlap; an answer that a window does not hold whole is marked there as absent, at
the row's first token, as BERT does it (Devlin et al. 2018, arXiv 1810.04805, sections 4.2 and 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from ligo.core.errors import DataError
from ligo.core.log import say
from ligo.evaluation.finetuning.grid import predictions
from ligo.evaluation.finetuning.squad import Question, Questions
from ligo.evaluation.finetuning.text_rows import Encoded, FixedRows, TextHead, TextReader
from ligo.training.engine import Engine
from ligo.training.objectives import Run


class EndsOfAnswer(TextHead):
    """The mean of the cross-entropies of an answer's first and last token, in nats."""

    num_answers = 2
    outputs_per_token = 2

    def loss(self, run: Run, batch: Tensor) -> Tensor:
        found = run(**self.given(batch))
        starts, ends = found.start_logits.float(), found.end_logits.float()
        return (F.cross_entropy(starts, batch[:, -2]) + F.cross_entropy(ends, batch[:, -1])) / 2

    def logits(self, run: Run, batch: Tensor) -> np.ndarray:
        """Of first and last token: [rows, 2, length]."""
        found = run(**self.given(batch))
        return np.stack(
            [each.float().cpu().numpy() for each in (found.start_logits, found.end_logits)], axis=1
        )


@dataclass(frozen=True)
class Window:
    """One window over a question's text."""

    encoded: Encoded
    question: int
    """Number of the question."""
    first: int
    """The first token of the row that is of the text."""
    offsets: np.ndarray
    """int32 [tokens of the text in this window, 2]: the characters at which each begins and ends."""


def windows_of(
    reader: TextReader, questions: Sequence[Question], *, stride: int, question_length: int
) -> list[Window]:
    """All windows of all questions, in their order.

    Args:
        stride: tokens that two windows of one text have in common.
        question_length: most tokens of a question; longer ones are cut.

    Raises:
        DataError: the tokenizer gives a token that the model does not have, or makes nothing of a text.
    """
    encodings = reader.encodings(
        _cut(reader, [each.question for each in questions], question_length),
        [each.context for each in questions],
        truncation="only_second",
        max_length=reader.length,
        stride=stride,
    )
    windows = [
        _window(encoding, number, question)
        for number, (question, first) in enumerate(zip(questions, encodings, strict=True))
        for encoding in (first, *first.overflowing)
    ]
    reader.check_vocabulary([window.encoded for window in windows])
    return windows


def _cut(reader: TextReader, texts: list[str], length: int) -> list[str]:
    """Each text, or as much of it as makes `length` tokens; how many were cut is said."""
    offsets = [encoding.offsets for encoding in reader.encodings(texts, add_special_tokens=False)]
    long = sum(len(each) > length for each in offsets)
    if long:
        say(f"{long:,} of {len(texts):,} questions are longer than {length} tokens, and cut")
    return [
        text[: each[length - 1][1]] if len(each) > length else text
        for text, each in zip(texts, offsets, strict=True)
    ]


def _window(encoding: Any, number: int, question: Question) -> Window:
    places, sequences = encoding.offsets, encoding.sequence_ids
    of_text = [token for token, sequence in enumerate(sequences) if sequence == 1]
    if not of_text:
        raise DataError(
            f"the tokenizer makes no token of the text of question {question.id}.\n  Try: remove the question"
        )
    offsets = np.array([places[token] for token in of_text], dtype=np.int32)
    encoded = Encoded.of(encoding, *_ends(offsets, of_text[0], question))
    return Window(encoded, number, of_text[0], offsets)


def _ends(offsets: np.ndarray, first: int, question: Question) -> tuple[int, int]:
    """The row's tokens that the first of the answers begins and ends in; (0, 0) where the window does not hold it whole."""
    if not question.answers:
        return 0, 0
    text, start = question.answers[0]
    end = start + len(text)
    if start < offsets[0, 0] or end > offsets[-1, 1]:
        return 0, 0
    begins = int(np.searchsorted(offsets[:, 0], start, side="right")) - 1
    ends = int(np.searchsorted(offsets[:, 1], end, side="left"))
    return first + begins, first + ends


def answers_given(
    engine: Engine,
    objective: EndsOfAnswer,
    windows: Sequence[Window],
    rows: FixedRows,
    questions: Questions,
    *,
    answer_length: int,
) -> list[str]:
    """The best answer to each question; "" where none is likelier and there need not be one.

    Args:
        rows: of the windows.
        answer_length: most tokens of an answer.
    """
    found = predictions(engine, rows.batches, lambda batch: objective.logits(engine.module, batch))
    logits = rows.in_order([row for batch in found for row in batch])
    best = [-np.inf] * len(questions.items)
    none, answers = [np.inf] * len(questions.items), [""] * len(questions.items)
    for window, (starts, ends) in zip(windows, logits, strict=True):
        number = window.question
        value, begin, end = _best_span(window, starts, ends, answer_length)
        none[number] = min(none[number], float(starts[0] + ends[0]))
        if value > best[number]:
            best[number] = value
            text = questions.items[number].context[window.offsets[begin, 0] : window.offsets[end, 1]]
            answers[number] = text.strip()
    if not questions.may_be_unanswerable:
        return answers
    return [
        "" if absent > value else answer for answer, value, absent in zip(answers, best, none, strict=True)
    ]


def _best_span(
    window: Window, starts: np.ndarray, ends: np.ndarray, answer_length: int
) -> tuple[float, int, int]:
    """The largest sum of both logits, over spans inside the text, and the span's first and last token in the text."""
    last = window.first + len(window.offsets)
    sums = starts[window.first : last, None] + ends[None, window.first : last]
    places = np.arange(len(window.offsets))
    length = places[None, :] - places[:, None]
    sums = np.where((length >= 0) & (length < answer_length), sums, -np.inf)
    begin, end = np.unravel_index(int(sums.argmax()), sums.shape)
    return float(sums[begin, end]), int(begin), int(end)
