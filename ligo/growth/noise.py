"""What is random in growth: noise that nothing sees at first, and fresh weights.

Numbers are drawn for some rows of a tensor at a time, and depend on the seed, the tensor's name and the rows alone:
not on the order of the jobs, and not on which rows are made together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ligo.families.spec import Role, TensorSpec
from ligo.growth.plan import GrowthPlan, TensorJob
from ligo.operators.axes import PickFactor, layout_flags, layout_keys, map_axis, project
from ligo.operators.factors import Factor
from ligo.operators.maps import GrowthMaps

_NUMBERS_PER_DRAW = 2**18  # about what a core's cache holds


def add_noise(
    tensor: Tensor, job: TensorJob, plan: GrowthPlan, maps: GrowthMaps, *, deviation: float, seed: int,
    rows: range | None = None,
) -> None:  # fmt: skip
    """Add, in place, noise that changes no output at first, without which copied units get equal gradients for ever.

    Readers get noise that vanishes on every activation the grown model can have at first, Z (I - E E^+), which
    leaves alone what reads units without a copy; writers get it in units that every reader reads with zero.

    Args:
        tensor: the job's, or some of its rows.
        rows: which ones, from a multiple of `rows_per_draw` on, where the rows do not read what grows.
    """
    spec = job.spec
    if len(job.shape) < 2:
        return
    for axis, at in enumerate(spec.axes):
        fresh = _fresh_places(spec, axis, plan, maps)
        if at.role is Role.READ and _grows(spec, axis, maps):
            across = 1 if axis == 0 else 0
            places = torch.from_numpy(np.flatnonzero(_unseen_places(spec, axis, plan, maps)))
            shape = (*job.shape[:axis], len(places), *job.shape[axis + 1 :])
            for first, drawn in _draws(job, seed, "read", deviation, tensor.dtype, shape, across, rows):
                part = tensor.narrow(across, first, drawn.shape[across])
                whole = torch.zeros(part.shape, dtype=part.dtype).index_copy_(axis, places, drawn)
                seen = map_axis(whole, axis, at.layout, _projections(spec, maps), plan.target.spaces)
                part += whole.sub_(seen).mul_(along(~fresh, axis, whole))
        elif at.role is Role.WRITE and fresh.any():
            for first, drawn in _draws(job, seed, "write", deviation, tensor.dtype, job.shape, 0, rows):
                flags = fresh if axis else fresh[_moved(rows, first, len(drawn))]
                tensor.narrow(0, first, len(drawn)).add_(drawn * along(flags, axis, drawn))


def filled(job: TensorJob, plan: GrowthPlan, maps: GrowthMaps, grown: Tensor, *, seed: int) -> Tensor:
    """A matrix with the operator's fresh random weights on it (`Fill`); vectors stay as they are."""
    fill = maps.fill
    if fill is None or len(job.shape) < 2:
        return grown
    drawn, new = torch.empty(job.shape, dtype=grown.dtype), new_places(job.spec, plan, maps)
    deviation = fill.deviation * init_deviation(plan)
    for first, block in _draws(job, seed, "fill", deviation, grown.dtype, job.shape):
        if fill.only_new:
            old = torch.ones_like(block)
            for axis, places in enumerate(new):
                old *= along(~(places if axis else places[first : first + len(block)]), axis, old)
            block *= 1 - old
        drawn[first : first + len(block)] = block
    return drawn.add_(grown, alpha=fill.shrink)


def fresh_tensor(job: TensorJob, plan: GrowthPlan, *, seed: int, dtype: torch.dtype) -> Tensor:
    """A tensor that the small model has nothing for, at the target's fresh-init deviation."""
    return torch.cat(
        [drawn for _, drawn in _draws(job, seed, "fresh", init_deviation(plan), dtype, job.shape)]
    )


def init_deviation(plan: GrowthPlan) -> float:
    """The deviation of the target's fresh weights."""
    return float(plan.target.setting(plan.target.deviation_key) or 0.02)


def new_places(spec: TensorSpec, plan: GrowthPlan, maps: GrowthMaps) -> list[np.ndarray]:
    """Per axis of a tensor, which places are new: any but the first copy of a small unit; bool [size] each."""

    def new_units(space: str) -> np.ndarray | None:
        space_map = maps.space(space, spec.layer)
        return None if space_map is None or not space_map.grows else space_map.new_units

    return [layout_flags(at.layout, new_units, plan.target.spaces) for at in spec.axes]


def rows_per_draw(shape: tuple[int, ...], across: int = 0) -> int:
    """How many rows (places on the axis `across`) of a tensor are drawn at a time."""
    return max(1, _NUMBERS_PER_DRAW * shape[across] // math.prod(shape))


def along(flags: np.ndarray, axis: int, like: Tensor) -> Tensor:
    """Flags [size] as ones and zeros that multiply one axis of a tensor."""
    shape = [-1 if other == axis else 1 for other in range(like.ndim)]
    return torch.from_numpy(flags).to(like.dtype).reshape(shape)


def _draws(
    job: TensorJob, seed: int, what: str, deviation: float, dtype: torch.dtype, shape: tuple[int, ...],
    across: int = 0, rows: range | None = None,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """Normal numbers in `shape`, some rows at a time: (the first of them, counted from that of `rows`; the numbers).

    Args:
        what: tells apart the draws for one tensor.
        across: the axis that is gone along.
    """
    step, rows = rows_per_draw(job.shape, across), rows or range(job.shape[across])
    for first in range(rows.start, rows.stop, step):
        digest = hashlib.sha256(f"{seed}:{what}:{job.spec.name}:{first}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        block = list(shape)
        block[across] = min(step, rows.stop - first)
        drawn = torch.empty(block, dtype=dtype).normal_(0.0, deviation, generator=generator)
        yield first - rows.start, drawn


def _moved(rows: range | None, first: int, length: int) -> slice:
    start = first + (rows.start if rows else 0)
    return slice(start, start + length)


def _fresh_places(spec: TensorSpec, axis: int, plan: GrowthPlan, maps: GrowthMaps) -> np.ndarray:
    def fresh(space: str) -> np.ndarray | None:
        space_map = maps.space(space, spec.layer)
        return None if space_map is None else space_map.fresh

    return layout_flags(spec.axes[axis].layout, fresh, plan.target.spaces)


def _unseen_places(spec: TensorSpec, axis: int, plan: GrowthPlan, maps: GrowthMaps) -> np.ndarray:
    """Which places of an axis a projection off what is seen can leave anything of: all but those without a copy."""
    layout = spec.axes[axis].layout
    projections = _projections(spec, maps)
    if any(key not in plan.target.spaces and projections(key) is not None for key in layout_keys(layout)):
        return np.ones(spec.shape(plan.target.spaces)[axis], dtype=bool)  # one map for several spaces together

    def unseen(space: str) -> np.ndarray | None:
        space_map = maps.space(space, spec.layer)
        return None if space_map is None or not space_map.grows else ~space_map.seen.alone()

    return layout_flags(layout, unseen, plan.target.spaces)


def _grows(spec: TensorSpec, axis: int, maps: GrowthMaps) -> bool:
    found = (maps.space(key, spec.layer) for key in layout_keys(spec.axes[axis].layout))
    return any(space_map is not None and space_map.grows for space_map in found)


def _projections(spec: TensorSpec, maps: GrowthMaps) -> PickFactor:
    def seen(key: str) -> Factor | None:
        space_map = maps.space(key, spec.layer)
        return project(space_map.seen) if space_map is not None and space_map.grows else None

    return seen
