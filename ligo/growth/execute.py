"""Growth as bytes: the plan's jobs, one tensor at a time.

`grow_tensor` is the one place where equation (1) of ligo is computed; learning calls it with learned
maps and autograd, writing calls it with what was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ligo.core.errors import NumericsError
from ligo.core.log import progress
from ligo.families.spec import RESIDUAL, Role, TensorSpec
from ligo.growth.copies import copies_of
from ligo.growth.noise import Noise, filled, fresh_tensor, noise_deviation, noise_of, rows_per_draw
from ligo.growth.plan import GrowthPlan, TensorJob, axis_factors, depth_row, has_share_from_above, in_layer
from ligo.operators.axes import map_axis
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NoiseLevel

ReadTensor = Callable[[str], Tensor]
"""Name of a small tensor -> the tensor, in the dtype to compute in."""

ReadSource = Callable[[TensorJob, int], Tensor]
"""A job and a small layer -> what the job takes from that layer, gains folded in."""


class _MixLayers(torch.autograd.Function):
    """sum_j weights[j] * layer(j), adding up in place. The backward pass reads each layer again, so that nothing of a
    layer's size is kept for it."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, layer: Callable[[int], Tensor]) -> Tensor:
        ctx.layer, ctx.num_layers = layer, len(weights)
        first, *others = weights.tolist()
        mixed = layer(0) * first
        for index, weight in enumerate(others, 1):
            mixed.add_(layer(index), alpha=weight)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        flat = gradients[0].reshape(-1)
        return torch.stack([flat @ ctx.layer(index).reshape(-1) for index in range(ctx.num_layers)]), None


def grow_tensor(job: TensorJob, plan: GrowthPlan, maps: GrowthMaps, read: ReadSource) -> Tensor:
    """One target tensor from the small ones: mix depth, then grow each axis.

    W'[l] = sum_j depth[l, j] * expand_out @ W[j] @ reduce_in; gains are copied, or are one where they have
    been folded into their readers. A tensor without a source (a router) is not made here.

    Args:
        read: from `sources`.
    """
    spec = job.spec
    if spec.axes[0].role is Role.GAIN:
        return _grow_gain(job, plan, maps, read)
    if has_share_from_above(spec, maps):
        last = plan.small.dims.num_layers - 1

        def above(job: TensorJob, layer: int) -> Tensor:
            return read(job, min(layer + 1, last))

        own, next_ = _mix_depth(job, maps, read), _mix_depth(job, maps, above)
        return _grow_axes(own, spec, plan, maps, above=False) + _grow_axes(
            next_, spec, plan, maps, above=True
        )
    grown = _grow_axes(_mix_depth(job, maps, read), spec, plan, maps)
    assert job.source is not None
    if spec.multiplier != job.source.multiplier:
        grown = grown * (job.source.multiplier / spec.multiplier)
    if spec.axes[0].role is Role.SHIFT:
        grown = _as_head_needs(grown, spec, plan, maps)
    return grown


def grow_core(
    job: TensorJob, plan: GrowthPlan, maps: GrowthMaps, read: ReadSource, outside: Collection[int]
) -> Tensor:
    """What is left of a matrix where the maps on some of its axes act on activations instead: its layers mixed, its
    other axes grown. What the models multiply it by is left out too.

    Args:
        outside: the axes that stay small.
    """
    return _grow_axes(_mix_depth(job, maps, read), job.spec, plan, maps, outside=outside)


def _grow_axes(
    tensor: Tensor,
    spec: TensorSpec,
    plan: GrowthPlan,
    maps: GrowthMaps,
    above: bool | None = None,
    outside: Collection[int] = (),
) -> Tensor:
    spaces = {**plan.target.spaces, **plan.small.spaces}
    for axis, at in enumerate(spec.axes):
        if axis in outside:
            continue
        tensor = map_axis(tensor, axis, at.layout, axis_factors(spec, axis, maps, above), spaces)
    return tensor


