"""What is random in growth: noise that nothing sees at first, and fresh weights.

Numbers are drawn for some rows of a tensor at a time, and depend on the seed, the tensor's name and the rows alone:
not on the order of the jobs, and not on which rows are made together.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ligo.families.spec import Layout, Role, Space, TensorSpec
from ligo.growth.plan import GrowthPlan, TensorJob
from ligo.operators.axes import PickFactor, layout_flags, layout_keys, layout_selection, map_axis, project
from ligo.operators.factors import Factor, Select, copies_per_unit, runs
from ligo.operators.maps import GrowthMaps
from ligo.operators.noise_level import NoiseLevel

_NUMBERS_PER_DRAW = 2**18  # about what a core's cache holds


@dataclass(frozen=True)
class Noise:
    """What changes no output at first, and without which copied units get equal gradients for ever; one tensor's.

    Readers get noise that vanishes on every activation the grown model can have at first, Z (I - E E^+), which
    leaves alone what reads units without a copy; writers get it in units that every reader reads with zero.
    """

    job: TensorJob
    deviation: float
    seed: int
    read: tuple[tuple[int, Unseen], ...]
    """(axis, directions in it) of what is read."""
    written: tuple[tuple[int, np.ndarray], ...]
    """(axis, places in it) that are written and not read."""

    def add(self, tensor: Tensor, rows: range | None = None) -> None:
        """Add it in place.

        Args:
            tensor: the job's, or some of its rows.
            rows: which ones, from a multiple of `rows_per_draw` on, where what is read is not the first axis.
        """
        job = self.job
        for axis, unseen in self.read:
            across = 1 if axis == 0 else 0
            shape = (*job.shape[:axis], unseen.num_drawn, *job.shape[axis + 1 :])
            for first, drawn in self._draws("read", tensor.dtype, shape, across, rows):
                unseen.add(drawn, axis, tensor.narrow(across, first, drawn.shape[across]))
        for axis, places in self.written:
            for first, drawn in self._draws("write", tensor.dtype, job.shape, 0, rows):
                start = first + (rows.start if rows else 0)
                flags = places if axis else places[start : start + len(drawn)]
                tensor.narrow(0, first, len(drawn)).add_(drawn * along(flags, axis, drawn))

    def _draws(
        self, what: str, dtype: torch.dtype, shape: tuple[int, ...], across: int, rows: range | None
    ) -> Iterator[tuple[int, Tensor]]:
        return _draws(self.job, self.seed, what, self.deviation, dtype, shape, across, rows)


def noise_of(
    job: TensorJob, plan: GrowthPlan, maps: GrowthMaps, *, deviation: float, seed: int
) -> Noise | None:
    """The noise of one tensor; None where it has none."""
    spec, read, written = job.spec, [], []
    if len(job.shape) < 2 or not deviation or maps.fill is not None:  # fresh weights are noise enough
        return None
    for axis, at in enumerate(spec.axes):
        fresh = _fresh_places(spec, axis, plan, maps)
        if at.role is Role.READ and _grows(spec, axis, maps):
            read.append((axis, _unseen(spec, axis, plan, maps, ~fresh)))
        elif at.role is Role.WRITE and fresh.any():
            written.append((axis, fresh))
    return Noise(job, deviation, seed, tuple(read), tuple(written)) if read or written else None


class Unseen(ABC):
    """The directions along an axis that are zero on whatever the grown model has there at first."""

    num_drawn: int
    """How many numbers are drawn along the axis."""

    @abstractmethod
    def add(self, drawn: Tensor, axis: int, out: Tensor) -> None:
        """Project `drawn` on these directions, and add it to `out` in place."""


class UnseenOfCopies(Unseen):
    """Behind a selection: what sums to nothing over the copies of each unit. Only units with copies are drawn.

    They are drawn in the order in which all of this is a sum of slices: the first copies of all units, those of the
    units with most copies first, then the second copies, and so on; at last what is never seen at all.
    """

    def __init__(self, seen: Select, wanted: np.ndarray) -> None:
        """
        Args:
            wanted: [n'] bool: where noise may be at all.
        """
        made = np.flatnonzero(seen.scale)
        counts = copies_per_unit(seen.index[made], seen.num_small)
        units = np.argsort(-counts, kind="stable")
        units = units[counts[units] > 1]
        by_unit = made[np.argsort(seen.index[made], kind="stable")]
        begins = np.cumsum(counts) - counts
        rounds = [by_unit[begins[units[counts[units] > k]] + k] for k in range(counts.max(initial=0))]
        self._rounds = [len(places) for places in rounds if len(places)]
        never = np.flatnonzero(seen.scale == 0)
        self._places = np.concatenate([*rounds, never]).astype(np.int64)
        self._scale, self._wanted = seen.scale[self._places], wanted[self._places]
        self.num_drawn = len(self._places)

    def add(self, drawn: Tensor, axis: int, out: Tensor) -> None:
        scale, starts = along(self._scale, axis, drawn), np.cumsum([0, *self._rounds])
        if self._rounds:
            size = self._rounds[0]
            weights, squares = scale * drawn, scale**2
            sums, norms = weights.narrow(axis, 0, size).clone(), squares.narrow(axis, 0, size).clone()
            for start, length in zip(starts[1:], self._rounds[1:], strict=False):
                sums.narrow(axis, 0, length).add_(weights.narrow(axis, int(start), length))
                norms.narrow(axis, 0, length).add_(squares.narrow(axis, int(start), length))
            means = sums.div_(norms)
            for start, length in zip(starts, self._rounds, strict=False):
                part = drawn.narrow(axis, int(start), length)
                part.addcmul_(scale.narrow(axis, int(start), length), means.narrow(axis, 0, length), value=-1)
        if not self._wanted.all():
            drawn *= along(self._wanted, axis, drawn)
        for start, stop, place in runs(self._places):
            length = stop - start
            out.narrow(axis, place, length).add_(drawn.narrow(axis, start, length))


class UnseenOfAny(Unseen):
    """Behind any maps: by their projections."""

    def __init__(
        self, layout: Layout, seen: PickFactor, spaces: Mapping[str, Space], wanted: np.ndarray
    ) -> None:
        self._layout, self._seen, self._spaces, self._wanted = layout, seen, spaces, wanted
        self.num_drawn = len(wanted)

    def add(self, drawn: Tensor, axis: int, out: Tensor) -> None:
        projected = map_axis(drawn, axis, self._layout, lambda key: project(self._seen(key)), self._spaces)
        out += drawn.sub_(projected).mul_(along(self._wanted, axis, drawn))


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
    return drawn.to(grown.device).add_(grown, alpha=fill.shrink)


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


def noise_deviation(
    level: NoiseLevel, job: TensorJob, plan: GrowthPlan, read: Callable[[str], Tensor]
) -> float:
    """Of one tensor's noise.

    Args:
        read: gives the small model's tensors.
    """
    found = [_answer(job, read(name)) for name in job.sources] if level.unit == "own" else []
    own = math.sqrt(sum(size**2 for size in found) / max(1, len(found)))
    return level.times * (own or init_deviation(plan))


def _answer(job: TensorJob, small: Tensor) -> float:
    """The deviation at which a grown tensor of noise alone answers as large as the small tensor does.

    Then rounding is not multiplied from block to block, whatever is grown how far. Some rows of the tensor are looked at, in
    numpy, whose sums do not depend on the number of threads.
    """
    reads = [axis for axis, at in enumerate(job.spec.axes) if at.role is Role.READ]
    grown = math.prod(job.shape[axis] / small.shape[axis] for axis in reads)
    if isinstance(small, FakeTensor):  # a plan asks what it costs
        return 1.0
    rows = small[:: max(1, small.numel() // _NUMBERS_PER_DRAW)].detach().to("cpu", torch.float64)
    return float(np.sqrt(np.mean(np.square(rows.numpy())) / grown))


def rows_per_draw(shape: tuple[int, ...], across: int = 0) -> int:
    """How many rows (places on the axis `across`) of a tensor are drawn at a time."""
    return max(1, _NUMBERS_PER_DRAW * shape[across] // math.prod(shape))


def along(values: np.ndarray, axis: int, like: Tensor) -> Tensor:
    """Numbers [size], or flags as ones and zeros, that multiply one axis of a tensor."""
    shape = [-1 if other == axis else 1 for other in range(like.ndim)]
    return torch.from_numpy(values).to(like.dtype).reshape(shape)


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
    if isinstance(torch.empty(0), FakeTensor):
        step = len(rows)  # a plan asks how many numbers: thousands of draws would take it minutes
    for first in range(rows.start, rows.stop, step):
        digest = hashlib.sha256(f"{seed}:{what}:{job.spec.name}:{first}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        block = list(shape)
        block[across] = min(step, rows.stop - first)
        drawn = torch.empty(block, dtype=dtype).normal_(0.0, deviation, generator=generator)
        yield first - rows.start, drawn


def _fresh_places(spec: TensorSpec, axis: int, plan: GrowthPlan, maps: GrowthMaps) -> np.ndarray:
    def fresh(space: str) -> np.ndarray | None:
        space_map = maps.space(space, spec.layer)
        return None if space_map is None else space_map.fresh

    return layout_flags(spec.axes[axis].layout, fresh, plan.target.spaces)


def _unseen(spec: TensorSpec, axis: int, plan: GrowthPlan, maps: GrowthMaps, wanted: np.ndarray) -> Unseen:
    def seen(key: str) -> Factor | None:
        space_map = maps.space(key, spec.layer)
        return space_map.seen if space_map is not None and space_map.grows else None

    layout = spec.axes[axis].layout
    selection = layout_selection(layout, seen, {**plan.target.spaces, **plan.small.spaces})
    if selection is not None:
        return UnseenOfCopies(selection, wanted)
    return UnseenOfAny(layout, seen, plan.target.spaces, wanted)


def _grows(spec: TensorSpec, axis: int, maps: GrowthMaps) -> bool:
    found = (maps.space(key, spec.layer) for key in layout_keys(spec.axes[axis].layout))
    return any(space_map is not None and space_map.grows for space_map in found)
