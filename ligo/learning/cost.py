"""Three ways to multiply with a grown matrix, what each costs, and which one is the cheapest; no torch.

A grown matrix is W' = B W A^T, with W the small matrices mixed over depth: [o, i] -> [o', i']. Of each of its axes
the map acts either *inside*, on W, once per step, or *outside*, on activations, once per token:

* materialise: all maps inside. The reference, and what is written.
* hybrid: the maps of the residual stream outside, where all readers of one input share t = A^T x; the others inside.
  Cheaper than the target's own matrix where the stream grows enough, and the head of V x D' is never built.
* factored: all maps outside. Wins only where there are fewer tokens than units.

FLOPs are those of `accounting.flops`: a multiply-add is two, copies and lookups are free, and so is what is
recomputed. Gradients are counted where something is learned behind them, so the backward pass of a frozen
head costs once, not twice, its forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ligo.families.spec import (
    EXPERTS,
    HEADS,
    RESIDUAL,
    VOCAB,
    Role,
    TensorSpec,
    layout_key,
    layout_size,
    layout_spaces,
)
from ligo.growth.plan import GrowthPlan, TensorJob, axis_factors, depth_row, has_share_from_above
from ligo.operators.axes import layout_flops, layout_keys, transposed
from ligo.operators.maps import GrowthMaps

FLOPS_PER_NUMBER = 50
"""What moving a number costs: the FLOPs done in that time, some 30 on a CPU core, more on a GPU."""

WAYS = ("materialise", "hybrid", "factored")


@dataclass(frozen=True)
class Use:
    """A place in the running model where a matrix is multiplied with, or looked up in."""

    job: TensorJob
    name: str
    """Of the tensor, on disk; for a tied head its alias in the running model."""
    in_axis: int | None
    """The axis that the input is multiplied along; None: a lookup."""

    @property
    def group(self) -> str:
        """Uses that are run the same way: those in one block that read the residual stream, which then share what is
        read, and embedding and tied head, which share the matrix."""
        spec = self.job.spec
        if self.in_axis is None or self.is_tied_head or spec.axes[self.in_axis].layout != RESIDUAL:
            return spec.name
        return f"{self.name.rsplit('.', 2)[0]}.*"

    @property
    def is_of_tokens(self) -> bool:
        """Whether it is the embedding; other tables that are looked up in are small, and always made whole."""
        return self.in_axis is None and self.job.spec.axes[0].layout == VOCAB

    @property
    def is_tied_head(self) -> bool:
        return self.name != self.job.spec.name


def uses(plan: GrowthPlan) -> list[Use]:
    """Every use of a matrix of the target, in file order."""
    found = []
    for job in plan.jobs:
        spec = job.spec
        if spec.lookup:
            found.append(Use(job, spec.name, None))
            found += [Use(job, alias, 1) for alias in spec.aliases]
        elif len(spec.axes) > 1:
            reading = (axis for axis, at in enumerate(spec.axes) if at.role is Role.READ)
            found.append(Use(job, spec.name, next(reading)))
    return found


def axes_outside(use: Use, way: str, plan: GrowthPlan, maps: GrowthMaps) -> frozenset[int]:
    """The axes whose maps act on activations; none where the structure asks for the whole matrix.

    That is so for experts and their routers, convolutions, tables of positions, and matrices with random or borrowed
    parts.
    """
    spec = use.job.spec
    whole = (
        use.job.source is None
        or maps.fill is not None
        or len(spec.axes) != 2
        or spec.expert is not None
        or (use.in_axis is None and not use.is_of_tokens)
        or any(EXPERTS in layout_spaces(at.layout) for at in spec.axes)
        or has_share_from_above(spec, maps)
    )
    if whole or way == "materialise":
        return frozenset()
    return frozenset(
        axis
        for axis, at in enumerate(spec.axes)
        if (way == "factored" or at.layout == RESIDUAL)
        and not (use.in_axis is None and axis == 0)
        and any(axis_factors(spec, axis, maps)(key) is not None for key in layout_keys(at.layout))
    )


@dataclass(frozen=True)
class Flops:
    """Of one step."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def training(self) -> float:
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class Forward:
    """How each use of a matrix is run on a number of tokens, and what a step costs; FLOPs are of all tokens."""

    way: Mapping[str, str]
    """By name of the use."""
    outside: Mapping[str, frozenset[int]]
    """By name of the use: the axes whose maps act on activations."""
    step: Flops
    again: Mapping[str, float]
    """FLOPs of what the backward pass makes again, by `learn.recompute`: of weights, and of whole layers."""


