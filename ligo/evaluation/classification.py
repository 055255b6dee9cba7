"""Fine-tuning on the labels of texts: the tasks of GLUE, and others in the same forms."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ligo.core.checks import check_between, check_choice
from ligo.core.errors import ConfigError
from ligo.core.log import say
from ligo.core.run import Run
from ligo.evaluation.finetuning import config as options
from ligo.evaluation.finetuning.config import FineTuningConfig
from ligo.evaluation.finetuning.glue import TASKS, Example, MissingSplit, Task, read_examples
from ligo.evaluation.finetuning.metrics import FOR_TWO_CLASSES, METRICS, OF_NUMBERS, check_installed, score
from ligo.evaluation.models import Model
from ligo.evaluation.registry import EVALUATIONS, EvaluationOfEach, Findings, Row

OWN = "own"
_USUAL_LENGTH = 128


@dataclass(kw_only=True)
class ClassificationConfig(FineTuningConfig):
    """path: a folder with train and dev or validation in .tsv, .jsonl or .parquet; one that `datasets` saved; a hub id; or the
    file to learn from, beside validation_path."""

    task: str = "sst2"
    """cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli; or own, with the four options below."""
    columns: list[str] = field(default_factory=list)
    """own: the columns of one text or two."""
    label: str = "label"
    """own: the column of labels."""
    classes: list[str] = field(default_factory=list)
    """own: the names of the classes, by number; none where labels are numbers to be guessed."""
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    """own: accuracy, f1 (of class 1), matthews, pearson, spearman; rates are chosen by the first."""
    max_length: int | None = None
    """Most tokens of an example; longer ones are cut. null: 128, or as many as the model has positions."""


@EVALUATIONS.register("classification")
class Classification(EvaluationOfEach[ClassificationConfig]):
    """Fine-tune on a task, and score on its validation split."""

    Config: ClassVar[type[ClassificationConfig]] = ClassificationConfig

    @classmethod
    def check(cls, config: ClassificationConfig) -> None:
        options.check(config)
        check_choice("evaluation.task", config.task, (*TASKS, OWN))
        if config.max_length is not None:
            check_between("evaluation.max_length", config.max_length, 4)
        if config.task == OWN:
            _check_own(config)
        elif config.columns or config.classes:
            raise ConfigError(
                f"evaluation.columns and evaluation.classes are for evaluation.task=own; {config.task} has its own.\n"
                "  Try: evaluation.task=own"
            )

    def decisive(self) -> dict[str, Any]:
        return options.decisive(self.config)

    @property
    def task(self) -> Task:
        config = self.config
        if config.task != OWN:
            return TASKS[config.task]
        columns = tuple((column,) for column in config.columns)
        return Task(columns, (config.label,), tuple(config.classes), tuple(config.metrics))

    def prepare(self, models: Sequence[Model]) -> str:
        from ligo.evaluation.finetuning.text_classes import encode
        from ligo.evaluation.finetuning.text_rows import TextReader

        options.check_models(models, self.config)
        check_installed()
        self._examples = self._read()
        self._readers = {
            model.name: TextReader.of(model, self.config.max_length, _USUAL_LENGTH) for model in models
        }
        self._encoded = {
            name: {
                split: encode(reader, examples, numbers=self.task.guesses_numbers)
                for split, examples in self._examples.items()
            }
            for name, reader in self._readers.items()
        }
        return hashlib.sha256(repr(self._examples).encode()).hexdigest()

    def _read(self) -> dict[str, list[Example]]:
        """Examples by split: those to learn from, then those to score on, validation first."""
        config, task = self.config, self.task
        path = config.path
        assert path is not None, "checked with the options"
        folder = options.split_folder(config)

        def read(path: str, split: str) -> list[Example]:
            return read_examples(path, split, task, config.task)

        found = {
            "train": read(path, "train"),
            "validation": read(config.validation_path or folder, "validation"),
        }
        if config.task == "mnli" and config.validation_path is None:
            try:
                found["mismatched"] = read(folder, "mismatched")
            except MissingSplit:
                say("there is no mismatched validation split; matched is scored alone")
        if config.test:
            found["test"] = read(folder, "test")
        counts = ", ".join(f"{len(examples):,} {split}" for split, examples in found.items())
        say(f"{config.task}: {counts} examples")
        return found

    def evaluate(self, model: Model, run: Run, seed: int) -> Findings:
        from ligo.evaluation.finetuning.grid import Job, run_grid, spread
        from ligo.evaluation.finetuning.heads import model_with_head
        from ligo.evaluation.finetuning.text_classes import ClassOfText, NumberOfText, labels_given
        from ligo.evaluation.finetuning.text_rows import FixedRows, TextBatches

        config, task, reader = self.config, self.task, self._readers[model.name]
        encoded = dict(self._encoded[model.name])
        learned = encoded.pop("train")
        held_out = encoded["validation"]
        rows = {split: FixedRows(examples) for split, examples in encoded.items()}
        kind = NumberOfText if task.guesses_numbers else ClassOfText
        objective = kind(reader.family, lambda: reader.tokenizer)
        dtype = np.float64 if task.guesses_numbers else np.int64
        right = {
            split: np.array([each.label for each in self._examples[split]], dtype=dtype) for split in rows
        }

        def make(seed: int) -> tuple[Any, list[str]]:
            head = "AutoModelForSequenceClassification"
            made, drawn = model_with_head(
                model.checkpoint.folder, head, reader.family, seed, num_labels=len(task.classes) or 1
            )
            if made.config.pad_token_id is None:  # causal models look for the last token before it
                made.config.pad_token_id = reader.fill
            return made, drawn

        findings = run_grid(
            Job(
                model=model.name,
                task=config.task,
                make=make,
                objective=objective,
                batches=lambda seed: TextBatches(learned, config.train.batch_size, seed),
                followed=FixedRows([held_out[number] for number in spread(len(held_out))]).batches,
                rows={split: found.batches for split, found in rows.items()},
                num_examples=len(learned),
                length=reader.length,
                forward_flops=objective.flops,
                scores=lambda engine: {
                    split: score(task.metrics, right[split], labels_given(engine, objective, found))
                    for split, found in rows.items()
                },
                counts={split: len(labels) for split, labels in right.items()},
            ),
            config,
            run,
            seed,
        )
        findings.rows.extend(self._majority(model.name))
        return findings

    def _majority(self, model: str) -> list[Row]:
        """What the most frequent class of the training split would score everywhere."""
        if "accuracy" not in self.task.metrics:
            return []
        usual = Counter(example.label for example in self._examples["train"]).most_common(1)[0][0]
        return [
            Row(
                model=model,
                task=options.task_of(self.config.task, split),
                metric="accuracy of the most frequent class",
                value=float(np.mean([example.label == usual for example in examples])),
                count=len(examples),
            )
            for split, examples in self._examples.items()
            if split != "train"
        ]


def _check_own(config: ClassificationConfig) -> None:
    if not 1 <= len(config.columns) <= 2:
        raise ConfigError(
            f"evaluation.task=own reads one text or two, and evaluation.columns={config.columns}.\n"
            "  Try: evaluation.columns=[sentence]"
        )
    if len(config.classes) == 1:
        raise ConfigError(
            f"evaluation.classes={config.classes} leaves nothing to choose.\n  Try: two and more"
        )
    fitting = [
        name
        for name in METRICS
        if (name in OF_NUMBERS) == (not config.classes)
        and (name not in FOR_TWO_CLASSES or len(config.classes) == 2)
    ]
    if not config.metrics:
        raise ConfigError("evaluation.metrics is empty.\n  Try: evaluation.metrics=[accuracy]")
    for metric in config.metrics:
        check_choice("evaluation.metrics", metric, tuple(METRICS))
        if metric not in fitting:
            kind = f"{len(config.classes)} classes" if config.classes else "numbers"
            raise ConfigError(
                f"evaluation.metrics: {metric} does not score {kind}.\n  Try: evaluation.metrics=[{fitting[0]}]"
            )
