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

from ligo.core.errors import NumericsError
from ligo.core.log import progress, warn
from ligo.growth.execute import grow_tensors
from ligo.growth.plan import GrowthPlan
from ligo.learning.cost import Forward, choose_forward
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps, TargetFunction, detached, folded_small
from ligo.operators.config import OperatorConfig
from ligo.operators.maps import GrowthMaps
from ligo.training.objectives import Objective


@dataclass(frozen=True)
class LearnedOperator:
    """The best maps that were seen, and what finding them cost.

    `flops` counts every step as it was run, what was built of the weights included, and the evaluations that
    chose the best; losses are in nats per token on the validation set.
    """

    maps: GrowthMaps
    state: dict[str, Tensor]
    best_step: int
    start_loss: float
    best_loss: float
    flops: float
    recomputed_flops: float
    """What was run a second time in backward passes (`operator.recompute`); not part of `flops`."""
    tokens: int
    wall_s: float
    num_parameters: int


def warmup_cosine(step: int, num_steps: int, warmup_fraction: float) -> float:
    """Learning-rate factor of a schedule fitted to these few steps: linear warm-up, cosine to zero."""
    warmup = max(1, round(warmup_fraction * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def learn_operator(
    plan: GrowthPlan,
    small: Mapping[str, Tensor],
    batch_at: Callable[[int], np.ndarray],
    validation: list[np.ndarray],
    config: OperatorConfig,
    log: Callable[[dict[str, Any]], None],
    *,
    objective: Objective,
    seed: int,
) -> LearnedOperator:
    """Learn a LiGO operator for width and depth together.

    Args:
        small: the small model's tensors in float32, frozen.
        batch_at: step -> a batch of the objective's kind, such as token windows [batch, length + 1].
        validation: fixed batches; the best maps by their mean loss are kept, the start included, so learning
            never leaves a model worse than its start.
        objective: what is minimised.
        seed: of the null-space noise that will be written: the learned maps must hold with it.

    Raises:
        NumericsError: the loss is not finite.
    """
    started = time.monotonic()
    learned = LearnedMaps(plan, config)
    folded = folded_small(plan, learned(), small)
    grown = GrownFunction(plan, recompute=config.recompute, seed=seed)
    groups = learned.parameter_groups(config)
    if not groups:
        warn(
            "nothing is learned: no map of this growth can be (sizes of heads, vocabularies and experts are not mixed)"
        )
    num_steps = config.steps if groups else 0
    optimizer = torch.optim.AdamW(
        groups or [{"params": [torch.zeros(1)]}], betas=(0.9, 0.95), weight_decay=0.0
    )
    base_rates = [group["lr"] for group in optimizer.param_groups]
    validation_tokens = sum(objective.num_tokens(batch) for batch in validation)
    length = objective.num_tokens(validation[0]) // len(validation[0])
    flops, recomputed, tokens_seen = 0.0, 0.0, 0

    @cache
    def forward(tokens: int, way: str = config.forward) -> Forward:
        return choose_forward(plan, learned(), tokens=tokens, sequence_length=length, wanted=way)

    def evaluate(run: Callable[..., Any]) -> float:
        with torch.no_grad():
            total = sum(
                float(objective.loss(run, torch.from_numpy(batch))) * objective.num_tokens(batch)
                for batch in validation
            )
        return total / validation_tokens

    def evaluate_learned() -> float:
        """By the weights that would be written, whatever the steps are run with."""
        with torch.no_grad():
            return evaluate(grown(learned(), folded, reference.outside))

    reference = forward(validation_tokens // len(validation), "materialise")
    evaluation_flops = sum(
        forward(objective.num_tokens(batch), "materialise").step.forward for batch in validation
    )

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
    best_step, best_state, best_maps = 0, _copy_state(learned), detached(learned())
    record(0, **{"eval/loss": start_loss})
    with progress("learning the operator", num_steps) as bar:
        for step in range(num_steps):
            factor = warmup_cosine(step, num_steps, config.warmup_fraction)
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor
            batch = batch_at(step)
            chosen = forward(objective.num_tokens(batch))
            loss = objective.loss(grown(learned(), folded, chosen.outside), torch.from_numpy(batch))
            if not loss.isfinite():
                raise NumericsError(
                    f"the loss is {float(loss.detach())} at operator step {step}: the step size is too large.\n"
                    "  Try: "
                    + (
                        f"operator.lr={config.lr / 3:.3g}"
                        if config.lr
                        else f"operator.eta={config.eta / 3:.3g}"
                    )
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
            optimizer.step()
            tokens_seen += objective.num_tokens(batch)
            flops += chosen.step.training
            recomputed += chosen.again[config.recompute]
            values = {"train/loss": float(loss.detach()), "grad_norm": float(norm)}
            if (step + 1) % config.evaluate_every == 0 or step + 1 == num_steps:
                values["eval/loss"] = current = evaluate_learned()
                flops += evaluation_flops
                if current < best_loss:
                    best_loss, best_step = current, step + 1
                    best_state, best_maps = _copy_state(learned), detached(learned())
            record(step + 1, **values)
            bar.advance(note=f"loss {float(loss.detach()):.3f}  best {best_loss:.3f}")
    if best_step and config.noise:
        # under learned head maps the noise is no longer quite invisible: it must not cost what was won
        noisy = dict(
            grow_tensors(
                plan, best_maps, small.__getitem__, dtype=torch.float32, noise=config.noise, seed=seed
            )
        )
        best_loss = evaluate(TargetFunction(plan)(noisy))
        flops += evaluation_flops
        best_step = best_step if best_loss <= start_loss else 0
    if best_step == 0:  # nothing learned was better: the start itself, with its copies and its gains
        best_maps, best_loss = plan.maps, start_loss
    return LearnedOperator(
        maps=best_maps,
        state=best_state,
        best_step=best_step,
        start_loss=start_loss,
        best_loss=best_loss,
        flops=flops,
        recomputed_flops=recomputed,
        tokens=tokens_seen,
        wall_s=time.monotonic() - started,
        num_parameters=sum(p.numel() for p in learned.parameters()),
    )


def _copy_state(learned: LearnedMaps) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learned.state_dict().items()}
