"""The one loop: continued pretraining, the scratch baseline and small models are all this.

Every step's batch and learning rate are pure functions of the step, so the whole state of a run is the
engine's state and a step number, and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ligo.core import distributed
from ligo.core.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, Interrupted, NumericsError
from ligo.core.log import progress
from ligo.data.loader import rank_slice
from ligo.tracking.base import Tracker
from ligo.training.config import TrainConfig, learning_rate, num_steps
from ligo.training.engine import Engine
from ligo.training.resume import load_latest, save_checkpoint

_SECTIONS = {
    "scratch": "scratch",
    "small": "small.train",
}  # the options of an arm, where they are not `train`


class Windows(Protocol):
    """The batch of a step, int64 with a window or image per row: a pure function of the step."""

    def __getitem__(self, step: int) -> np.ndarray: ...


@dataclass
class Progress:
    """Where an arm stands. `wall_s` is time spent in steps, evaluation and saving left out."""

    step: int = 0
    tokens: int = 0
    flops: float = 0.0
    wall_s: float = 0.0
    loss: float = math.nan
    """Last validation loss, in nats per token or image."""


def train(
    engine: Engine,
    *,
    arm: str,
    batches: Windows,
    validation: list[np.ndarray],
    config: TrainConfig,
    flops_per_token: float,
    tracker: Tracker,
    checkpoints: Path,
    config_hash: str,
    start: Progress | None = None,
    until_step: int | None = None,
) -> Progress:
    """Train one arm to the end of its token budget, going on from its newest checkpoint if there is one.

    Args:
        flops_per_token: forward and backward.
        checkpoints: folder of this arm's checkpoints.
        start: where an arm stands that has been trained up to here as another model.
        until_step: where it is to stop before the end of its budget.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGUSR1; a checkpoint was saved.
        NumericsError: the loss is no longer finite.
    """
    state = Progress() if start is None else replace(start)
    saved = load_latest(engine, checkpoints, config_hash)
    if saved is not None:
        state = Progress(**saved["progress"])
    tracker.rewind(arm, state.step or -1)
    total = num_steps(config) if until_step is None else until_step

    def save() -> None:
        save_checkpoint(
            engine, checkpoints, {"step": state.step, "config_hash": config_hash, "progress": asdict(state)}
        )

    def record(**values: float) -> None:
        tracker.log({"arm": arm, "step": state.step, "tokens": state.tokens, "flops": state.flops,
                     "wall_s": round(state.wall_s, 3), **values})  # fmt: skip

    with progress(f"training {arm}", total) as bar, _stop_signals() as stop_asked:
        bar.advance(state.step)
        if state.step == 0:
            state.loss = evaluate(engine, validation)
            record(**{"eval/loss": state.loss})
        while state.step < total:
            started = time.monotonic()
            lr = learning_rate(config, state.step)
            # dropout, where a model has any, is drawn from the step as well
            torch.manual_seed(state.step * distributed.world_size() + distributed.rank())
            loss, norm = engine.step(
                rank_slice(batches[state.step], distributed.rank(), distributed.world_size()), lr
            )
            state.wall_s += time.monotonic() - started
            state.step += 1
            state.tokens += config.batch_tokens
            state.flops += config.batch_tokens * flops_per_token
            if not math.isfinite(loss):
                raise NumericsError(
                    f"the loss of {arm} is {loss} at step {state.step} (learning rate {lr:.2g}).\n"
                    f"  Try: a lower rate, {_SECTIONS.get(arm, 'train')}.lr={config.lr / 3:.2g}"
                )
            values = {"train/loss": loss, "lr": lr}
            if norm is not None:
                values["grad_norm"] = norm
            if state.step % config.evaluate_every == 0 or state.step == total:
                values["eval/loss"] = state.loss = evaluate(engine, validation)
            record(**values)
            bar.advance(note=f"loss {state.loss:.3f}")
            stop = _agree_to_stop(stop_asked())
            if stop or state.step % config.save_every == 0 or state.step == total:
                save()
            if state.step == total and not stop:
                stop = _agree_to_stop(stop_asked())  # it may have come while saving the last step
            if stop:
                raise Interrupted(
                    f"stopped {arm} at step {state.step} of {total}; the checkpoint is saved.\n"
                    "  To go on, run the same command again",
                    EXIT_INTERRUPTED if stop == signal.SIGINT else EXIT_PREEMPTED,
                )
    return state


def evaluate(engine: Engine, validation: list[np.ndarray]) -> float:
    """Mean validation loss in nats. Ranks share the batches; the sum is over all of them."""
    objective = engine.objective
    world, rank = distributed.world_size(), distributed.rank()
    engine.module.eval()
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(validation), world):
            # all ranks run the same number of forward passes (ZeRO-3 needs that); surplus ones count zero
            mine = min(first + rank, len(validation) - 1)
            loss = objective.loss(engine.module, torch.from_numpy(validation[mine]).to(engine.device))
            total += float(loss) * objective.num_tokens(validation[mine]) * (first + rank < len(validation))
    engine.module.train()
    return distributed.mean_over_ranks(total) * world / sum(map(objective.num_tokens, validation))


def _agree_to_stop(signal_number: int) -> int:
    """The signal that any rank received, or 0: ranks stop at the same step."""
    return int(distributed.max_over_ranks(float(signal_number)))


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Note the first stop signal instead of dying of it; a second one has its usual effect."""
    received: list[int] = []
    usual: dict[int, Any] = {}

    def note(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, usual[number])

    stopping: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    for number in stopping:
        usual[number] = signal.signal(number, note)
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
