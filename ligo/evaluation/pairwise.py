"""Answers judged in pairs: models answer questions, a judge says of every two answers which is better.

    answers/MODEL.jsonl    what the models answered
    judgements.jsonl       what the judge said, as it arrived: paid once, and a recording to replay

A judge is reached as a teacher of ligo.instruct is: an endpoint, a checkpoint folder, or a recording.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from ligo.core.checks import check_choice
from ligo.core.errors import CheckpointError, ConfigError, DataError
from ligo.core.log import progress
from ligo.core.run import Run
from ligo.evaluation.answers import Answer, AnswerConfig, answer, prompts_for
from ligo.evaluation.answers import check as check_answers
from ligo.evaluation.causal import check_causal
from ligo.evaluation.models import Model
from ligo.evaluation.questions import read_questions
from ligo.evaluation.registry import EVALUATIONS, Evaluation, EvaluationConfig, Findings
from ligo.evaluation.verdicts import Pair, comparisons, read_verdict
from ligo.instruction.config import TeacherConfig, check_teacher
from ligo.instruction.lines import JsonLines
from ligo.instruction.prompt import Request
from ligo.instruction.teachers.base import TEACHERS, Completion
from ligo.instruction.teachers.replay import read_completions


@dataclass(kw_only=True)
class PairwiseConfig(EvaluationConfig):
    """What is asked, how models answer, and who judges."""

    name: str = "pairwise"
    questions: str | None = None
    """Questions of one turn, .jsonl with question_id, category and turns, as in FastChat's Vicuna benchmark."""
    answers: AnswerConfig = field(default_factory=AnswerConfig)
    judge: TeacherConfig = field(default_factory=lambda: TeacherConfig(temperature=0.0, max_tokens=1024))
    """judge.name: openai (any endpoint that speaks the chat completions of OpenAI), local (judge.path=DIR), or replay
    (judge.path=RUN/judgements.jsonl)."""