def _mix_depth(job: TensorJob, maps: GrowthMaps, read: ReadSource) -> Tensor:
    row = depth_row(job.spec, maps)
    if not row:  # an identity block ends in zero
        return torch.zeros_like(read(job, 0))
    if len(row) == 1 and not isinstance(row[0][1], Tensor):
        layer, weight = row[0]
        tensor = read(job, layer)
        return tensor if weight == 1.0 else tensor * weight
    weights = torch.stack([torch.as_tensor(weight, dtype=torch.float64) for _, weight in row])
    mixed: Tensor = _MixLayers.apply(weights, lambda index: read(job, row[index][0]))
    return mixed


def _grow_gain(job: TensorJob, plan: GrowthPlan, maps: GrowthMaps, read: ReadSource) -> Tensor:
    """A norm's scale. What the running model adds to the stored one (Gemma: 1) is taken off again at the end."""
    spec = job.spec
    residual = maps.spaces[RESIDUAL]
    before_tied_head = spec.before_head and plan.target.dims.tied
    if residual.fold_gains and RESIDUAL in spec.spaces(Role.GAIN) and not before_tied_head:
        like = read(job, 0)
        size = residual.expand.shape[0]
        return torch.full((size,), 1.0 - spec.offset, dtype=like.dtype, device=like.device)

    def effective(job: TensorJob, layer: int) -> Tensor:
        return read(job, layer) + spec.offset

    grown = _grow_axes(_mix_depth(job, maps, effective), spec, plan, maps)
    return _as_head_needs(grown, spec, plan, maps) - spec.offset


def _as_head_needs(tensor: Tensor, spec: TensorSpec, plan: GrowthPlan, maps: GrowthMaps) -> Tensor:
    """Gain and shift before a tied head make up for its reading with the embedding's own map and multiplier."""
    residual = maps.spaces[RESIDUAL]
    if not (spec.before_head and plan.target.dims.tied) or residual.head_scale is None:
        return tensor
    scale = torch.as_tensor(residual.head_scale, device=tensor.device).to(tensor.dtype)
    return tensor * scale * head_multiplier(plan)


def head_multiplier(plan: GrowthPlan) -> float:
    """How much more the target multiplies what its embedding gives by than the small model, where they are tied."""
    target, small = (
        next((spec.multiplier for spec in family.tensors if spec.aliases and spec.lookup), 1.0)
        for family in (plan.target, plan.small)
    )
    return target / small


def sources(
    plan: GrowthPlan, maps: GrowthMaps, read: ReadTensor, *, gains: ReadTensor | None = None, power: int = 1
) -> ReadSource:
    """What jobs take from the small model: its tensors, with each gain folded into its readers, W diag(g), where
    the maps cannot copy it; shifts are then divided by their gains.

    Args:
        gains: where the gains are read, if not with `read`.
        power: of the gains: 1 for weights, -1 for their gradients, -2 for squares of these; gains of zero stay zero.
    """
    fold = maps.spaces[RESIDUAL].fold_gains

    def read_source(job: TensorJob, layer: int) -> Tensor:
        tensor, spec = read(job.source_name(layer)), job.spec
        if not fold or spec.gain is None or RESIDUAL not in spec.spaces(Role.READ) | spec.spaces(Role.SHIFT):
            return tensor
        name = spec.gain if spec.layer is None else in_layer(spec.gain, spec.layer, layer)
        gain = (gains or read)(name) + plan.small.by_name[name].offset
        return fold_gain(tensor, spec, gain, power=power)

    return read_source


def fold_gain(tensor: Tensor, spec: TensorSpec, gain: Tensor, *, power: int = 1) -> Tensor:
    """What reads a norm's output with its scale folded in, W diag(g); a shift after the norm is divided by it.

    Args:
        gain: what the running model multiplies by.
        power: as in `sources`.
    """
    axis = next(axis for axis, at in enumerate(spec.axes) if at.role in (Role.READ, Role.SHIFT))
    exponent = power if spec.axes[axis].role is Role.READ else -power
    if exponent != 1:
        if power == 1 and not gain.all():
            raise NumericsError(
                f"{spec.gain} has scales of exactly zero, and a shift cannot be divided by them, which a map that mixes "
                "coordinates needs.\n  Try: operator.width=scaled_duplication"
            )
        gain = torch.where(gain == 0, 0.0, gain**exponent)
    return tensor * gain.reshape([-1 if a == axis else 1 for a in range(tensor.ndim)])


