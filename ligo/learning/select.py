"""operator=auto: try several operators for a few steps each, and keep the one with the lowest validation loss.

Loss right after growth says little about the loss in the end; loss a few steps later says much more (LAG:
landscape-aware growing, Karp et al. 2024, arXiv 2406.02469). Every candidate's steps are charged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ligo.accounting.flops import model_flops
from ligo.core.log import progress
from ligo.families.stock import as_running, fresh_model
from ligo.growth.execute import ReadTensor, grow_tensors
from ligo.growth.plan import GrowthPlan
from ligo.operators.noise_level import NoiseLevel
from ligo.training.config import TrainConfig, batch_shape
from ligo.training.objectives import Objective
from ligo.training.schedule import learning_rate
from ligo.training.torch_engine import TorchEngine


@dataclass(frozen=True)
class Selection:
    """What was chosen, and what all candidates together cost; losses are those after the trial."""

    chosen: str
    losses: Mapping[str, float]
    start_losses: Mapping[str, float]
    flops: float
    tokens: int
    wall_s: float


def select_operator(
    plans: Mapping[str, GrowthPlan],
    read: ReadTensor,
    batch_at: Callable[[int], np.ndarray],
    validation: list[np.ndarray],
    training: TrainConfig,
    log: Callable[[dict[str, Any]], None],
    *,
    objective: Objective,
    num_steps: int,
    sequence_length: int,
    noise: NoiseLevel,
    seed: int,
) -> Selection:
    """Grow and train every candidate for `num_steps` steps, on the same batches at the same rates.

    Args:
        plans: by name of the operator, all to the same target sizes.
        training: of the grown model; the trial is the beginning of that schedule.
        validation: fixed batches.
    """
    started, flops, tokens = time.monotonic(), 0.0, 0
    start_losses: dict[str, float] = {}
    losses: dict[str, float] = {}
    validation_tokens = sum(objective.num_tokens(batch) for batch in validation)
    shape = batch_shape(training, sequence_length, 1)
    for name, plan in plans.items():
        per_token = model_flops(plan.target, sequence_length)
        model = fresh_model(plan.target).to(torch.float32)
        weights = dict(grow_tensors(plan, plan.maps, read, dtype=torch.float32, noise=noise, seed=seed))
        model.load_state_dict(as_running(model, weights), strict=False)
        engine = TorchEngine(model, objective, training, shape)
        start_losses[name] = losses[name] = _mean_loss(engine, validation)
        with progress(f"trying {name}", num_steps) as bar:
            for step in range(num_steps):
                engine.step(batch_at(step), learning_rate(training, step))
                tokens += training.batch_tokens
                bar.advance()
        losses[name] = _mean_loss(engine, validation)
        flops += plan.build_flops(plan.maps) + per_token.training * training.batch_tokens * num_steps
        flops += 2 * per_token.forward * validation_tokens
        log({"arm": "learn", "step": len(losses), "tokens": tokens, "flops": flops,
             "wall_s": time.monotonic() - started, "eval/loss": losses[name]})  # fmt: skip
    chosen = min(losses, key=losses.__getitem__)
    return Selection(chosen, losses, start_losses, flops, tokens, time.monotonic() - started)


def _mean_loss(engine: TorchEngine, validation: list[np.ndarray]) -> float:
    """Mean validation loss of one process: the other ranks wait while operators are tried."""
    objective = engine.objective
    sizes = [objective.num_tokens(batch) for batch in validation]
    engine.module.eval()
    with torch.no_grad():
        losses = [
            float(objective.loss(engine.module, torch.from_numpy(batch).to(engine.device)))
            for batch in validation
        ]
    engine.module.train()
    return float(np.average(losses, weights=sizes))