@EVALUATIONS.register("pairwise")
class Pairwise(Evaluation[PairwiseConfig]):
    """All pairs of models, on all questions, in both orders."""

    Config = PairwiseConfig

    @classmethod
    def check(cls, config: PairwiseConfig) -> None:
        check_answers(config.answers, "evaluation.answers")
        check_teacher(config.judge, "evaluation.judge")
        check_choice("evaluation.judge.name", config.judge.name, TEACHERS.names())

    def prepare(self, models: Sequence[Model]) -> str:
        if len(models) < 2:
            raise ConfigError(
                f"a pair needs two models, and there is {len(models)}.\n  Try: models.OTHER.path=DIR beside it"
            )
        self._questions = read_questions(self.config.questions)
        self._prompts = {}
        for model in models:
            check_causal(model)
            self._prompts[model.name] = prompts_for(model, self._questions, self.config.answers)
        self._comparisons = comparisons([model.name for model in models], self._questions)
        with _named_as_here():
            self._judge = TEACHERS.get(self.config.judge.name)(self.config.judge, 0)
        if self.config.judge.name == "replay":
            self._check_recording()
        texts = [asdict(question) for question in self._questions]
        return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()

    def run(self, models: Sequence[Model], run: Run, seed: int) -> list[Findings]:
        answers = {
            model.name: answer(
                model,
                self._questions,
                self._prompts[model.name],
                self.config.answers,
                run.folder / "answers" / f"{model.name}.jsonl",
                seed,
            )
            for model in models
        }
        texts = {name: {each.question: each.text for each in given} for name, given in answers.items()}
        judgements = self._judged(run, texts)
        pairs = self._pairs([model.name for model in models], judgements)
        rows = [row for pair in pairs for row in pair.rows(seed)]
        judge = self._account(judgements)
        return [
            Findings(
                rows=[row for row in rows if row.model == model.name],
                flops=_total_flops(answers[model.name]),
                details={
                    "answers": _account_answers(answers[model.name]),
                    "score_by_category": self._by_category(model.name, pairs),
                    "judge": judge,
                },
            )
            for model in models
        ]

    def decisive(self) -> dict[str, Any]:
        """Without how fast, how patiently and for how much the judge is asked, and without where a recording lies."""
        judge = {
            key: getattr(self.config.judge, key)
            for key in ("model", "temperature", "top_p", "max_tokens", "request")
        }
        return {**asdict(self.config), "judge": judge}

    # the judge

    def _judged(self, run: Run, texts: Mapping[str, Mapping[str, str]]) -> list[Completion]:
        """What the judge says to each comparison, in their order; asked for what the run folder lacks.

        Raises:
            Interrupted: the endpoint does not answer now; what has arrived is kept.
            DataError: a recording is of other answers.
        """
        requests = [each.request(number, texts) for number, each in enumerate(self._comparisons)]
        if self.config.judge.name == "replay":
            self._check_recording(requests)
        file = JsonLines(run.folder / "judgements.jsonl")
        with closing(file), progress("judgements", len(requests)) as bar:
            judged = read_completions(file.path)
            for line, (number, completion) in enumerate(judged.items(), start=1):
                if number >= len(requests) or completion.prompt != requests[number].digest:
                    raise file.changed(line, "the judgement of a pair of these answers")
            bar.advance(len(judged))
            missing: Iterator[Request] = iter(
                [request for request in requests if request.number not in judged]
            )
            with _named_as_here():
                for completion in self._judge.complete(lambda: next(missing, None)):
                    file.append([asdict(completion)])
                    judged[completion.request] = completion
                    bar.advance(1)
        return [judged[number] for number in range(len(requests))]

    def _check_recording(self, requests: Sequence[Request] | None = None) -> None:
        """Refuse a recording that lacks a comparison, or, once there are answers, one of other answers."""
        path = Path(str(self.config.judge.path)).expanduser()
        recorded = read_completions(path)
        lacking = [number for number in range(len(self._comparisons)) if number not in recorded]
        if lacking:
            first = self._comparisons[lacking[0]]
            raise DataError(
                f"{path} lacks {len(lacking)} of {len(self._comparisons)} judgements, the first of them on question "
                f"{first.question.id}, {first.first} shown before {first.second}.\n"
                "  Try: the same models in the same order and the same questions as in that run, or another judge.name"
            )
        for request in requests or []:
            if recorded[request.number].prompt != request.digest:
                at = self._comparisons[request.number]
                raise DataError(
                    f"{path} judges other answers to question {at.question.id} than those of {at.first} and {at.second} "
                    "here.\n  Try: the models, seed= and evaluation.answers. of that run, or its folder answers/ copied into "
                    "run.dir"
                )

    # what it comes to

    def _pairs(self, names: Sequence[str], judgements: Sequence[Completion]) -> list[Pair]:
        verdicts = [
            (comparison, read_verdict(judgement.text))
            for comparison, judgement in zip(self._comparisons, judgements, strict=True)
        ]
        return [
            Pair(one, other, [each for each in verdicts if {each[0].first, each[0].second} == {one, other}])
            for one, other in combinations(names, 2)
        ]

    def _by_category(self, model: str, pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
        """Opponent -> category -> the model's mean score."""
        category = {question.id: question.category for question in self._questions}
        found: dict[str, dict[str, float]] = {}
        for pair in pairs:
            if model in (pair.one, pair.other):
                scores = pair.scores(model)
                opponent = pair.other if model == pair.one else pair.one
                found[opponent] = {
                    name: sum(points) / len(points)
                    for name in dict.fromkeys(category.values())
                    if (points := [score for each, score in scores.items() if category[each] == name])
                }
        return found

    def _account(self, judgements: Sequence[Completion]) -> dict[str, Any]:
        """Tokens and cost of the judge, all starts together, and why its answers ended."""
        judge = self.config.judge
        prompt = sum(each.prompt_tokens for each in judgements)
        completion = sum(each.completion_tokens for each in judgements)
        cost = (prompt * judge.prompt_price + completion * judge.completion_price) / 1000
        return {
            "requests": len(judgements),
            "tokens": {"prompt": prompt, "completion": completion},
            "cost": round(cost, 6),
            "finish": dict(sorted(Counter(each.finish for each in judgements).items())),
        }


_NAMES = {
    "teacher=": "evaluation.judge.name=",
    "teacher.": "evaluation.judge.",
    "completions.jsonl": "judgements.jsonl",
}


@contextmanager
def _named_as_here() -> Iterator[None]:
    """Teachers say how they are set in ligo.instruct."""
    try:
        yield
    except (ConfigError, CheckpointError, DataError) as error:
        words = str(error)
        for theirs, ours in _NAMES.items():
            words = words.replace(theirs, ours)
        raise type(error)(words) from error


def _total_flops(answers: Sequence[Answer]) -> float | None:
    parts = [each.flops for each in answers]
    return None if None in parts else sum(part for part in parts if part is not None)


def _account_answers(answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "count": len(answers),
        "tokens": {
            "prompt": sum(each.prompt_tokens for each in answers),
            "completion": sum(each.tokens for each in answers),
        },
        "finish": dict(sorted(Counter(each.finish for each in answers).items())),
    }
