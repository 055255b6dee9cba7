"""The one loop: continued pretraining, the scratch baseline and small models are all this.

Every step's learning rate is a pure function of the step, its batch of the step and the batches left out, so the
whole state of a run is the engine's state and a few numbers, and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from ligo.core import distributed
from ligo.core.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, ConfigError, Interrupted, NumericsError
from ligo.core.log import progress, warn
from ligo.data.loader import rank_slice
from ligo.data.prefetch import prefetched
from ligo.tracking.base import Tracker
from ligo.training.config import TrainConfig
from ligo.training.dropping import start_step
from ligo.training.engine import Engine
from ligo.training.meter import measured
from ligo.training.resume import discard_after, load_latest, save_checkpoint
from ligo.training.schedule import learning_rate, num_steps
from ligo.training.watch import BAD, MOST_BAD, MOST_REWINDS, SPIKE, Health

_SECTIONS = {
    "scratch": "scratch",
    "short": "scratch",
    "small": "small.train",
}  # the options of an arm, where they are not `train`


class Windows(Protocol):
    """The batch of a step, int64 with a window or image per row: a pure function of the step."""

    def __getitem__(self, step: int) -> np.ndarray: ...


@runtime_checkable
class FromSources(Windows, Protocol):
    """Batches of several sources."""

    source_names: Sequence[str]

    def sources(self, step: int) -> np.ndarray:
        """The source of every row, as its place in `source_names`."""
        ...


@dataclass
class Progress:
    """Where an arm stands. `wall_s` is time spent in steps, evaluation and saving left out.

    Tokens and FLOPs are those spent, also on steps that were not taken or that the run went back behind.
    """

    step: int = 0
    tokens: int = 0
    flops: float = 0.0
    wall_s: float = 0.0
    loss: float = math.nan
    """Last validation loss, in nats per prediction (a token, an image)."""
    accuracy: float | None = None
    """Share of the validation images whose class the model gives; text has none."""


def train(
    engine: Engine,
    *,
    arm: str,
    batches: Windows,
    validation: list[np.ndarray],
    config: TrainConfig,
    flops_per_token: float,
    flops_share: Callable[[int], float] = lambda step: 1.0,
    tracker: Tracker,
    checkpoints: Path,
    config_hash: str,
    run_id: str = "",
    start: Progress | None = None,
    health: Health | None = None,
    until_step: int | None = None,
) -> Progress:
    """Train one arm to the end of its token budget, going on from its newest checkpoint if there is one.

    Args:
        flops_per_token: forward and backward.
        flops_share: the part of it that a step costs, where steps leave something out.
        checkpoints: folder of this arm's checkpoints.
        run_id: of the run folder; checkpoints of other runs are not loaded.
        start: where an arm stands that has been trained up to here as another model.
        health: what it has seen until then; what is seen here is added to it.
        until_step: where it is to stop before the end of its budget.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGUSR1; a checkpoint was saved.
        NumericsError: the loss or the gradient was not finite in several steps in a row, or spikes go on and on.
        CheckpointError: there are checkpoints, and none can be used.
        ConfigError: ranks were started with different options.
    """
    _agree_on_config(config_hash)
    state, health = Progress() if start is None else replace(start), health or Health()
    saved = load_latest(engine, checkpoints, config_hash, run_id)
    if saved is not None:
        state = Progress(**saved["progress"])
        vars(health).update(saved["health"])
    tracker.rewind(arm, state.step or -1)
    total = num_steps(config) if until_step is None else until_step
    section = _SECTIONS.get(arm, "train")

    def save() -> None:
        last = state.step == num_steps(config)
        save_checkpoint(
            engine, checkpoints,
            {"step": state.step, "config_hash": config_hash, "run_id": run_id, "progress": asdict(state),
             "health": asdict(health)},
            keep_last=config.keep_last, keep_every=config.keep_every,
            export=config.export == "every" or (config.export == "last" and last),
        )  # fmt: skip

    def record(**values: float | None) -> None:
        tracker.log({"arm": arm, "step": state.step, "tokens": state.tokens, "flops": state.flops,
                     "wall_s": round(state.wall_s, 3), **values})  # fmt: skip

    def judged() -> dict[str, float]:
        found = evaluate(engine, validation)
        vars(state).update(found)
        return {f"eval/{name}": value for name, value in found.items()}

    def go_back() -> bool:
        """After a spike, to the newest checkpoint, with the batches since then left out."""
        if health.rewinds == MOST_REWINDS:
            raise NumericsError(
                f"the loss of {arm} spiked again at step {state.step}, after {MOST_REWINDS} returns to a checkpoint.\n"
                f"  Try: a lower rate, {section}.lr={config.lr / 3:.2g}"
            )
        earlier = load_latest(engine, checkpoints, config_hash, run_id, before=state.step)
        if earlier is None:
            warn(f"there is no checkpoint yet to go back to; {arm} goes on")
            return False
        end = health.batch_of(state.step - 1) + 1
        rewinds, spiked_at = health.rewinds + 1, state.step
        vars(health).update(vars(Health(**earlier["health"])), rewinds=rewinds)
        state.step, state.loss = earlier["step"], earlier["progress"]["loss"]
        state.accuracy = earlier["progress"].get("accuracy")
        health.leave_out(health.batch_of(state.step), end)
        discard_after(checkpoints, state.step)
        tracker.rewind(arm, state.step)
        record(spiked_at=spiked_at, rewinds=rewinds)
        warn(f"{arm} goes on from step {state.step}, without the batches up to {end - 1}")
        return True

    with (
        progress(f"training {arm}", total) as bar,
        _stop_signals() as stop_asked,
        prefetched(batches) as ahead,
    ):
        bar.advance(state.step)
        if state.step == 0:
            record(**judged())
        while state.step < total:
            started = time.monotonic()
            lr = learning_rate(config, state.step)
            # dropout, where a model has any, is drawn from the step as well
            torch.manual_seed(state.step * distributed.world_size() + distributed.rank())
            start_step(engine.module, state.step)
            windows = ahead[health.batch_of(state.step)]
            loss, norm = engine.step(rank_slice(windows, distributed.rank(), distributed.world_size()), lr)
            seconds = time.monotonic() - started
            state.wall_s += seconds
            step_flops = config.batch_tokens * flops_per_token * flops_share(state.step)
            state.flops += step_flops
            state.tokens += config.batch_tokens
            state.step += 1
            verdict = health.judge(
                loss, norm, spike_factor=config.spike_factor, scales_losses=config.precision == "fp16"
            )
            values: dict[str, float | None] = {"lr": lr, "skipped_steps": health.skipped_steps}
            if math.isfinite(loss):
                values["train/loss"] = loss
            if norm is not None and math.isfinite(norm):
                values["grad_norm"] = norm
                values["grad_norm_clipped"] = min(norm, config.clip or math.inf)
            if verdict == BAD:
                _complain(arm, state.step, loss, norm, health, section, config.lr)
            if verdict == SPIKE:
                warn(f"the loss of {arm} spiked to {loss:.3f} at step {state.step}")
                if config.on_spike == "rewind" and go_back():
                    continue
            if state.step % config.evaluate_every == 0 or state.step == total:
                values |= judged()
                values |= source_losses(engine, batches, health.batch_of(state.step - 1), len(validation[0]))
            record(**values, **measured(config.batch_tokens, step_flops, seconds))
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


def _complain(
    arm: str, step: int, loss: float, norm: float | None, health: Health, section: str, lr: float
) -> None:
    """Say that a step was left out, or stop where that happens again and again."""
    found = (
        f"the norm of the gradient of {arm} is {norm}"
        if math.isfinite(loss)
        else f"the loss of {arm} is {loss}"
    )
    if health.bad_in_a_row < MOST_BAD:
        warn(f"{found} at step {step}; the step is left out, nothing is changed")
        return
    raise NumericsError(
        f"{found} at step {step}; {MOST_BAD} steps in a row could not be taken.\n"
        f"  Try: a lower rate, {section}.lr={lr / 3:.2g}"
    )


def _agree_on_config(config_hash: str) -> None:
    """
    Raises:
        ConfigError: ranks were started with different options.
    """
    found = distributed.gather_text(config_hash)
    if len(set(found)) > 1:
        raise ConfigError(
            f"the ranks were started with different options (configs {', '.join(sorted(set(found)))}).\n"
            "  Try: python -m ligo.launch, which composes them once for all ranks"
        )


def evaluate(engine: Engine, validation: list[np.ndarray]) -> dict[str, float]:
    """What the objective finds, as means: the `loss` in nats, the `accuracy` of images. Ranks share the batches."""
    objective = engine.objective
    world, rank = distributed.world_size(), distributed.rank()
    engine.module.eval()
    totals: dict[str, float] = {}
    with torch.no_grad():
        for first in range(0, len(validation), world):
            # all ranks run the same number of forward passes (ZeRO-3 needs that); surplus ones count zero
            mine = min(first + rank, len(validation) - 1)
            found = objective.judge(engine.module, torch.from_numpy(validation[mine]).to(engine.device))
            weight = objective.weight(validation[mine]) * (first + rank < len(validation))
            totals = {name: totals.get(name, 0.0) + value * weight for name, value in found.items()}
    engine.module.train()
    weight = sum(map(objective.weight, validation))
    return {name: distributed.mean_over_ranks(value) * world / weight for name, value in totals.items()}


def source_losses(engine: Engine, batches: Windows, batch: int, rows_at_once: int) -> dict[str, float]:
    """Mean loss on the windows of a batch, by the source that they are from, where the batches tell that."""
    if not isinstance(batches, FromSources) or len(batches.source_names) == 1:
        return {}
    windows, sources = batches[batch], batches.sources(batch)
    found = {}
    for number, name in enumerate(batches.source_names):
        rows = windows[sources == number]
        if len(rows):
            parts = [rows[first : first + rows_at_once] for first in range(0, len(rows), rows_at_once)]
            found[f"train/loss/{name}"] = evaluate(engine, parts)["loss"]
    return found


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
