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
from ligo.families.stock import expected_shapes, skeleton
from ligo.growth.plan import GrowthPlan
from ligo.learning.cost import Forward, choose_forward
from ligo.learning.forward import GrownFunction
from ligo.learning.functional import LearnedMaps
from ligo.operators.config import OperatorConfig
from ligo.operators.factors import CopiesThenRows, Dense
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NoiseLevel
from ligo.training.objectives import make_objective

_MASKED = 0.15
"""Part of the tokens that a masked model has to guess (Devlin et al. 2019, arXiv 1810.04805)."""
_TRACED_LAYERS = 4
"""Of the target where weights are made or nothing is kept from layer to layer; more layers are on a straight line."""


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
            max(0.0, line(self.gradients_at_peak_bytes, other.gradients_at_peak_bytes)),
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
    of_all = getattr(torch, dtype)
    return model_step(
        skeleton(family), family, lambda tensor: of_all, windows=windows, length=length, autocast=autocast
    )


def evaluation_step(family: Family, *, windows: int, length: int, dtype: str = "float32") -> StepCost:
    """One forward pass on validation windows."""
    found, of_all = {}, getattr(torch, dtype)
    for layers in few_layers(family):
        short = with_layers(family, layers)
        found[layers] = model_step(
            skeleton(short), short, lambda tensor: of_all, windows=windows, length=length, learns=False
        )
    return extrapolated(found, family.dims.num_layers)


def model_step(
    model: nn.Module, family: Family, dtype: Callable[[Tensor], torch.dtype], *, windows: int, length: int,
    autocast: bool = False, learns: bool = True,
) -> StepCost:  # fmt: skip
    """One micro-batch of a model without weights, of which a part may be frozen.

    Args:
        model: the family's stock model on the meta device, with an adapter in it or without.
        dtype: of each of its parameters.
        autocast: whether matrices are multiplied in bf16 all the same.
        learns: False: the forward pass alone, as in an evaluation.
    """
    with _without_numbers(model.train(learns), dtype) as parameters:
        with (
            Trace() as trace,
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            torch.set_grad_enabled(learns),
        ):
            loss = loss_of(family)(model, _batch(family, windows, length))
            if learns:
                loss.backward()  # type: ignore[no-untyped-call]
        gradients = trace.births_of([p.grad for p in parameters if p.grad is not None])
        trace.close()
    return _step_cost(trace, gradients)


@contextmanager
def _without_numbers(
    model: nn.Module, dtype: Callable[[Tensor], torch.dtype]
) -> Iterator[list[nn.Parameter]]:
    """Give a model parameters that have shapes alone, in place: recomputed layers look for them in the backward pass too."""
    with FakeTensorMode(allow_non_fake_inputs=True), _as_with_numbers():
        made: dict[int, nn.Parameter] = {}
        for name, p in list(model.named_parameters(remove_duplicate=False)):
            if id(p) not in made:
                made[id(p)] = nn.Parameter(
                    torch.empty(p.shape, dtype=dtype(p)), requires_grad=p.requires_grad
                )
            module, _, leaf = name.rpartition(".")
            model.get_submodule(module).register_parameter(leaf, made[id(p)])
        for name, b in list(model.named_buffers()):
            if b.is_meta:  # an adapter's; those of the stock model are real
                module, _, leaf = name.rpartition(".")
                model.get_submodule(module).register_buffer(leaf, torch.empty(b.shape, dtype=b.dtype))
        yield list(made.values())


@contextmanager
def _as_with_numbers() -> Iterator[None]:
    """Let transformers run as it does with numbers: it takes tensors without them for a graph that is being captured, and
    then makes a mask of [length, length] that it otherwise leaves out."""
    from transformers import masking_utils

    before = masking_utils.is_tracing
    masking_utils.is_tracing = lambda tensor=None: False
    try:
        yield
    finally:
        masking_utils.is_tracing = before


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


