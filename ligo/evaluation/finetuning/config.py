"""The options that all fine-tuning evaluations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ligo.core.checks import check_between
from ligo.core.errors import ConfigError
from ligo.evaluation.models import Model
from ligo.evaluation.registry import EvaluationConfig
from ligo.training.config import TrainConfig
from ligo.training.config import check as check_training
from ligo.tuning.config import TuneTrainConfig, check_budget, check_spread, training_of


@dataclass(kw_only=True)
class FineTuningTrainConfig(TuneTrainConfig):
    """How long and how fast, in examples; as BERT is fine-tuned (Devlin et al. 2018, arXiv 1810.04805, appendix A.3)."""

    batch_size: int = 32
    """Examples per optimiser step."""
    schedule: str = "wsd"
    """As everywhere; with decay_fraction=0.9 and a tenth for warm-up: up and down in straight lines."""
    warmup_fraction: float = 0.1
    """Part of the steps spent warming up."""
    decay_fraction: float = 0.9
    """wsd: part of the steps spent decaying."""
    weight_decay: float = 0.01
    """On matrices only."""
    beta2: float = 0.999
    """Adam: decay of the second moment."""
    evaluate_every: int = 100
    """Steps between validation losses."""
    engine: str = "torch"
    """torch: evaluations run in one process."""


@dataclass(kw_only=True)
class FineTuningConfig(EvaluationConfig):
    """What is common to all tasks."""

    path: str | None = None
    """Where the examples are; the evaluation says in which forms."""
    validation_path: str | None = None
    """A file with the examples to score on. null: the split of `path` that is called so."""
    rates: list[float] = field(default_factory=lambda: [5e-5])
    """Peak rates to try, each from the same start; the one with the best mean score on validation counts."""
    seeds: int = 1
    """Runs at each rate, from the seeds `seed`, `seed` + 1, ...: of fresh head weights, order and dropout."""
    test: bool = False
    """Also score the split `test` at the rate that validation chose; its labels must be there."""
    train: FineTuningTrainConfig = field(default_factory=FineTuningTrainConfig)


_INDECISIVE = ("save_every", "keep_last", "keep_every")


def check(config: FineTuningConfig) -> None:
    """Refuse values that cannot be.

    Raises:
        ConfigError: the value, why it cannot be, and what to type instead.
    """
    if config.path is None:
        raise ConfigError(
            "there is nothing to fine-tune on: evaluation.path is not set.\n  Try: evaluation.path=FOLDER"
        )
    if not config.rates:
        raise ConfigError("evaluation.rates names no rate.\n  Try: evaluation.rates=[2e-5,5e-5]")
    for rate in config.rates:
        check_between("evaluation.rates", rate, 0, above=True)
    if len(set(config.rates)) < len(config.rates):
        raise ConfigError(f"evaluation.rates={config.rates} names a rate twice.\n  Try: each once")
    check_between("evaluation.seeds", config.seeds, 1)
    train = config.train
    check_budget(train, "evaluation.train")
    check_training(train, "evaluation.train")
    check_spread(train, 1, "evaluation.train")
    refused = {
        "engine": (train.engine, "torch", "evaluations run in one process"),
        "lr": (train.lr, TrainConfig.lr, "the rates to try are named by evaluation.rates"),
        "export": (train.export, "none", "what is kept of a fine-tuned model is its scores"),
        "rewarm_steps": (train.rewarm_steps, 0, "nothing has grown since the optimiser was made"),
        "token_drop": (train.token_drop, 0.0, "answers are read off single tokens, which every layer has to see"),
    }  # fmt: skip
    for key, (value, only, why) in refused.items():
        if value != only:
            raise ConfigError(
                f"evaluation.train.{key}={value} cannot be: {why}.\n  Try: leave evaluation.train.{key} out"
            )


def check_models(models: Sequence[Model], config: FineTuningConfig) -> None:
    """Refuse models and ways of training that cannot be here.

    Raises:
        ConfigError: an adapter; a device or a precision that is not what training takes; a GPU or a package is missing.
    """
    import torch

    from ligo.training.compute import check_fits

    check_fits(config.train, {})

    taken = "cuda" if torch.cuda.is_available() else "cpu"
    for model in models:
        if model.adapter is not None:
            raise ConfigError(
                f"models.{model.name} is an adapter, and fine-tuning trains all weights of a model.\n"
                "  Try: python -m ligo.tune ... merge=true, and the path of its run"
            )
        if model.device() != taken:
            raise ConfigError(
                f"compute.device={model.compute.device}: training runs on the {taken} here.\n  Try: compute.device=auto"
            )
        if model.compute.dtype not in ("auto", "float32"):
            raise ConfigError(
                f"compute.dtype={model.compute.dtype}: the weights that are trained are held in float32.\n"
                "  Try: compute.dtype=auto, and evaluation.train.precision=bf16 to compute in half precision"
            )


def training_at(config: FineTuningConfig, rate: float, num_examples: int, length: int) -> TrainConfig:
    """The training of one run in tokens, an example being counted as `length` of them."""
    return replace(training_of(config.train, num_examples, length), lr=rate)


def decisive(config: FineTuningConfig) -> dict[str, Any]:
    """The options that decide the figures."""
    options = asdict(config)
    options["train"] = {key: value for key, value in options["train"].items() if key not in _INDECISIVE}
    return options


def split_folder(config: FineTuningConfig) -> str:
    """`path`, where splits beside that to learn from are looked for.

    Raises:
        ConfigError: it is a file, so that there are none.
    """
    path = config.path or ""
    if Path(path).expanduser().is_file():
        if config.validation_path is None:
            raise ConfigError(
                f"evaluation.path={path} is one file, and there is none to score on.\n  Try: evaluation.validation_path=FILE"
            )
        if config.test:
            raise ConfigError(
                f"evaluation.test=true: evaluation.path={path} is one file, and a split test is looked for in a folder.\n"
                f"  Try: evaluation.path={Path(path).parent}"
            )
    return path


def task_of(name: str, split: str) -> str:
    """What is scored on, in tables."""
    return name if split == "validation" else f"{name} {split}"
