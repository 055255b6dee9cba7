"""The few hundred steps: fit the maps on the language-model loss, small model frozen, best kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ligo.core import distributed
from ligo.core.errors import NumericsError
from ligo.core.log import progress, warn
from ligo.data.loader import rank_slice
from ligo.growth.execute import ReadTensor
from ligo.growth.plan import GrowthPlan
from ligo.learning.config import LearnConfig, check_partitions, learn_shape, measured_as_written
from ligo.learning.cost import Forward, choose_forward
from ligo.learning.engine import OperatorLoss, make_operator_engine
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps, detached
from ligo.learning.store import open_store
from ligo.operators.config import OperatorConfig
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NoiseLevel
from ligo.training.objectives import Objective


@dataclass(frozen=True)
class LearnedOperator:
    """The best maps that were seen, and what finding them cost.

    `flops` counts every step as it was run, on all ranks, what was built of the weights included, and the evaluations
    that chose the best. Losses are in nats per token on the validation set, of the small model's weights as they are
    stored and with the noise that is written.
    """

    maps: GrowthMaps
    state: dict[str, Tensor]
    best_step: int
    start_loss: float
    best_loss: float
    quiet_loss: float
    """Of the best maps seen, without the noise."""
    flops: float
    recomputed_flops: float
    """What was run a second time in backward passes (`learn.recompute`); not part of `flops`."""
    tokens: int
    wall_s: float
    num_parameters: int
    small: str
    """How the small model was held."""
    captured: float | None = None
    """Fitted in hindsight: the part of the way to the trained weights that the maps make, in squares."""


def warmup_cosine(step: int, num_steps: int, warmup_fraction: float) -> float:
    """Learning-rate factor of a schedule fitted to these few steps: linear warm-up, cosine to zero."""
    warmup = max(1, round(warmup_fraction * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def learn_operator(
    plan: GrowthPlan,
    read: ReadTensor,
    batch_at: Callable[[int], np.ndarray],
    validation: list[np.ndarray],
    operator: OperatorConfig,
    config: LearnConfig,
    log: Callable[[dict[str, Any]], None],
    *,
    objective: Objective,
    seed: int,
    deepspeed: Mapping[str, Any] | None = None,
) -> LearnedOperator:
    """Learn a LiGO operator for width and depth together; every rank calls it.

    Args:
        read: gives the small model's tensors as they are stored, on the CPU.
        batch_at: step -> all ranks' batch of the objective's kind, such as token windows [batch, length + 1].
        validation: fixed batches; the best maps by their mean loss are kept, the start included, so learning
            never leaves a model worse than its start.
        objective: what is minimised.
        seed: of the null-space noise that will be written: the learned maps must hold with it.
        deepspeed: DeepSpeed's own keys, for several ranks.

    Raises:
        ConfigError: the batches, or the optimiser, cannot be spread over the ranks there are.
        NumericsError: the loss is not finite.
    """
    started = time.monotonic()
    device = _device()
    learned, store = LearnedMaps(plan, operator), open_store(config, plan.small, read, device)
    loss_of = OperatorLoss(
        learned,
        GrownFunction(plan, recompute=config.recompute, seed=seed, device=device),
        store.read,
        objective,
        device=device,
        bf16=config.precision == "bf16",
    )
    tokens_of = objective.num_tokens
    first = batch_at(0)
    length = tokens_of(first) // len(first)
    shape = learn_shape(config, tokens_of(first), length, distributed.world_size())
    if distributed.world_size() > 1:
        check_partitions(operator.optimizer, deepspeed or {})
    micro_batch_tokens = length * shape.windows_per_micro_batch
    num_micro_batches = shape.micro_batches * distributed.world_size()

    @cache
    def forward(tokens: int, way: str = config.forward) -> Forward:
        return choose_forward(plan, learned(), tokens=tokens, sequence_length=length, wanted=way)

    def evaluate(run: Callable[..., Any]) -> float:
        return mean_loss(lambda batch: loss_of.of(run, batch), validation, tokens_of)

    def evaluate_learned() -> float:
        """By the weights that would be written, whatever the steps are run with."""
        with torch.no_grad():
            return evaluate(loss_of.grown(learned(), store.read, whole.outside))

    def evaluate_written(maps: GrowthMaps, noise: NoiseLevel) -> float:
        """With the small model's weights as they are stored, however they are held."""
        return evaluate(loss_of.grown.as_written(maps, read, noise))

    whole = forward(micro_batch_tokens, "materialise")
    evaluation_flops = sum(forward(tokens_of(batch), "materialise").step.forward for batch in validation)
    optimizer = learned.optimizer(operator)
    if optimizer is None:
        warn(
            "nothing is learned: no map of this growth can be (sizes of heads, vocabularies and experts are not mixed)"
        )
    num_steps = operator.steps if optimizer else 0
    engine = make_operator_engine(loss_of, optimizer, shape, deepspeed or {}) if optimizer else None
    flops, recomputed, tokens_seen = 0.0, 0.0, 0

    def record(step: int, **values: float) -> None:
        log({"arm": "learn", "step": step, "tokens": tokens_seen, "flops": flops,
             "wall_s": time.monotonic() - started, **values})  # fmt: skip

    start_loss = best_loss = evaluate_learned()
    if not math.isfinite(start_loss):
        raise NumericsError(
            f"the loss before the first step is {start_loss}: the small checkpoint's own weights give it.\n"
            "  Try: another small.path; this one does not compute"
        )
    flops += evaluation_flops
    best_step, best_state, best_maps = 0, copy_state(learned), detached(learned())
    record(0, **{"eval/loss": start_loss})
    with progress("learning the operator", num_steps) as bar:
        for step in range(num_steps):
            assert engine is not None
            windows = rank_slice(batch_at(step), distributed.rank(), distributed.world_size())
            chosen = forward(micro_batch_tokens)
            factor = warmup_cosine(step, num_steps, operator.warmup_fraction)
            loss, norm = engine.step(windows, factor, chosen.outside)
            if not math.isfinite(loss):
                raise NumericsError(
                    f"the loss is {loss} at operator step {step}: the step size is too large.\n  Try: "
                    + (
                        f"operator.lr={operator.lr / 3:.3g}"
                        if operator.lr
                        else f"operator.eta={operator.eta / 3:.3g}"
                    )
                )
            tokens_seen += micro_batch_tokens * num_micro_batches
            flops += chosen.step.training * num_micro_batches
            recomputed += chosen.again[config.recompute] * num_micro_batches
            values = {"train/loss": loss} | ({} if norm is None else {"grad_norm": norm})
            if (step + 1) % operator.evaluate_every == 0 or step + 1 == num_steps:
                values["eval/loss"] = current = evaluate_learned()
                flops += evaluation_flops
                if current < best_loss:
                    best_loss, best_step = current, step + 1
                    best_state, best_maps = copy_state(learned), detached(learned())
            record(step + 1, **values)
            bar.advance(note=f"loss {loss:.3f}  best {best_loss:.3f}")
    if engine is not None:
        engine.close()
    quiet_loss = best_loss
    again_start, again_best = measured_as_written(config, operator.noise, plan.exactness.in_width)
    if again_start:
        start_loss = evaluate_written(plan.maps, operator.noise_level)
        flops += evaluation_flops
    if best_step and again_best:
        # under learned maps the noise need not be invisible: it must not cost what was won
        best_loss = evaluate_written(best_maps, operator.noise_level)
        flops += evaluation_flops
        best_step = best_step if best_loss <= start_loss else 0
        if best_step == 0 and operator.noise:
            warn(
                f"the maps that were learned have a loss of {quiet_loss:.4f}, but {best_loss:.4f} with the noise that is "
                f"written, and their start {start_loss:.4f}: the start is written.\n"
                "  Try: operator.noise=0 keeps what was learned; after training, noise was worth more"
            )
    if best_step == 0:  # nothing learned was better: the start itself, with its copies and its gains
        best_maps, best_loss = plan.maps, start_loss
    return LearnedOperator(
        maps=best_maps,
        state=best_state,
        best_step=best_step,
        start_loss=start_loss,
        best_loss=best_loss,
        quiet_loss=quiet_loss,
        flops=flops,
        recomputed_flops=recomputed,
        tokens=tokens_seen,
        wall_s=time.monotonic() - started,
        num_parameters=sum(p.numel() for p in learned.parameters()),
        small=config.small,
    )


def mean_loss(
    loss: Callable[[Tensor], Tensor],
    validation: list[np.ndarray],
    num_tokens: Callable[[np.ndarray], int],
) -> float:
    """Mean validation loss in nats. Ranks share the batches; the sum is over all of them."""
    world, rank, total = distributed.world_size(), distributed.rank(), 0.0
    with torch.no_grad():
        for first in range(0, len(validation), world):
            # all ranks run as many forward passes, which a small model that is spread over them needs; surplus ones
            # count zero
            batch = validation[min(first + rank, len(validation) - 1)]
            counts = first + rank < len(validation)
            total += float(loss(torch.from_numpy(batch))) * num_tokens(batch) * counts
    return distributed.mean_over_ranks(total) * world / sum(map(num_tokens, validation))


def _device() -> torch.device:
    """This rank's GPU, if there is one; several ranks join each other."""
    if distributed.world_size() > 1:
        distributed.start()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def copy_state(learned: LearnedMaps) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in learned.state_dict().items()}
