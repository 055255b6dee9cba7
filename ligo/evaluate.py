"""python -m ligo.evaluate: score models, grown or not, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import yaml

from ligo.command import main
from ligo.config import RunConfig
from ligo.core.distributed import world_size
from ligo.core.errors import ConfigError
from ligo.core.log import say
from ligo.core.run import Run, config_hash
from ligo.evaluation.models import ComputeConfig, Model, ModelConfig
from ligo.evaluation.models import check as check_models
from ligo.evaluation.registry import EVALUATIONS, EvaluationConfig, Findings
from ligo.options import Options

DESCRIPTION = (
    "Score models, several at once: perplexity and bits per byte, tasks, or answers judged in pairs."
)
EXAMPLES = (
    "python -m ligo.evaluate models.small.path=DIR models.grown.path=RUN evaluation.path=FILE_OR_FOLDER",
    "python -m ligo.evaluate evaluation=llama-table models.7b.path=DIR",
    "python -m ligo.evaluate evaluation=pairwise models.a.path=DIR models.b.path=RUN evaluation.questions=FILE "
    "evaluation.judge.model=NAME",
)


@dataclass(kw_only=True)
class EvaluateConfig:
    """Everything that `ligo.evaluate` reads."""

    models: dict[str, ModelConfig] = field(default_factory=dict)
    """The models under names of your choice, {NAME: {path: ...}, ...}; they are the columns of the table."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    run: RunConfig = field(default_factory=RunConfig)
    seed: int = 0
    """Seeds what is drawn: bootstrap samples, few-shot examples, fresh weights of fine-tuning."""


def check_config(config: EvaluateConfig) -> None:
    """Checks that a type cannot express.

    Raises:
        ConfigError: the value, why it cannot be, and what to type instead.
    """
    check_models(config.models, config.compute)
    EVALUATIONS.get(config.evaluation.name).check(config.evaluation)


OPTIONS = Options(
    "evaluate",
    EvaluateConfig,
    {"evaluation": {name: EVALUATIONS.get(name).Config for name in EVALUATIONS.names()}},
    check_config,
)


def evaluate(config: EvaluateConfig, config_yaml: str) -> None:
    """Score the models; nothing is written before models and data have been checked.

    Raises:
        LigoError: with the exit code that fits; 75 where an endpoint does not answer now, since the same command goes
            on once it does.
    """
    from ligo.core.files import write_json, write_text
    from ligo.core.libraries import quiet_libraries
    from ligo.evaluation.table import markdown

    if world_size() > 1:
        raise ConfigError(
            f"ligo.evaluate runs in one process, and there are {world_size()} ranks.\n"
            "  Try: python -m ligo.evaluate without a launcher, for other models on each device"
        )
    evaluation = EVALUATIONS.get(config.evaluation.name)(config.evaluation)
    models = [Model.open(name, model, config.compute) for name, model in config.models.items()]
    quiet_libraries()
    data = evaluation.prepare(models)
    run_config = {**yaml.safe_load(config_yaml), "evaluation": evaluation.decisive()}
    run = Run(run_folder(config, config_hash(run_config)))
    with run.held():
        run.open(run_config, config_yaml, config.seed)
        with run.keeping_status():
            run.check_same_inputs({"data": data, **{model.name: model.fingerprint() for model in models}})
            findings = evaluation.run(models, run, config.seed)
            table = markdown([row for found in findings for row in found.rows])
            write_json(run.folder / "evaluation.json", record(config, data, models, findings))
            write_text(run.folder / "table.md", table)
    say(f"{table}\n{run.folder / 'table.md'}")


def record(
    config: EvaluateConfig, data: str, models: Sequence[Model], findings: Sequence[Findings]
) -> dict[str, Any]:
    """evaluation.json: the figures, and what they are figures of; no path of this machine is in it."""
    from ligo.core.redact import without_paths
    from ligo.core.run import hardware, versions

    return {
        "evaluation": config.evaluation.name,
        "rows": [asdict(row) for found in findings for row in found.rows],
        "data_fingerprint": data,
        "models": {
            model.name: {
                "fingerprint": model.fingerprint(),
                "model_type": model.config.get("model_type"),
                "parameters": sum(map(prod, model.checkpoint.shapes.values())),
                "adapter": model.adapter is not None,
                "evaluation_flops": found.flops,
                "details": found.details,
            }
            for model, found in zip(models, findings, strict=True)
        },
        "settings": without_paths(
            {"evaluation": asdict(config.evaluation), "compute": asdict(config.compute), "seed": config.seed}
        ),
        "versions": versions(),
        "hardware": hardware(),
    }


def run_folder(config: EvaluateConfig, config_hash: str) -> Path:
    """`run.dir`, or runs/<study>/<name>-<hash>."""
    if config.run.dir is not None:
        return Path(config.run.dir).expanduser()
    name = config.run.name or config.evaluation.name
    return Path("runs") / config.run.study / f"{name}-{config_hash}"


if __name__ == "__main__":
    main(evaluate, DESCRIPTION, EXAMPLES, OPTIONS)
