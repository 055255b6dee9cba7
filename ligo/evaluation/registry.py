"""What an evaluation is: read data, score models, give rows.

A new evaluation is one file in this package with a dataclass of options, a class under
`@EVALUATIONS.register("name")`, and `conf/evaluation/NAME.yaml`. Modules here import torch and transformers where they
use them: the registry imports all of them to compose a command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from ligo.core.log import say
from ligo.core.registry import Registry
from ligo.core.run import Run
from ligo.evaluation.models import Model


@dataclass(kw_only=True)
class EvaluationConfig:
    """The options of one evaluation; each has its own below these."""

    name: str = ""
    """The evaluation's name in the registry; its file in conf/evaluation sets it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of one model."""

    model: str
    task: str
    """What it was scored on: the name of a text, a task, an opponent."""
    metric: str
    value: float
    standard_error: float | None = None
    """Of the value over the items; None where there is one item, or no formula."""
    interval: tuple[float, float] | None = None
    """A bootstrap interval at 95 %, where there is one."""
    count: int
    """Items that the value is a mean over: documents, questions, examples."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an evaluation found out about one model."""

    rows: list[Row]
    flops: float | None
    """All that was computed with the model, by the formula of `ligo.accounting`; None where it has no ligo family."""
    details: dict[str, Any] = field(default_factory=dict)
    """Whatever else should be kept in evaluation.json; plain JSON."""

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Findings:
        rows = [
            Row(**{**row, "interval": tuple(row["interval"]) if row["interval"] else None})
            for row in record["rows"]
        ]
        return cls(rows=rows, flops=record["flops"], details=record["details"])


C = TypeVar("C", bound=EvaluationConfig)


class Evaluation(ABC, Generic[C]):
    """One way to score models; made from its options, then prepared, then run."""

    Config: ClassVar[type[EvaluationConfig]]
    """The dataclass of its options."""

    def __init__(self, config: C) -> None:
        self.config = config

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse options that cannot be; called before anything is read.

        Raises:
            ConfigError: the value, why it cannot be, and what to type instead.
        """

    @abstractmethod
    def prepare(self, models: Sequence[Model]) -> str:
        """Read the data, and refuse what does not go together, before any long work and any weight is read.

        Returns:
            A fingerprint of the data: SHA-256 of what is scored.

        Raises:
            LigoError: data or models that will not do, or a package that is not installed.
        """

    @abstractmethod
    def run(self, models: Sequence[Model], run: Run, seed: int) -> list[Findings]:
        """Score the models; what is finished is kept in the run folder, and a second start goes on after it.

        Returns:
            One for each model, in their order.
        """

    def decisive(self) -> dict[str, Any]:
        """The options that decide the figures; a run folder goes on with these only."""
        return asdict(self.config)


class EvaluationOfEach(Evaluation[C]):
    """An evaluation that scores one model after another; each is kept as soon as it is done."""

    def run(self, models: Sequence[Model], run: Run, seed: int) -> list[Findings]:
        for model in models:
            if model.name not in run.stage_results():
                say(f"{self.config.name} of {model.name}")
                run.finish_stage(model.name, asdict(self.evaluate(model, run, seed)))
        done = run.stage_results()
        return [Findings.from_json(done[model.name]) for model in models]

    @abstractmethod
    def evaluate(self, model: Model, run: Run, seed: int) -> Findings:
        """Score one model."""


EVALUATIONS: Registry[type[Evaluation]] = Registry("evaluation", "ligo.evaluation", option="evaluation")
