"""Matrices every entry of which is one entry of a small matrix times numbers of its row and its column.

Most operators make nothing else. Any rows of such a matrix can be made alone, and by moving bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ligo.families.spec import RESIDUAL, Role
from ligo.growth.plan import GrowthPlan, TensorJob, axis_factors, depth_row, has_share_from_above
from ligo.operators.axes import layout_selection
from ligo.operators.factors import Select
from ligo.operators.maps import GrowthMaps

_SHORT = 16
"""A matrix is copied in blocks unless these would have fewer rows or columns on average."""


class _Stretch(NamedTuple):
    """Neighbours that are copied from neighbours, and multiplied by one number."""

    start: int
    stop: int
    source: int
    scale: float


@dataclass(frozen=True)
class Copies:
    """How a matrix is copied."""

    layer: int | None
    """The small layer that it is copied from; None: from nowhere, it is zero."""
    rows: Select
    columns: Select
    multiplier: float
    """Of every entry."""

    @cached_property
    def rounds_once(self) -> bool:
        """Whether every entry is one product, so that it needs no dtype wider than the one it is stored in."""
        if self._blocks is None:
            return False
        down, across = ({stretch.scale for stretch in cut} for cut in self._blocks)
        return all(len(_factors(row, column, self.multiplier)) <= 1 for row in down for column in across)

    def put(self, small: Tensor | None, rows: range, out: Tensor) -> None:
        """Write the given rows of the target's matrix to `out` [len(rows), n'].

        Args:
            small: [m, n], in any dtype.
            out: in the dtype to compute in; in that of `small` if each entry `rounds_once`.
        """
        if small is None:
            out.zero_()
        elif self._blocks is None:
            self._put_singly(small, rows, out)
        else:
            down, across = self._blocks
            for row in _within(down, rows):
                for column in across:
                    part = out[row.start - rows.start : row.stop - rows.start, column.start : column.stop]
                    from_ = small[row.source :, column.source :][: part.shape[0], : part.shape[1]]
                    _put_product(from_, _factors(row.scale, column.scale, self.multiplier), part)

    def _put_singly(self, small: Tensor, rows: range, out: Tensor) -> None:
        block = small.index_select(0, torch.from_numpy(self.rows.index[rows.start : rows.stop])).to(out.dtype)
        torch.index_select(block, 1, torch.from_numpy(self.columns.index), out=out)
        down = self.rows.scale[rows.start : rows.stop, None]
        for scale in (down, self.columns.scale, np.array(self.multiplier)):
            if np.any(scale != 1.0):
                out *= torch.from_numpy(scale).to(out.dtype)

    @cached_property
    def _blocks(self) -> tuple[list[_Stretch], list[_Stretch]] | None:
        """What cuts the rows and the columns into blocks; None where the blocks would be small."""
        down, across = _stretches(self.rows), _stretches(self.columns)
        few = all(len(cut) * _SHORT <= cut[-1].stop for cut in (down, across))
        return (down, across) if few else None


def copies_of(job: TensorJob, plan: GrowthPlan, maps: GrowthMaps) -> Copies | None:
    """How a job's tensor is copied; None where it is no such matrix, or its rows cannot be made alone."""
    spec, source = job.spec, job.source
    if source is None or len(job.shape) != 2 or maps.fill is not None or has_share_from_above(spec, maps):
        return None
    if spec.axes[0].role is Role.READ:  # noise goes along what is read
        return None
    if spec.gain is not None and maps.spaces[RESIDUAL].fold_gains:
        return None
    row = depth_row(spec, maps)
    if len(row) > 1 or (row and (isinstance(row[0][1], Tensor) or row[0][1] != 1.0)):
        return None
    spaces = {**plan.target.spaces, **plan.small.spaces}
    selections = [
        layout_selection(at.layout, axis_factors(spec, axis, maps), spaces)
        for axis, at in enumerate(spec.axes)
    ]
    if selections[0] is None or selections[1] is None:
        return None
    multiplier = source.multiplier / spec.multiplier
    return Copies(row[0][0] if row else None, selections[0], selections[1], multiplier)


def _stretches(select: Select) -> list[_Stretch]:
    index, scale = select.index, select.scale
    goes_on = (np.diff(scale) == 0) & ((np.diff(index) == 1) | (scale[1:] == 0))
    edges = [0, *(np.flatnonzero(~goes_on) + 1).tolist(), len(index)]
    return [_Stretch(start, stop, int(index[start]), float(scale[start])) for start, stop in pairwise(edges)]


def _within(cut: list[_Stretch], rows: range) -> Iterator[_Stretch]:
    """The parts of stretches that lie in the given rows."""
    for whole in cut:
        start, stop = max(whole.start, rows.start), min(whole.stop, rows.stop)
        if start < stop:
            yield _Stretch(start, stop, whole.source + start - whole.start, whole.scale)


def _factors(*scales: float) -> list[float]:
    """What to multiply by, one after another; a power of two rounds nothing, and goes along with another."""
    rounding = [scale for scale in scales if abs(math.frexp(scale)[0]) != 0.5]
    exact = math.prod(scale for scale in scales if scale not in rounding)
    if rounding:
        return [rounding[0] * exact, *rounding[1:]]
    return [] if exact == 1.0 else [exact]


def _put_product(small: Tensor, factors: list[float], out: Tensor) -> None:
    if 0.0 in factors:
        out.zero_()
    elif factors and small.dtype == out.dtype:
        torch.mul(small, factors[0], out=out)  # half precision is multiplied in float32, and rounded once
        factors = factors[1:]
    else:
        out.copy_(small)
    for factor in factors:
        out *= factor
