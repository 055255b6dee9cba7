"""The steps of a run on shapes alone: what training, evaluating and learning take, traced from the stock modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from ligo.accounting.hardware import Work
from ligo.accounting.trace import Trace
from ligo.families.base import Family, family_of
from ligo.families.spec import RESIDUAL
from ligo.families.stock import expected_shapes, skeleton
from ligo.growth.plan import GrowthPlan
from ligo.learning.cost import Forward, choose_forward
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps, folded_small
from ligo.operators.config import OperatorConfig
from ligo.operators.maps import GrowthMaps
from ligo.training.objectives import make_objective

_MASKED = 0.15
"""Part of the tokens that a masked model has to guess (Devlin et al. 2019, arXiv 1810.04805)."""
_TRACED_LAYERS = 4
"""Of the target while an operator is learned; what more layers take is a straight line."""


@dataclass(frozen=True)
class StepCost:
    """Of one forward pass, and its backward pass where there is one."""

    activations_bytes: float
    """The most that is alive at once beside weights and gradients."""
    peak_bytes: float
    """The same with gradients, which the backward pass makes one by one."""
    gradients_at_peak_bytes: float
    """Those that were there then."""
    work: Work

    def extended(self, other: StepCost, factor: float) -> StepCost:
        """This, and `factor` times the difference to another."""

        def line(mine: float, theirs: float) -> float:
            return mine + factor * (mine - theirs)

        return StepCost(
            line(self.activations_bytes, other.activations_bytes),
            line(self.peak_bytes, other.peak_bytes),
            line(self.gradients_at_peak_bytes, other.gradients_at_peak_bytes),
            self.work.times(1 + factor) + other.work.times(-factor),
        )


def _step_cost(trace: Trace, gradients: set[int]) -> StepCost:
    alive, of_gradients = trace.profile(), trace.profile(gradients)
    at = int(alive.argmax())
    return StepCost(
        float((alive - of_gradients).max()), float(alive[at]), float(of_gradients[at]), trace.work
    )


def training_step(
    family: Family, *, windows: int, length: int, dtype: str = "float32", autocast: bool = False
) -> StepCost:
    """One micro-batch: forward and backward, with dropout where the model has any.

    Args:
        dtype: of the weights.
        autocast: whether matrices are multiplied in bf16 all the same.
    """
    with _shapes_only(family, dtype) as (run, parameters):
        with Trace() as trace, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(family)(run, _batch(family, windows, length))
            loss.backward()  # type: ignore[no-untyped-call]
        gradients = trace.births_of([p.grad for p in parameters.values() if p.grad is not None])
        trace.close()
    return _step_cost(trace, gradients)


def evaluation_step(family: Family, *, windows: int, length: int, dtype: str = "float32") -> StepCost:
    """One forward pass on validation windows."""
    with _shapes_only(family, dtype, train=False) as (run, _):
        with Trace() as trace, torch.no_grad():
            loss_of(family)(run, _batch(family, windows, length))
        trace.close()
    return _step_cost(trace, set())


@contextmanager
def _shapes_only(
    family: Family, dtype: str, *, train: bool = True
) -> Iterator[tuple[Callable[..., Any], Mapping[str, Tensor]]]:
    """The stock model as a function of its inputs, and its parameters, which have no numbers."""
    model = skeleton(family).train(train)
    with FakeTensorMode(allow_non_fake_inputs=True):
        parameters: dict[str, Tensor] = {
            name: torch.empty(p.shape, dtype=getattr(torch, dtype)).requires_grad_()
            for name, p in model.named_parameters()
        }

        def run(**inputs: Any) -> Any:
            return torch.func.functional_call(model, parameters, (), inputs, tie_weights=True)

        yield run, parameters


def loss_of(family: Family) -> Callable[[Callable[..., Any], Tensor], Tensor]:
    """The loss that a model is trained on; of masked models with the usual number of hidden tokens, wherever they are."""
    if family.objective != "masked_lm":
        return make_objective(family).loss

    def masked(run: Callable[..., Any], batch: Tensor) -> Tensor:
        tokens = batch[:, :-1]
        logits = run(input_ids=tokens).logits
        chosen = torch.zeros(round(_MASKED * tokens.numel()), dtype=torch.long)
        return F.cross_entropy(logits.flatten(0, 1)[chosen].float(), tokens.flatten()[chosen])

    return masked


def _batch(family: Family, windows: int, length: int) -> Tensor:
    if family.dims.vocab_size:
        return torch.zeros(windows, length + 1, dtype=torch.long)
    pixels = family.setting("num_channels") * family.setting("image_size") ** 2
    return torch.zeros(windows, pixels + 1, dtype=torch.long)


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# --- learning ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LearningCost:
    """Of learning an operator."""

    parameters: int
    largest_parameter: int
    maps_bytes: int
    """What is kept beside the parameters: where the maps start, and the best maps that were seen."""
    step: StepCost
    evaluation: StepCost
    flops: Forward
    """Of a step, as they are charged."""
    evaluation_flops: float
    """Of one forward pass on `evaluation_windows`, all weights made."""
    build_flops: float
    """Of making all weights once."""
    folds_gains: bool
    """Whether gains are folded into what reads the stream, which is then kept beside the small model's own."""


