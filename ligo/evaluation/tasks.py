"""Tasks by lm-evaluation-harness (Gao et al. 2021): its own, or local YAML files on local data.

The harness makes the prompts and reckons the metrics; ligo loads the models and the data, refuses what is not there
before any model is read, and counts the prompts that the harness would cut in silence.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ligo.core.checks import check_between, check_choice
from ligo.core.errors import ConfigError, DataError, check_installed, nearest
from ligo.core.run import Run
from ligo.evaluation.causal import check_causal, check_window
from ligo.evaluation.meter import metered
from ligo.evaluation.models import Model
from ligo.evaluation.registry import EVALUATIONS, EvaluationConfig, EvaluationOfEach, Findings, Row

METRICS = ("acc", "acc_norm", "acc_mutual_info")
_BOOTSTRAP_SAMPLES = 1000
"""For the standard error of metrics that are no means, such as BLEU."""
_LONGEST = 2048  # where neither the model nor evaluation.window names a limit


@dataclass(kw_only=True)
class TasksConfig(EvaluationConfig):
    """Which tasks, and how they are scored."""

    name: str = "tasks"
    tasks: list[str] = field(default_factory=list)
    """Names of tasks, groups or tags of lm-evaluation-harness, or of files in include_path."""
    include_path: str | None = None
    """A folder of task files (.yaml), which go before those of the harness."""
    metrics: dict[str, str] = field(default_factory=dict)
    """{TASK: METRIC}: the one metric of a task of choices: acc, acc_norm (by characters) or acc_mutual_info. The other tasks:
    as their files say."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """{TASK: {KEY: VALUE}}: keys of the task's file, passed through as they are."""
    num_fewshot: int | None = None
    """Examples in a prompt. null: as the file of each task says, else none."""
    limit: int | None = None
    """Use the first items of each task only; for trials."""
    unconditional_context: str = ""
    """acc_mutual_info divides the likelihood of a choice by its likelihood after this text; empty: at the start of a text."""
    window: int | None = None
    """Tokens that a model sees at once; longer prompts lose their beginning. null: all of its positions."""
    batch_size: int = 8
    """Prompts that are computed at once."""


