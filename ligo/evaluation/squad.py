"""Fine-tuning on extractive question answering, on files in the format of SQuAD 1.1 and 2.0."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ligo.core.checks import check_between
from ligo.core.errors import ConfigError
from ligo.core.log import say
from ligo.core.run import Run
from ligo.evaluation.finetuning import config as options
from ligo.evaluation.finetuning.config import FineTuningConfig
from ligo.evaluation.finetuning.squad import Questions, find_split, read_questions, score
from ligo.evaluation.models import Model
from ligo.evaluation.registry import EVALUATIONS, EvaluationOfEach, Findings

_USUAL_LENGTH, _USUAL_STRIDE, _USUAL_QUESTION = 384, 128, 64
_MOST_MARKS = 4  # tokens that mark ends of question and text


@dataclass(kw_only=True)
class SquadConfig(FineTuningConfig):
    """path: a folder with train*.json and dev*.json or validation*.json, or the file to learn from, beside validation_path."""

    max_length: int | None = None
    """Tokens of question and text together; longer texts are cut into windows. null: 384, or as many as the model has
    positions."""
    stride: int | None = None
    """Tokens that two windows of one text have in common. null: 128, at most a third of max_length."""
    question_length: int | None = None
    """Most tokens of a question; longer ones are cut. null: 64, at most a third of max_length."""
    answer_length: int = 30
    """Most tokens of an answer that is given."""


@EVALUATIONS.register("squad")
class QuestionAnswering(EvaluationOfEach[SquadConfig]):
    """Fine-tune on finding answers in texts, and score exact match and F1."""

    Config: ClassVar[type[SquadConfig]] = SquadConfig

    @classmethod
    def check(cls, config: SquadConfig) -> None:
        options.check(config)
        for key in ("max_length", "stride", "question_length", "answer_length"):
            value = getattr(config, key)
            if value is not None:
                check_between(f"evaluation.{key}", value, 0 if key == "stride" else 1)

    def decisive(self) -> dict[str, Any]:
        return options.decisive(self.config)

    def prepare(self, models: Sequence[Model]) -> str:
        from ligo.evaluation.finetuning.spans import windows_of
        from ligo.evaluation.finetuning.text_rows import TextReader

        options.check_models(models, self.config)
        self._questions = self._read()
        self._readers = {
            model.name: TextReader.of(model, self.config.max_length, _USUAL_LENGTH) for model in models
        }
        self._windows = {}
        for name, reader in self._readers.items():
            stride, question_length = self._sizes(reader.length)
            self._windows[name] = {
                split: windows_of(reader, questions.items, stride=stride, question_length=question_length)
                for split, questions in self._questions.items()
            }
        return hashlib.sha256(repr(self._questions).encode()).hexdigest()

    def _read(self) -> dict[str, Questions]:
        """Questions by split: those to learn from, then those to score on, validation first."""
        config = self.config
        assert config.path is not None, "checked with the options"
        folder = options.split_folder(config)
        found = {
            "train": read_questions(find_split(config.path, "train")),
            "validation": read_questions(find_split(config.validation_path or folder, "validation")),
        }
        if config.test:
            found["test"] = read_questions(find_split(folder, "test"))
        counts = ", ".join(f"{len(questions.items):,} {split}" for split, questions in found.items())
        say(f"{counts} questions")
        return found

    def _sizes(self, length: int) -> tuple[int, int]:
        """Stride and length of a question.

        Raises:
            ConfigError: they leave no room for a window to move on.
        """
        config = self.config
        stride = min(_USUAL_STRIDE, length // 3) if config.stride is None else config.stride
        question = (
            min(_USUAL_QUESTION, length // 3) if config.question_length is None else config.question_length
        )
        room = length - question - _MOST_MARKS
        if stride >= room:
            raise ConfigError(
                f"evaluation.stride={stride}: beside questions of {question} tokens, a window of {length} has room for "
                f"{max(room, 0)} tokens of a text, and has to move on by one at least.\n"
                f"  Try: evaluation.stride={max(0, room // 2)}, or a larger evaluation.max_length"
            )
        return stride, question

    def evaluate(self, model: Model, run: Run, seed: int) -> Findings:
        from ligo.evaluation.finetuning.grid import Job, run_grid, spread
        from ligo.evaluation.finetuning.heads import model_with_head
        from ligo.evaluation.finetuning.spans import EndsOfAnswer, answers_given
        from ligo.evaluation.finetuning.text_rows import FixedRows, TextBatches

        config, reader = self.config, self._readers[model.name]
        windows = dict(self._windows[model.name])
        learned = [window.encoded for window in windows.pop("train")]
        rows = {split: FixedRows([window.encoded for window in found]) for split, found in windows.items()}
        held_out = [window.encoded for window in windows["validation"]]
        objective = EndsOfAnswer(reader.family, lambda: reader.tokenizer)

        def make(seed: int) -> tuple[Any, list[str]]:
            head = "AutoModelForQuestionAnswering"
            return model_with_head(model.checkpoint.folder, head, reader.family, seed, num_labels=2)

        return run_grid(
            Job(
                model=model.name,
                task="squad",
                make=make,
                objective=objective,
                batches=lambda seed: TextBatches(learned, config.train.batch_size, seed),
                followed=FixedRows([held_out[number] for number in spread(len(held_out))]).batches,
                rows={split: found.batches for split, found in rows.items()},
                num_examples=len(learned),
                length=reader.length,
                forward_flops=objective.flops,
                scores=lambda engine: {
                    split: score(
                        self._questions[split],
                        answers_given(
                            engine,
                            objective,
                            windows[split],
                            found,
                            self._questions[split],
                            answer_length=config.answer_length,
                        ),
                    )
                    for split, found in rows.items()
                },
                counts={split: len(self._questions[split].items) for split in rows},
            ),
            config,
            run,
            seed,
        )