def choose_forward(
    plan: GrowthPlan, maps: GrowthMaps, *, tokens: int, sequence_length: int, wanted: str = "auto"
) -> Forward:
    """The way to run each use: the one that is wanted, or with `auto` the cheapest, in FLOPs and in what is moved.

    Args:
        maps: those that are learned require gradients.
        tokens: of one step.
    """
    groups: dict[str, list[Use]] = {}
    for use in uses(plan):
        groups.setdefault(use.group, []).append(use)
    behind = _behind_what_is_learned(plan, maps)

    def readers_of(group: list[Use], way: str) -> int:
        return max(1, sum(use.in_axis in axes_outside(use, way, plan, maps) for use in group))

    def cost(group: list[Use], way: str) -> list[Flops]:
        readers = readers_of(group, way)
        first = behind[group[0].name]
        return [
            use_flops(
                use, way, plan, maps, tokens=tokens, readers=readers,
                has_gradient=behind[use.name] if use.is_tied_head else first,
            )
            for use in group
        ]  # fmt: skip

    way, outside, step, weights, layers = {}, {}, Flops(), 0.0, 0.0
    attention = plan.target.attention_flops(sequence_length) * tokens / plan.target.dims.num_layers
    for group in groups.values():
        costs = {way: cost(group, way) for way in (WAYS if wanted == "auto" else [wanted])}
        moved = {
            way: sum(numbers_moved(use, way, plan, maps, tokens, readers_of(group, way)) for use in group)
            for way in costs
        }
        best = min(costs, key=lambda way: sum(f.training for f in costs[way]) + FLOPS_PER_NUMBER * moved[way])
        for use, flops in zip(group, costs[best], strict=True):
            if HEADS in use.job.spec.spaces(Role.READ):  # what attention gave
                flops += Flops(attention, 2 * attention * behind[use.job.spec.name])
            way[use.name], outside[use.name] = best, axes_outside(use, best, plan, maps)
            step += flops
            layers += flops.forward if use.job.spec.layer is not None else 0.0
            built = _build_flops(use, outside[use.name], plan, maps)[0].forward
            weights += built if use.in_axis is not None else 0.0
    return Forward(way, outside, step, {"none": 0.0, "weights": weights, "layers": layers})


def use_flops(
    use: Use,
    way: str,
    plan: GrowthPlan,
    maps: GrowthMaps,
    *,
    tokens: int,
    readers: int = 1,
    has_gradient: bool = True,
) -> Flops:
    """FLOPs of one use in one step on `tokens` tokens, its part in building the matrix included.

    Args:
        maps: those that are learned require gradients.
        readers: uses that share what is read outside.
        has_gradient: whether the input has one.
    """
    spec, outside = use.job.spec, axes_outside(use, way, plan, maps)
    count = tokens * spec.active_share
    spaces = {**plan.target.spaces, **plan.small.spaces}
    flops, shape, weight_has_gradient = _build_flops(use, outside, plan, maps)
    if use.in_axis is None:
        has_gradient = weight_has_gradient
    elif not list(layout_spaces(spec.axes[use.in_axis].layout)):  # pixels
        has_gradient = False
    if use.in_axis in outside:
        assert use.in_axis is not None
        read = transposed(axis_factors(spec, use.in_axis, maps))
        once = layout_flops(spec.axes[use.in_axis].layout, 1, read, plan.target.spaces) * count / readers
        learned = _is_learned(spec, use.in_axis, maps)
        flops += Flops(once, once * (learned + has_gradient))
        has_gradient = has_gradient or learned
    if use.in_axis is not None:
        once = 2 * count * math.prod(shape)
        flops += Flops(once, once * (has_gradient + weight_has_gradient))
        has_gradient = has_gradient or weight_has_gradient
    for axis in outside - {use.in_axis}:
        once = layout_flops(spec.axes[axis].layout, 1, axis_factors(spec, axis, maps), spaces) * count
        flops += Flops(once, once * (_is_learned(spec, axis, maps) + has_gradient))
    return flops