@EVALUATIONS.register("tasks")
class Tasks(EvaluationOfEach[TasksConfig]):
    """Each model on each task."""

    Config = TasksConfig

    @classmethod
    def check(cls, config: TasksConfig) -> None:
        if not config.tasks:
            raise ConfigError(
                "evaluation.tasks names no task.\n  Try: evaluation=llama-table, or evaluation.tasks=[hellaswag,arc_easy]"
            )
        for key in (*config.metrics, *config.overrides):
            if key not in config.tasks:
                raise ConfigError(
                    f"evaluation.metrics or evaluation.overrides names {key}, which is not in evaluation.tasks.\n"
                    f"  Tasks: {', '.join(config.tasks)}.\n  Try: {nearest(key, config.tasks) or config.tasks[0]}"
                )
        for task, metric in config.metrics.items():
            check_choice(f"evaluation.metrics.{task}", metric, METRICS)
        if config.num_fewshot is not None:
            check_between("evaluation.num_fewshot", config.num_fewshot, 0)
        check_between("evaluation.batch_size", config.batch_size, 1)
        for name in ("limit", "window"):
            if (value := getattr(config, name)) is not None:
                check_between(f"evaluation.{name}", value, 1)
        if config.include_path is not None and not Path(config.include_path).expanduser().is_dir():
            raise ConfigError(
                f"evaluation.include_path={config.include_path} is no folder.\n"
                "  Try: evaluation.include_path=DIR with a .yaml file for each task"
            )

    def prepare(self, models: Sequence[Model]) -> str:
        check_installed("lm_eval", extra="eval", why="evaluation=tasks (evaluation=perplexity does without)")
        for model in models:
            check_causal(model)
            if self.config.window is not None:
                check_window(model, self.config.window, "evaluation.window")
        self._manager = task_manager(self.config)
        self._tasks = load_tasks(self.config, self._manager)
        digest = hashlib.sha256()
        for name, task in self._tasks.items():
            digest.update(name.encode())
            for document in task.eval_docs:
                digest.update(json.dumps(document, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def evaluate(self, model: Model, run: Run, seed: int) -> Findings:
        from lm_eval import simple_evaluate

        loaded = model.load()
        harness = harness_model(model, loaded, self.config)
        with metered(model, loaded) as meter:
            results = simple_evaluate(
                harness,
                tasks=list(self._tasks.values()),
                num_fewshot=self.config.num_fewshot,
                limit=self.config.limit,
                task_manager=self._manager,
                bootstrap_iters=_BOOTSTRAP_SAMPLES,
                log_samples=False,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        details = {
            "lm_eval": metadata.version("lm_eval"),
            "task_versions": results["versions"],
            "num_fewshot": results["n-shot"],
            "truncated_prompts": harness.num_truncated,
        }
        return Findings(rows=list(_rows(model.name, results)), flops=meter.flops, details=details)


def load_tasks(config: TasksConfig, manager: Any) -> dict[str, Any]:
    """The harness' tasks with their data: name -> Task; groups and tags are taken apart.

    Raises:
        ConfigError: there is no such task, or the harness refuses a key or a metric.
        DataError: a task's data cannot be had.
    """
    loaded: dict[str, Any] = {}
    for name in config.tasks:
        changes = dict(config.overrides.get(name, {}))
        if name in config.metrics:
            metric = {"metric": config.metrics[name], "aggregation": "mean", "higher_is_better": True}
            changes["metric_list"] = [metric]
        try:
            # a group of our own, since a task by itself does not take changes
            found = manager.load([{"group": "ligo", "task": [{"task": name, **changes}]}])
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"lm-evaluation-harness does not take the task {name} with {changes or 'its own keys'}: {error}.\n"
                "  Try: evaluation.metrics and evaluation.overrides with names that it knows"
            ) from error
        except Exception as error:  # of `datasets`, which fails in many ways, offline above all
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"the data of the task {name} cannot be had: {type(error).__name__}: {reason}\n"
                f"  Try: a network, or evaluation.overrides.{name}="
                "'{dataset_path: json, dataset_name: null, dataset_kwargs: {data_files: {SPLIT: FILE.jsonl}}}'"
            ) from error
        loaded |= found["tasks"]
    return loaded


def task_manager(config: TasksConfig) -> Any:
    """The harness' index of tasks; its own thousands are read only where they are needed.

    Raises:
        ConfigError: a task is in none; the nearest name is given.
    """
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of each thing that it is asked for
    folder = None if config.include_path is None else str(Path(config.include_path).expanduser())
    if folder is not None:
        manager = TaskManager(include_path=folder, include_defaults=False)
        if all(name in manager.all_tasks for name in config.tasks):
            return manager
    manager = TaskManager(include_path=folder)
    for name in config.tasks:
        if name not in manager.all_tasks:
            close = nearest(name, manager.all_tasks)
            raise ConfigError(
                f"there is no task '{name}' in lm-evaluation-harness"
                + (f" nor in {config.include_path}" if config.include_path else "")
                + f".\n  Try: evaluation.tasks=[{close or 'hellaswag'}]"
            )
    return manager


def harness_model(model: Model, loaded: Any, config: TasksConfig) -> Any:
    """A loaded model as the harness wants it, which counts the prompts that are cut in `num_truncated`.

    Likelihoods are in float32 at least: by itself the harness sums them in the model's own dtype.
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    class CountingModel(HFLM):  # type: ignore[misc]  # the harness has no types
        num_truncated = 0

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            return super().loglikelihood([_after(config.unconditional_context, each) for each in requests], disable_tqdm)  # fmt: skip

        def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> Any:
            lengths = [len(context) + len(continuation) for _, context, continuation in requests]
            self.num_truncated += sum(length > self.max_length + 1 for length in lengths)
            return super()._loglikelihood_tokens(requests, *args, **kwargs)

    exact = torch.promote_types(loaded.dtype, torch.float32)
    return CountingModel(
        pretrained=loaded,
        tokenizer=model.tokenizer(),
        backend="causal",
        max_length=config.window or model.max_positions or _LONGEST,
        softmax_dtype=exact,
        batch_size=config.batch_size,
    )


def _after(context: str, request: Any) -> Any:
    """A request whose context is empty, as those of acc_mutual_info are, with this context."""
    if not context or request.args[0] != "":
        return request
    changed = copy(request)
    changed.arguments = (context, *request.args[1:])
    return changed


def _rows(model: str, results: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of the harness' results, whose keys are 'metric,filter' and 'metric_stderr,filter'."""
    for task, found in results["results"].items():
        for key, value in found.items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = found.get(f"{metric}_stderr,{filter_name}")
            yield Row(
                model=model,
                task=task,
                metric=metric if filter_name == "none" else f"{metric} ({filter_name})",
                value=float(value),
                standard_error=float(error) if isinstance(error, (int, float)) else None,
                count=int(results["n-samples"][task]["effective"]),
            )
