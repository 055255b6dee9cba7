"""Hindsight: maps fitted by least squares to a target that has been trained already, not to a text.

A first run has trained the target from some start. Of the way that it went, the maps can make a part; seen through that
part, the small model is a start for another run (a projection, close to Reptile: Nichol et al. 2018, arXiv 1803.02999).
Fitting reads no text and costs a few training steps; the first run is what is paid for, once for all checkpoints of
these shapes that take the maps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ligo.checkpoint.reader import Checkpoint
from ligo.core.errors import CheckpointError, NumericsError
from ligo.core.log import progress
from ligo.core.run import Run
from ligo.families.base import Family
from ligo.families.spec import RESIDUAL, Role, TensorSpec
from ligo.families.stock import expected_shapes
from ligo.growth.execute import ReadTensor, fold_gain, make_tensor, sources
from ligo.growth.plan import GrowthPlan
from ligo.learning.config import LearnConfig
from ligo.learning.cost import choose_forward
from ligo.learning.engine import CLIP
from ligo.learning.fit import LearnedOperator, copy_state, mean_loss, warmup_cosine
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps, detached
from ligo.operators.config import OperatorConfig
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NO_NOISE, NoiseLevel
from ligo.training.objectives import Objective


@dataclass(frozen=True)
class FirstRun:
    """A trained target, and what it took to get there: growth and training."""

    read: ReadTensor
    """Gives its tensors by name on disk."""
    flops: float
    tokens: int
    wall_s: float


def trained_run(where: str, plan: GrowthPlan) -> tuple[Run, Checkpoint]:
    """The run that `learn.fit_to` names, and the target that it has trained.

    Raises:
        CheckpointError: it is no run that has finished training, or its target is another one.
    """
    run = Run(Path(where).expanduser())
    if "train" not in run.stage_results() or not run.trained.is_dir():
        raise CheckpointError(
            f"learn.fit_to={where} is no run folder with a trained/ model in it.\n"
            "  Try: the folder of a run whose stage 'train' is done"
        )
    trained = Checkpoint.open(run.trained).named_for(plan.target)
    try:
        trained.expect(expected_shapes(plan.target))
    except CheckpointError as error:
        raise CheckpointError(f"learn.fit_to={where} trained another target: {error}") from error
    return run, trained


def fit_to_trained(
    plan: GrowthPlan,
    read: ReadTensor,
    first: FirstRun,
    validation: list[np.ndarray],
    operator: OperatorConfig,
    config: LearnConfig,
    log: Callable[[dict[str, Any]], None],
    *,
    objective: Objective,
    seed: int,
) -> LearnedOperator:
    """Fit the maps to trained weights: least squares over all grown tensors, `operator.steps` steps of its optimiser.

    The last maps are kept, whatever their loss is before training: it says little of the loss after it. The first run is
    charged.

    Args:
        read: gives the small model's tensors as they are stored, on the CPU.
        validation: fixed batches, for the losses that are told.
        seed: of the null-space noise that will be written.

    Raises:
        NumericsError: the squares are not finite.
    """
    started = time.monotonic()
    learned = LearnedMaps(plan, operator)
    start = detached(learned())
    grown, goal = _Grown(plan, read, seed), _Goal(plan, first.read, start.spaces[RESIDUAL].fold_gains)
    flops = 0.0
    with torch.no_grad():
        way = sum(float((goal(spec) - grown(spec, start)).square().sum()) for spec in goal.specs)
    optimizer = learned.optimizer(operator) if way else None
    num_steps = operator.steps if optimizer else 0
    rates = [group["lr"] for group in optimizer.param_groups] if optimizer else []
    left = 1.0 if way else 0.0  # of the way, in squares
    with progress("fitting the operator to trained weights", num_steps) as bar:
        for step in range(num_steps):
            assert optimizer is not None
            left = 0.0
            for spec in goal.specs:  # tensor by tensor, so that neither model is held whole
                missing = (goal(spec) - grown(spec, learned())).square().sum() / way
                if missing.requires_grad:
                    missing.backward()  # type: ignore[no-untyped-call]
                left += float(missing.detach())
            if not np.isfinite(left):
                raise NumericsError(
                    f"the squares are {left} at step {step}: the step size is too large.\n"
                    f"  Try: operator.eta={operator.eta / 3:.3g}"
                )
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * warmup_cosine(step, num_steps, operator.warmup_fraction)
            norm = torch.nn.utils.clip_grad_norm_(learned.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            flops += 3 * plan.build_flops(start)
            log({"arm": "learn", "step": step + 1, "tokens": 0, "flops": flops,
                 "wall_s": time.monotonic() - started, "train/loss": left, "grad_norm": float(norm)})  # fmt: skip
            bar.advance(note=f"{1 - left:.1%} of the way")
    maps = detached(learned())

    function = GrownFunction(plan, seed=seed)

    def evaluate(maps: GrowthMaps, noise: NoiseLevel) -> float:
        run = function.as_written(maps, read, noise)
        return mean_loss(lambda batch: objective.loss(run, batch), validation, objective.num_tokens)

    tokens_of = objective.num_tokens
    length = tokens_of(validation[0]) // len(validation[0])
    for batch in validation:
        whole = choose_forward(
            plan, start, tokens=tokens_of(batch), sequence_length=length, wanted="materialise"
        )
        flops += 3 * whole.step.forward  # of the start, and of what was fitted, with noise and without
    return LearnedOperator(
        maps=maps,
        state=copy_state(learned),
        best_step=num_steps,
        start_loss=evaluate(plan.maps, operator.noise_level),
        best_loss=evaluate(maps, operator.noise_level),
        quiet_loss=evaluate(maps, NO_NOISE),
        flops=flops + first.flops,
        recomputed_flops=0.0,
        tokens=first.tokens,
        wall_s=time.monotonic() - started + first.wall_s,
        num_parameters=sum(p.numel() for p in learned.parameters()),
        small=config.small,
        captured=1 - left,
    )


class _Grown:
    """Target tensors as functions of the maps."""

    def __init__(self, plan: GrowthPlan, read: ReadTensor, seed: int) -> None:
        self._plan, self._seed = plan, seed
        self._read = lambda name: read(name).to(torch.float32)

    def __call__(self, spec: TensorSpec, maps: GrowthMaps) -> Tensor:
        small = sources(self._plan, maps, self._read)
        return make_tensor(
            self._plan.job_of[spec.name], self._plan, maps, small, seed=self._seed, dtype=torch.float32
        )


class _Goal:
    """The trained tensors in the form that the maps make: where these fold norms' scales into their readers, so is
    it done here, which changes nothing of what the model computes."""

    def __init__(self, plan: GrowthPlan, read: ReadTensor, fold: bool) -> None:
        self._read, self._target, self._fold = read, plan.target, fold
        self.specs = [job.spec for job in plan.jobs if job.source is not None]

    def __call__(self, spec: TensorSpec) -> Tensor:
        tensor = self._read(spec.name).to(torch.float32)
        if not self._fold:
            return tensor
        if spec.axes[0].role is Role.GAIN:
            folded = _is_folded(spec, self._target)
            return torch.full_like(tensor, 1.0 - spec.offset) if folded else tensor
        if spec.gain is None or RESIDUAL not in spec.spaces(Role.READ) | spec.spaces(Role.SHIFT):
            return tensor
        gain = self._target.by_name[spec.gain]
        if not _is_folded(gain, self._target):
            return tensor
        return fold_gain(tensor, spec, self._read(gain.name).to(torch.float32) + gain.offset)


def _is_folded(gain: TensorSpec, family: Family) -> bool:
    return RESIDUAL in gain.spaces(Role.GAIN) and not (gain.before_head and family.dims.tied)
