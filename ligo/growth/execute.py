"""Growth as bytes: the plan's jobs, one tensor at a time.

`grow_tensor` is the one place where equation (1) of ligo is computed; learning calls it with learned
maps and autograd, writing calls it with what was learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ligo.core.errors import NumericsError
from ligo.core.log import progress
from ligo.families.spec import Role, TensorSpec
from ligo.growth.plan import GrowthPlan, depth_row, map_axes, source_name
from ligo.operators.maps import GrowthMaps, on_axis

ReadTensor = Callable[[str], Tensor]
"""Name of a small tensor -> the tensor, in the dtype to compute in."""


class _MixLayers(torch.autograd.Function):
    """sum_j weights[j] * layers[j], adding up in place, so that nothing of a layer's size is kept for backward."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *layers: Tensor) -> Tensor:
        ctx.save_for_backward(*layers)
        mixed = torch.zeros_like(layers[0])
        for weight, layer in zip(weights.tolist(), layers, strict=True):
            mixed.add_(layer, alpha=weight)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        flat = gradients[0].reshape(-1)
        layers = ctx.saved_tensors
        return torch.stack([flat @ layer.reshape(-1) for layer in layers]), *(None for _ in layers)


def grow_tensor(spec: TensorSpec, maps: GrowthMaps, read: ReadTensor, *, tied: bool) -> Tensor:
    """One target tensor from the small ones: mix depth, then grow each axis.

    W'[l] = sum_j depth[l, j] * expand_out @ W[j] @ reduce_in; gains are copied, or are one where they have
    been folded into their readers.

    Args:
        read: the small tensors, gains folded (`fold_gains`).
    """
    if spec.axes[0].role is Role.GAIN:
        return _grow_gain(spec, maps, read, tied=tied)
    grown = _mix_depth(spec, maps, read)
    for axis, factor, unit_size in map_axes(spec, maps):
        grown = on_axis(factor.apply, grown, axis, unit_size)
    return grown


def _mix_depth(spec: TensorSpec, maps: GrowthMaps, read: ReadTensor) -> Tensor:
    row = depth_row(spec, maps)
    if not row:  # an identity block ends in zero
        return torch.zeros_like(read(source_name(spec, 0)))
    if len(row) == 1 and not isinstance(row[0][1], Tensor):
        layer, weight = row[0]
        return read(source_name(spec, layer)) * weight
    layers = [read(source_name(spec, layer)) for layer, _ in row]
    weights = torch.stack([torch.as_tensor(weight, dtype=layers[0].dtype) for _, weight in row])
    mixed: Tensor = _MixLayers.apply(weights, *layers)
    return mixed


def _grow_gain(spec: TensorSpec, maps: GrowthMaps, read: ReadTensor, *, tied: bool) -> Tensor:
    space_map = maps.spaces[spec.axes[0].space]
    if spec.layer is None and tied and space_map.tied_gain is not None:
        # the head reads with the embedding's own map: the last gain makes up for it
        return space_map.tied_gain.apply(read(spec.name)[:, None])[:, 0]
    if space_map.gain is None:
        like = read(source_name(spec, 0))
        return torch.ones(space_map.expand.shape[0], dtype=like.dtype, device=like.device)
    return space_map.gain.apply(_mix_depth(spec, maps, read)[:, None])[:, 0]


def fold_gains(plan: GrowthPlan, maps: GrowthMaps, read: ReadTensor) -> ReadTensor:
    """The small tensors with each gain folded into its readers, W diag(g), where the map cannot copy it."""
    folded = {
        spec.name: spec.gain
        for spec in plan.family.tensors(plan.shapes.small)
        if spec.gain is not None and maps.spaces[spec.axes[1].space].gain is None
    }

    def read_folded(name: str) -> Tensor:
        return read(name) * read(folded[name]) if name in folded else read(name)

    return read_folded


def null_space_noise(
    spec: TensorSpec,
    shape: tuple[int, ...],
    maps: GrowthMaps,
    *,
    deviation: float,
    seed: int,
    dtype: torch.dtype,
) -> Tensor | None:
    """Noise on a reader's input that vanishes on every activation the grown model can have at first.

    Without it copied units get equal gradients and stay equal for ever. The draw depends on the
    seed and the tensor's name alone, not on the order of the jobs. None where nothing was copied.
    """
    for axis, at in enumerate(spec.axes):
        space_map = maps.spaces[at.space]
        if at.role is Role.READ and space_map.grows:
            digest = hashlib.sha256(f"{seed}:{spec.name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            noise = torch.randn(shape, generator=generator, dtype=torch.float64) * deviation
            return on_axis(space_map.expand.remove_span, noise, axis, space_map.unit_size).to(dtype)
    return None


def grow_tensors(
    plan: GrowthPlan, maps: GrowthMaps, read: ReadTensor, *, dtype: torch.dtype, noise: float, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Run the plan's jobs in file order: (name, tensor) one at a time, computed and returned in `dtype`.

    Args:
        noise: null-space noise in units of the target's `initializer_range`; 0 for none.

    Raises:
        NumericsError: a grown tensor is not finite; it is named.
    """
    source = fold_gains(plan, maps, lambda name: read(name).to(dtype))
    deviation = noise * float(plan.target_config.get("initializer_range", 0.02))
    with progress("growing tensors", len(plan.jobs)) as bar:
        for job in plan.jobs:
            tensor = grow_tensor(job.spec, maps, source, tied=plan.shapes.small.tied)
            if noise:
                added = null_space_noise(
                    job.spec, job.shape, maps, deviation=deviation, seed=seed, dtype=dtype
                )
                tensor = tensor if added is None else tensor + added
            if not tensor.isfinite().all():
                raise NumericsError(
                    f"the grown tensor {job.spec.name} has values that are not finite (made from "
                    f"{', '.join(job.sources)}).\n  Try: check the small checkpoint, or write.dtype=float32"
                )
            yield job.spec.name, tensor.contiguous()
            bar.advance()