def make_tensor(
    job: TensorJob, plan: GrowthPlan, maps: GrowthMaps, read: ReadSource, *, seed: int, dtype: torch.dtype
) -> Tensor:
    """One target tensor: grown, with the operator's own random weights, or fresh where it has no source."""
    if job.source is None:
        return fresh_tensor(job, plan, seed=seed, dtype=dtype)
    return filled(job, plan, maps, grow_tensor(job, plan, maps, read), seed=seed)


@dataclass(frozen=True)
class TensorMaker:
    """Makes a plan's tensors one by one as they are written, or some rows of them where rows are copies of rows."""

    plan: GrowthPlan
    maps: GrowthMaps
    read: ReadTensor
    dtype: torch.dtype
    """To compute in."""
    noise: NoiseLevel
    seed: int
    device: str = "cpu"
    """Where matrices are multiplied; copies are made, and numbers drawn, on the CPU."""

    def make(self, job: TensorJob) -> Tensor:
        """The whole tensor.

        Raises:
            NumericsError: it is not finite.
        """
        make_rows = self.by_rows(job)
        if make_rows is not None:
            return make_rows(range(job.shape[0]), torch.empty(job.shape, dtype=self.dtype))
        device = self.device if job.flops else "cpu"
        source = sources(self.plan, self.maps, lambda name: self.read(name).to(device, self.dtype))
        grown = make_tensor(job, self.plan, self.maps, source, seed=self.seed, dtype=self.dtype)
        grown, noise = grown.cpu().contiguous(), self._noise(job)
        if noise is not None:  # then an axis has grown, so this is not the small model's own tensor
            noise.add(grown)
        _check_finite(grown, job)
        return grown

    def by_rows(self, job: TensorJob) -> Callable[[range, Tensor], Tensor] | None:
        """What puts any rows of a tensor, bit for bit as in the whole, into one given; None where nothing can.

        It is to be given rows from a multiple of `rows_per_draw` on, and makes a few at a time, which the cache holds.
        """
        copies, noise = copies_of(job, self.plan, self.maps), self._noise(job)
        if copies is None:
            return None

        def make_rows(rows: range, made: Tensor) -> Tensor:
            dtype = made.dtype
            small = None if copies.layer is None else self.read(job.source_name(copies.layer))
            as_stored = noise is None and copies.rounds_once and (small is None or small.dtype == dtype)
            step = len(rows) if as_stored else rows_per_draw(job.shape)  # a few rows in the wider dtype
            for first in range(rows.start, rows.stop, step):
                block = range(first, min(first + step, rows.stop))
                part = made[first - rows.start :][: len(block)]
                grown = (
                    part if as_stored or self.dtype == dtype else torch.empty(part.shape, dtype=self.dtype)
                )
                copies.put(small, block, grown)
                if noise is not None:
                    noise.add(grown, block)
                _check_finite(grown, job)
                if grown is not part:
                    part.copy_(grown)
            return made

        return make_rows

    def _noise(self, job: TensorJob) -> Noise | None:
        if not self.noise:
            return None
        deviation = noise_deviation(self.noise, job, self.plan, self.read)
        return noise_of(job, self.plan, self.maps, deviation=deviation, seed=self.seed)


def _check_finite(tensor: Tensor, job: TensorJob) -> None:
    if tensor.sum().isfinite() or tensor.isfinite().all():  # the sum is faster, but may overflow
        return
    raise NumericsError(
        f"the grown tensor {job.spec.name} has values that are not finite (made from "
        f"{', '.join(job.sources)}).\n  Try: check the small checkpoint, or write.dtype=float32"
    )


def grow_tensors(
    plan: GrowthPlan, maps: GrowthMaps, read: ReadTensor, *, dtype: torch.dtype, noise: NoiseLevel, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Run the plan's jobs in file order: (name, tensor) one at a time, computed and returned in `dtype`.

    Raises:
        NumericsError: a grown tensor is not finite; it is named.
    """
    maker = TensorMaker(plan, maps, read, dtype, noise, seed)
    with progress("growing tensors", len(plan.jobs)) as bar:
        for job in plan.jobs:
            yield job.spec.name, maker.make(job)
            bar.advance()
