"""What is random in growth: noise that nothing sees at first, and fresh weights.

Draws depend on the seed and the tensor's name alone, not on the order of the jobs.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from ligo.families.spec import Role, TensorSpec
from ligo.growth.plan import GrowthPlan, TensorJob
from ligo.operators.axes import PickFactor, layout_flags, layout_keys, map_axis, project
from ligo.operators.factors import Factor
from ligo.operators.maps import GrowthMaps


def added_noise(
    job: TensorJob, plan: GrowthPlan, maps: GrowthMaps, *, deviation: float, seed: int, dtype: torch.dtype
) -> Tensor | None:
    """Noise that changes no output at first, without which copied units get equal gradients for ever.

    Readers get noise that vanishes on every activation the grown model can have at first, Z (I - E E^+);
    writers get it in units that every reader reads with zero. None where there is nothing of either kind.
    """
    spec, noise = job.spec, []
    if len(job.shape) < 2 or maps.fill is not None:  # fresh weights are noise enough
        return None
    for axis, at in enumerate(spec.axes):
        fresh = _fresh_places(spec, axis, plan, maps)
        if at.role is Role.READ and _grows(spec, axis, maps):
            drawn = draw(job, seed, "read", deviation, dtype)
            hidden = drawn - map_axis(drawn, axis, at.layout, _projections(spec, maps), plan.target.spaces)
            noise.append(hidden * along(~fresh, axis, hidden))
        elif at.role is Role.WRITE and fresh.any():
            drawn = draw(job, seed, "write", deviation, dtype)
            noise.append(drawn * along(fresh, axis, drawn))
    return torch.stack(noise).sum(0) if noise else None


def filled(job: TensorJob, plan: GrowthPlan, maps: GrowthMaps, grown: Tensor, *, seed: int) -> Tensor:
    """A matrix with the operator's fresh random weights on it (`Fill`); vectors stay as they are."""
    fill = maps.fill
    if fill is None or len(job.shape) < 2:
        return grown
    drawn = draw(job, seed, "fill", fill.deviation * init_deviation(plan), grown.dtype)
    if fill.only_new:
        old = torch.ones_like(grown)
        for axis, new in enumerate(new_places(job.spec, plan, maps)):
            old = old * along(~new, axis, old)
        drawn = drawn * (1 - old)
    return fill.shrink * grown + drawn


def fresh_tensor(job: TensorJob, plan: GrowthPlan, *, seed: int, dtype: torch.dtype) -> Tensor:
    """A tensor that the small model has nothing for, at the target's fresh-init deviation."""
    return draw(job, seed, "fresh", init_deviation(plan), dtype)


def init_deviation(plan: GrowthPlan) -> float:
    """The deviation of the target's fresh weights."""
    return float(plan.target.setting(plan.target.deviation_key) or 0.02)


def new_places(spec: TensorSpec, plan: GrowthPlan, maps: GrowthMaps) -> list[np.ndarray]:
    """Per axis of a tensor, which places are new: any but the first copy of a small unit; bool [size] each."""

    def new_units(space: str) -> np.ndarray | None:
        space_map = maps.space(space, spec.layer)
        return None if space_map is None or not space_map.grows else space_map.new_units

    return [layout_flags(at.layout, new_units, plan.target.spaces) for at in spec.axes]


def draw(job: TensorJob, seed: int, what: str, deviation: float, dtype: torch.dtype) -> Tensor:
    """Normal numbers in a tensor's shape; `what` tells apart the draws for one tensor."""
    digest = hashlib.sha256(f"{seed}:{what}:{job.spec.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return (torch.randn(job.shape, generator=generator, dtype=torch.float64) * deviation).to(dtype)


def along(flags: np.ndarray, axis: int, like: Tensor) -> Tensor:
    """Flags [size] as ones and zeros that multiply one axis of a tensor."""
    shape = [-1 if other == axis else 1 for other in range(like.ndim)]
    return torch.from_numpy(flags).to(like.dtype).reshape(shape)


def _fresh_places(spec: TensorSpec, axis: int, plan: GrowthPlan, maps: GrowthMaps) -> np.ndarray:
    def fresh(space: str) -> np.ndarray | None:
        space_map = maps.space(space, spec.layer)
        return None if space_map is None else space_map.fresh

    return layout_flags(spec.axes[axis].layout, fresh, plan.target.spaces)


def _grows(spec: TensorSpec, axis: int, maps: GrowthMaps) -> bool:
    found = (maps.space(key, spec.layer) for key in layout_keys(spec.axes[axis].layout))
    return any(space_map is not None and space_map.grows for space_map in found)


def _projections(spec: TensorSpec, maps: GrowthMaps) -> PickFactor:
    def seen(key: str) -> Factor | None:
        space_map = maps.space(key, spec.layer)
        return project(space_map.seen) if space_map is not None and space_map.grows else None

    return seen