def numbers_moved(
    use: Use, way: str, plan: GrowthPlan, maps: GrowthMaps, tokens: int, readers: int = 1
) -> float:
    """Numbers of activations that are read and written in a step.

    Each product reads one width and writes the other, forward and twice backward; a map on a part of a layout
    (heads) is applied to a copy that has that part in front.
    """
    spec, outside = use.job.spec, axes_outside(use, way, plan, maps)
    total = 3.0 * sum(_build_flops(use, outside, plan, maps)[1]) * tokens * spec.active_share
    total = 0.0 if use.in_axis is None else total
    for axis in outside:
        layout = spec.axes[axis].layout
        widths = sum(layout_size(layout, family.spaces) for family in (plan.small, plan.target))
        copies = 1 if axis_factors(spec, axis, maps)(layout_key(layout)) is not None else 3
        total += 3 * copies * widths * tokens * spec.active_share / (readers if axis == use.in_axis else 1)
    return total


def _build_flops(
    use: Use, outside: Iterable[int], plan: GrowthPlan, maps: GrowthMaps
) -> tuple[Flops, list[int], bool]:
    """FLOPs of what is built of a matrix, the shape of that, and whether it has a gradient."""
    spec = use.job.spec
    if use.job.source is None:
        return Flops(), list(use.job.shape), False
    spaces = {**plan.target.spaces, **plan.small.spaces}
    row, flops, any_gradient = depth_row(spec, maps), Flops(), False
    shape: list[int] = []
    for above in (False, True) if has_share_from_above(spec, maps) else (None,):
        shape, has_gradient = list(spec.shape(spaces)), _mixes_learned(spec, maps)
        mixing = 2 * len(row) * math.prod(shape) if len(row) > 1 else 0
        flops += Flops(mixing, mixing * has_gradient)
        for axis, at in enumerate(spec.axes):
            if axis in outside:
                continue
            columns, pick = math.prod(shape) // shape[axis], axis_factors(spec, axis, maps, above)
            once, learned = (
                layout_flops(at.layout, columns, pick, spaces),
                _is_learned(spec, axis, maps, above),
            )
            flops += Flops(once, once * (learned + has_gradient))
            has_gradient = has_gradient or learned
            shape[axis] = use.job.shape[axis]
        any_gradient = any_gradient or has_gradient
    if use.is_tied_head and not outside:
        flops = Flops()  # the embedding itself pays
    return flops, shape, any_gradient


def _behind_what_is_learned(plan: GrowthPlan, maps: GrowthMaps) -> dict[str, bool]:
    """Name of a tensor, or of a tied head -> whether anything is learned that its input may depend on."""
    behind, learned = {}, False
    for job in plan.jobs:
        spec = job.spec
        behind[spec.name] = learned
        learned = learned or (
            job.source is not None
            and (
                _mixes_learned(spec, maps)
                or any(_is_learned(spec, axis, maps) for axis in range(len(spec.axes)))
            )
        )
    return behind | {alias: learned for job in plan.jobs for alias in job.spec.aliases}


def _mixes_learned(spec: TensorSpec, maps: GrowthMaps) -> bool:
    return spec.layer is not None and spec.kind in maps.layers.learned


def _is_learned(spec: TensorSpec, axis: int, maps: GrowthMaps, above: bool | None = None) -> bool:
    """Whether any factor on an axis requires a gradient."""
    pick = axis_factors(spec, axis, maps, above)
    factors = (pick(key) for key in layout_keys(spec.axes[axis].layout))
    return any(factor is not None and factor.is_learned for factor in factors)