def learning(
    plan: GrowthPlan, config: OperatorConfig, *, forward: str, recompute: str, windows: int, length: int,
    evaluation_windows: int,
) -> LearningCost:  # fmt: skip
    """One step and one evaluation of learning an operator; the small model is held elsewhere."""
    shapes_only = FakeTensorMode(allow_non_fake_inputs=True)
    with shapes_only:
        learned = LearnedMaps(plan, config)
        counted = _without_coefficients(learned())
    chosen, whole = (
        choose_forward(plan, counted, tokens=count * length, sequence_length=length, wanted=way)
        for count, way in ((windows, forward), (evaluation_windows, "materialise"))
    )
    total = plan.target.dims.num_layers
    steps, evaluations = {}, {}
    for layers in {min(n, total) for n in (_TRACED_LAYERS // 2, _TRACED_LAYERS)}:
        short = shortened(plan, layers)
        runs = (GrownFunction(short, recompute=recompute), GrownFunction(short, recompute="none"))
        with shapes_only:
            steps[layers] = _learning_step(short, learned, runs[0], chosen, windows, length)
            with torch.no_grad():
                evaluations[layers] = _learning_step(
                    short, learned, runs[1], whole, evaluation_windows, length
                )
    parameters = list(learned.parameters())
    return LearningCost(
        parameters=sum(p.numel() for p in parameters),
        largest_parameter=max((p.numel() for p in parameters), default=0),
        maps_bytes=sum(map(_num_bytes, learned.buffers())) + sum(map(_num_bytes, _tensors_of(counted))),
        step=_extrapolated(steps, total),
        evaluation=_extrapolated(evaluations, total),
        flops=chosen,
        evaluation_flops=whole.step.forward,
        build_flops=whole.again["weights"],
        folds_gains=counted.spaces[RESIDUAL].fold_gains,
    )


def shortened(plan: GrowthPlan, layers: int) -> GrowthPlan:
    """The same growth of a target that ends after so many layers."""
    target, maps = plan.target, plan.maps
    config = target.resized(replace(target.dims, num_layers=layers))
    config |= {key: config[key][:layers] for key in target.per_layer_keys if config.get(key)}
    kept = frozenset(layer for layer in maps.layers.identity_layers if layer < layers)
    return replace(
        plan,
        shapes=replace(plan.shapes, target=family_of(config)),
        maps=replace(
            maps, layers=replace(maps.layers, weights=maps.layers.weights[:layers], identity_layers=kept)
        ),
        jobs=tuple(job for job in plan.jobs if job.spec.layer is None or job.spec.layer < layers),
    )


def _learning_step(
    plan: GrowthPlan, learned: LearnedMaps, run: GrownFunction, forward: Forward, windows: int, length: int
) -> StepCost:
    """One step of learning a shortened plan, or one evaluation where gradients are off.

    Each grown matrix is mixed from two small layers, however many there are: those that are read in place leave nothing
    behind, and what mixing the others costs is known.
    """
    small = {name: torch.empty(shape) for name, shape in expected_shapes(plan.small).items()}
    folded = folded_small(plan, learned(), small)
    with torch.no_grad():
        for job in plan.jobs:  # folded once, before the first step
            for layer in range(2) if job.source is not None else ():
                folded(job, min(layer, plan.small.dims.num_layers - 1))
    with Trace() as trace:
        maps = learned()
        coefficients = {kind: values[: plan.target.dims.num_layers, :2] for kind, values in maps.layers.learned.items()}
        maps = replace(maps, layers=replace(plan.maps.layers, learned=coefficients))
        loss = loss_of(plan.target)(run(maps, folded, forward.outside), _batch(plan.target, windows, length))
        del maps
        if torch.is_grad_enabled():
            loss.backward()  # type: ignore[no-untyped-call]
    parameters = list(learned.parameters())
    gradients = trace.births_of([p.grad for p in parameters if p.grad is not None])
    trace.close()
    for parameter in parameters:
        parameter.grad = None
    return _step_cost(trace, gradients)


def _without_coefficients(maps: GrowthMaps) -> GrowthMaps:
    """The maps with plain arrays for coefficients of layers, through which the cost model goes one by one."""
    plain = {kind: np.zeros(values.shape, dtype=np.float32) for kind, values in maps.layers.learned.items()}
    return replace(maps, layers=replace(maps.layers, learned=plain))


def _tensors_of(maps: GrowthMaps) -> list[Tensor]:
    """What of the maps has been learned."""
    factors = {id(f): f for m in maps.spaces.values() for f in (m.expand, m.reduce) if f.is_learned}
    return [getattr(factor, "rows", None) if hasattr(factor, "rows") else factor.values for factor in factors.values()]


def _extrapolated(found: Mapping[int, StepCost], layers: int) -> StepCost:
    """The straight line through what two numbers of layers take."""
    few, many = min(found), max(found)
    if few == many:
        return found[many]
    return found[many].extended(found[few], (layers - many) / (many - few))
