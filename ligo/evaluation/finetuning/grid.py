"""One model on one task: a run of the training loop for each rate and seed, and what their scores come to.

Every run is a stage of the run folder, kept as soon as it is done; one that was cut goes on from its newest checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ligo.accounting.statistics import estimate
from ligo.core.files import read_json
from ligo.core.log import say
from ligo.core.run import Run
from ligo.core.units import flops as in_flops
from ligo.evaluation.finetuning.config import FineTuningConfig, task_of, training_at
from ligo.evaluation.registry import Findings, Row
from ligo.tracking.jsonl import JsonlTracker
from ligo.training.config import batch_shape
from ligo.training.engine import Engine
from ligo.training.engines import make_engine
from ligo.training.loop import Windows, train
from ligo.training.objectives import Objective
from ligo.training.resume import remove_finished
from ligo.training.schedule import num_steps

Scores = Mapping[str, Mapping[str, float]]
"""Split -> metric -> value; the first metric of validation is the one that rates are chosen by."""

_MOST_FOLLOWED = 512


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one model learns, and how it is scored."""

    model: str
    task: str
    make: Callable[[int], tuple[Any, list[str]]]
    """Seed -> the model, and the names of its weights that were drawn."""
    objective: Objective
    batches: Callable[[int], Windows]
    """Seed -> batches to learn from."""
    followed: list[np.ndarray]
    """Rows of validation, all or some, for the loss while training."""
    rows: Mapping[str, Sequence[np.ndarray]]
    """Split to score on -> its rows, validation first."""
    num_examples: int
    """To learn from."""
    length: int
    """Tokens that an example counts as in the budget."""
    forward_flops: Callable[[np.ndarray], float]
    """Rows -> FLOPs of one forward pass over them."""
    scores: Callable[[Engine], Scores]
    counts: Mapping[str, int]
    """Split -> items that its scores are means over."""


def run_grid(job: Job, config: FineTuningConfig, run: Run, seed: int) -> Findings:
    """Train at every rate from every seed, and take the rate whose mean score on validation is best.

    Raises:
        LigoError: as the training loop does.
    """
    runs = {
        rate: [_run(job, config, run, rate, seed + number) for number in range(config.seeds)]
        for rate in config.rates
    }
    chosen = max(
        runs, key=lambda rate: float(np.mean([_chosen_by(each["scores"])[1] for each in runs[rate]]))
    )
    everything = [each for found in runs.values() for each in found]
    return Findings(
        rows=_rows(job, runs[chosen]),
        flops=sum(each["flops"] + each["evaluation_flops"] for each in everything),
        details={
            "rate": chosen,
            "rates": {f"{rate:g}": _over_seeds(found) for rate, found in runs.items()},
            "training_flops": sum(each["flops"] for each in everything),
            "runs": everything,
        },
    )


def _run(job: Job, config: FineTuningConfig, run: Run, rate: float, seed: int) -> dict[str, Any]:
    """What one run came to; it is not done again where it is done."""
    arm = f"{job.model}/rate-{rate:g}/seed-{seed}"
    if arm in (done := run.stage_results()):
        return dict(done[arm])
    training = training_at(config, rate, job.num_examples, job.length)
    model, drawn = job.make(seed)
    say(
        f"{arm}: "
        + (f"drawn from the seed: {', '.join(drawn)}" if drawn else "the head is the checkpoint's own")
    )
    engine = make_engine(model, job.objective, training, batch_shape(training, job.length, 1), {})
    batches = job.batches(seed)
    first = job.forward_flops(batches[0])
    found = train(
        engine,
        arm=arm,
        batches=batches,
        validation=job.followed,
        config=training,
        flops_per_token=3 * first / training.batch_tokens,
        flops_share=lambda step: job.forward_flops(batches[step]) / first,
        tracker=JsonlTracker(run.metrics, run.summary),
        checkpoints=run.checkpoints(arm),
        config_hash=read_json(run.folder / "manifest.json")["config_hash"],
        run_id=run.id,
    )
    scores = job.scores(engine)
    engine.close()
    scored = sum(sum(map(job.forward_flops, rows)) for rows in job.rows.values())
    losses = 1 + math.ceil(num_steps(training) / training.evaluate_every)
    result = {
        "rate": rate,
        "seed": seed,
        "scores": scores,
        "loss": found.loss,
        "steps": found.step,
        "flops": found.flops,
        "evaluation_flops": scored + losses * sum(map(job.forward_flops, job.followed)),
        "wall_s": found.wall_s,
        "drawn": drawn,
    }
    run.finish_stage(arm, result)
    remove_finished(run.checkpoints(arm), 0)
    metric, value = _chosen_by(scores)
    say(f"{arm}: {metric} {value:.4f} on validation, {in_flops(found.flops)}")
    return result


def spread(count: int) -> np.ndarray:
    """Numbers of the items that the loss is followed on: all, or 512 at equal distances; int64 [<= 512]."""
    followed = min(count, _MOST_FOLLOWED)
    return np.arange(followed) * count // followed


def predictions(
    engine: Engine, rows: Sequence[np.ndarray], read: Callable[[Tensor], np.ndarray]
) -> list[np.ndarray]:
    """What the model in an engine says of every batch of rows.

    Args:
        read: a batch -> its answers; called in evaluation mode, without gradients.
    """
    engine.module.eval()
    with torch.no_grad():
        found = [read(torch.from_numpy(batch).to(engine.device)) for batch in rows]
    engine.module.train()
    return found


def _chosen_by(scores: Scores) -> tuple[str, float]:
    """The metric that rates are chosen by, and its value."""
    return next(iter(scores["validation"].items()))


def _over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Split -> metric -> mean, deviation and interval."""
    return {
        split: {
            metric: asdict(estimate([each["scores"][split][metric] for each in runs])) for metric in metrics
        }
        for split, metrics in runs[0]["scores"].items()
    }


_SHARES = ("accuracy", "exact")
"""Shares of the items, so that the error of one run follows from their number."""


def _rows(job: Job, runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Means over seeds; with two seeds and more, also their deviation."""
    rows = []
    for split, metrics in _over_seeds(runs).items():
        row = partial(Row, model=job.model, task=task_of(job.task, split), count=job.counts[split])
        for metric, found in metrics.items():
            mean, deviation = found["mean"], found["deviation"]
            alone = deviation is None and metric in _SHARES
            error = math.sqrt(mean * (1 - mean) / job.counts[split]) if alone else None
            rows.append(row(metric=metric, value=mean, standard_error=error, interval=found["interval"]))
            if deviation is not None:
                rows.append(row(metric=f"{metric}, deviation over {len(runs)} seeds", value=deviation))
    return rows