class Learning:
    """Learning an operator, on shapes alone."""

    def __init__(self, plan: GrowthPlan, operator: OperatorConfig, *, length: int) -> None:
        self._plan, self._length = plan, length
        self._shapes_only = FakeTensorMode(allow_non_fake_inputs=True)
        with self._shapes_only:
            self._learned = LearnedMaps(plan, operator)
            self._maps = _without_coefficients(self._learned())
        sizes = [p.numel() for p in self._learned.parameters()]
        self.parameters, self.largest_parameter = sum(sizes), max(sizes, default=0)
        self.starts_bytes = sum(map(_num_bytes, self._learned.buffers()))
        self.maps_bytes = sum(map(_num_bytes, _learned_tensors(self._maps)))
        """Of the maps once, as they are applied."""

    def flops(self, tokens: int, way: str) -> Forward:
        """As learning charges them."""
        return choose_forward(self._plan, self._maps, tokens=tokens, sequence_length=self._length, wanted=way)

    def step(
        self, *, windows: int, forward: str, recompute: str, small: str = "fp32", autocast: bool = False,
        learns: bool = True, noise: NoiseLevel | None = None,
    ) -> StepCost:  # fmt: skip
        """One micro-batch; with `learns=False` its forward pass alone.

        Args:
            small: how the small model is held (`learn.small`); what is not float32 is made so each time it is read.
            noise: of the weights as they will be written, where nothing is learned.
        """
        chosen = self.flops(windows * self._length, forward)

        def cost(layers: int, mixed: int = 2) -> StepCost:
            short = shortened(self._plan, layers)
            grown = GrownFunction(short, recompute=recompute)
            with self._shapes_only, _as_with_numbers(), torch.set_grad_enabled(learns):
                return self._traced(short, grown, chosen, windows, mixed, small, autocast, noise)

        counts, total = few_layers(self._plan.target), self._plan.target.dims.num_layers
        found = {layers: cost(layers) for layers in counts}
        line, mixed = extrapolated(found, total), self._plan.small.dims.num_layers
        if not self._learned.depth or mixed <= 2:
            return line
        # mixing adds up in place and leaves nothing behind; what takes time is on a line too
        more = cost(counts[0], 3).work + found[counts[0]].work.times(-1)
        return replace(line, work=line.work + more.times((mixed - 2) * total / counts[0]))

    def _traced(
        self, plan: GrowthPlan, grown: GrownFunction, forward: Forward, windows: int, mixed: int, small: str,
        autocast: bool, noise: NoiseLevel | None,
    ) -> StepCost:  # fmt: skip
        """Of a shortened plan. Where coefficients are learned each matrix is mixed from `mixed` small layers."""
        held = {name: torch.empty(shape) for name, shape in expected_shapes(plan.small).items()}

        def read(name: str) -> Tensor:
            tensor = held[name]
            return tensor if small == "fp32" or tensor.ndim == 1 else torch.empty_like(tensor).zero_()

        learned, layers = self._learned, plan.target.dims.num_layers
        with Trace() as trace, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            maps = learned()
            few = {kind: values[:layers, :mixed] for kind, values in maps.layers.learned.items()}
            maps = replace(maps, layers=replace(plan.maps.layers, learned=few))
            run = grown.as_written(maps, read, noise) if noise else grown(maps, read, forward.outside)
            loss = loss_of(plan.target)(run, _batch(plan.target, windows, self._length))
            del maps, run
            if torch.is_grad_enabled():
                loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(learned.parameters())
        gradients = trace.births_of([p.grad for p in parameters if p.grad is not None])
        trace.close()
        for parameter in parameters:
            parameter.grad = None
        return _step_cost(trace, gradients)


def with_layers(family: Family, layers: int) -> Family:
    """The same model with so many layers, its first ones."""
    config = family.resized(replace(family.dims, num_layers=layers))
    config |= {key: config[key][:layers] for key in family.per_layer_keys if config.get(key)}
    return family_of(config)


def shortened(plan: GrowthPlan, layers: int) -> GrowthPlan:
    """The same growth of a target that ends after so many layers."""
    depth = plan.maps.layers
    kept = frozenset(layer for layer in depth.identity_layers if layer < layers)
    return replace(
        plan,
        shapes=replace(plan.shapes, target=with_layers(plan.target, layers)),
        maps=replace(plan.maps, layers=replace(depth, weights=depth.weights[:layers], identity_layers=kept)),
        jobs=tuple(job for job in plan.jobs if job.spec.layer is None or job.spec.layer < layers),
    )


def few_layers(family: Family) -> list[int]:
    """Two numbers of layers to trace in the place of all."""
    return sorted({min(layers, family.dims.num_layers) for layers in (_TRACED_LAYERS // 2, _TRACED_LAYERS)})


def _without_coefficients(maps: GrowthMaps) -> GrowthMaps:
    """The maps with plain arrays for coefficients of layers, through which the cost model goes one by one."""
    plain = {kind: np.zeros(values.shape, dtype=np.float32) for kind, values in maps.layers.learned.items()}
    return replace(maps, layers=replace(maps.layers, learned=plain))


def _learned_tensors(maps: GrowthMaps) -> list[Tensor]:
    """What of the maps has been learned."""
    factors = {id(f): f for m in maps.spaces.values() for f in (m.expand, m.reduce) if f.is_learned}
    return [factor.values for factor in factors.values() if isinstance(factor, Dense | CopiesThenRows)]


def extrapolated(found: Mapping[int, StepCost], layers: int) -> StepCost:
    """The straight line through what two numbers of layers take."""
    few, many = min(found), max(found)
    if few == many:
        return found[many]
    return found[many].extended(found[few], (layers - many) / (many - few))
