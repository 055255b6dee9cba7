"""Which of two answers is better: what a judge is asked, what it says, and what all of it comes to.

A judge sees both answers and ends with [[A]], [[B]] or [[C]], a tie, as in Zheng et al. 2023 (arXiv 2306.05685); judges
tend to prefer one place, so each pair is shown in both orders. What a judge says without a verdict, or with two, is
counted as unread and never guessed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from ligo.accounting.statistics import estimate
from ligo.evaluation.questions import Question
from ligo.evaluation.registry import Row
from ligo.instruction.prompt import Request

Verdict = Literal["first", "second", "tie"]
_VERDICTS: Mapping[str, Verdict] = {"A": "first", "B": "second", "C": "tie"}
_TEMPLATE = """\
You compare two answers to the same question. Look at whether they are correct, whether they answer what was asked, how \
complete and how clear they are, and whether they could do harm. Pay no heed to which answer stands first, to their \
lengths, or to how sure of themselves they sound.

The question, between lines of equals signs:
==========
{question}
==========

Answer A:
==========
{first}
==========

Answer B:
==========
{second}
==========

Say in a few sentences what is good and what is bad about each. Then end with a line that holds your verdict and nothing \
else: [[A]] if answer A is better, [[B]] if answer B is better, [[C]] if they are equally good.
"""


@dataclass(frozen=True)
class Comparison:
    """One request to the judge: a question, and whose answers it sees in which order."""

    question: Question
    first: str
    second: str

    def request(self, number: int, answers: Mapping[str, Mapping[str, str]]) -> Request:
        """
        Args:
            answers: model -> id of a question -> its answer.
        """
        prompt = _TEMPLATE.format(
            question=self.question.text,
            first=answers[self.first][self.question.id],
            second=answers[self.second][self.question.id],
        )
        return Request(number, prompt, [], [])


def comparisons(models: Sequence[str], questions: Sequence[Question]) -> list[Comparison]:
    """All pairs of models, each on all questions, each in both orders."""
    return [
        Comparison(question, *order)
        for one, other in combinations(models, 2)
        for question in questions
        for order in ((one, other), (other, one))
    ]


def read_verdict(text: str) -> Verdict | None:
    """What a judge has decided; None where it gives no verdict, or different ones."""
    found = set(re.findall(r"\[\[([ABC])\]\]", text))
    return _VERDICTS[found.pop()] if len(found) == 1 else None


Judged = tuple[Comparison, Verdict]
_OVER_QUESTIONS = ("score", "agree", "first_preferred")


@dataclass(frozen=True)
class Pair:
    """All that a judge said about two models."""

    one: str
    other: str
    verdicts: Sequence[tuple[Comparison, Verdict | None]]

    @property
    def read(self) -> list[Judged]:
        """Without what holds no verdict."""
        return [(comparison, verdict) for comparison, verdict in self.verdicts if verdict is not None]

    def scores(self, model: str) -> dict[str, float]:
        """Id of a question -> the model's points, in the mean over the orders in which a verdict was read."""
        return _means(self.read, lambda judged: _points(judged, model))

    def rows(self, seed: int) -> list[Row]:
        """The figures of the pair, for each of its models; figures that have no side are the same for both.

        score             points, 1 for the better answer and 1/2 for a tie, over questions; both models' add up to 1
        wins, ties        parts of the verdicts that were read
        agree             part of the questions with two verdicts on which these are the same
        first_preferred   points of the answer that is shown first, over questions: 1/2 without position bias
        unread            part of what the judge said that holds no verdict

        Standard errors are over questions, and only of figures that are means over questions: the two verdicts on one
        question hang together.

        Args:
            seed: of the bootstrap over questions.
        """
        of_first = _means(self.read, lambda judged: _points(judged, judged[0].first))
        points = _by_question(self.read, lambda judged: _points(judged, self.one))
        shared: dict[str, Sequence[float]] = {
            "ties": [verdict == "tie" for _, verdict in self.read],
            "agree": [len(set(both)) == 1 for both in points.values() if len(both) == 2],
            "first_preferred": list(of_first.values()),
            "unread": [verdict is None for _, verdict in self.verdicts],
        }
        rows = []
        for model in (self.one, self.other):
            own: dict[str, Sequence[float]] = {
                "score": list(self.scores(model).values()),
                "wins": [_points(judged, model) == 1 for judged in self.read],
            }
            for metric, values in (own | shared).items():
                if values:
                    rows.append(self._row(model, metric, [float(value) for value in values], seed))
        return rows

    def _row(self, model: str, metric: str, values: Sequence[float], seed: int) -> Row:
        found = estimate(values, seed=seed)
        assert found.mean is not None
        row = Row(
            model=model,
            task=f"{self.one} vs {self.other}",
            metric=metric,
            value=found.mean,
            count=len(values),
        )
        if metric not in _OVER_QUESTIONS:
            return row
        error = None if found.deviation is None else found.deviation / len(values) ** 0.5
        return replace(row, standard_error=error, interval=found.interval)


def _points(judged: Judged, model: str) -> float:
    """What a verdict gives to one of the two models."""
    comparison, verdict = judged
    if verdict == "tie":
        return 0.5
    better = comparison.first if verdict == "first" else comparison.second
    return 1.0 if better == model else 0.0


def _by_question(judged: Sequence[Judged], value: Callable[[Judged], float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for each in judged:
        found[each[0].question.id].append(value(each))
    return found


def _means(judged: Sequence[Judged], value: Callable[[Judged], float]) -> dict[str, float]:
    return {question: sum(values) / len(values) for question, values in _by_question(judged, value).items()}
