"""Matrices every entry of which is one entry of a small matrix times numbers of its row and its column.

Most operators make nothing else. Any rows of such a matrix can be made alone, and by moving bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ligo.families.spec import RESIDUAL, Role
from ligo.growth.plan import GrowthPlan, TensorJob, axis_factors, depth_row, has_share_from_above
from ligo.operators.axes import layout_selection
from ligo.operators.factors import Select, runs
from ligo.operators.maps import GrowthMaps

_SHORT_RUN = 16
"""Neighbours that stay neighbours are moved together, unless there are fewer of them."""


@dataclass(frozen=True)
class Copies:
    """How a matrix is copied."""

    layer: int | None
    """The small layer that it is copied from; None: from nowhere, it is zero."""
    rows: Select
    columns: Select
    multiplier: float
    """Of every entry."""

    def put(self, small: Tensor | None, rows: range, out: Tensor) -> None:
        """Write the given rows of the target's matrix to `out` [len(rows), n'], computing in its dtype.

        Args:
            small: [m, n], in any dtype.
        """
        if small is None:
            out.zero_()
            return
        block = _picked(small, self.rows.index[rows.start : rows.stop]).to(out.dtype)
        scale = self.rows.scale[rows.start : rows.stop, None]
        if np.any(scale != 1.0):
            block = block * torch.from_numpy(scale).to(out.dtype)
        stretches, factors = self._column_runs, self._column_factors(out.dtype)
        if len(stretches) * _SHORT_RUN > out.shape[1]:
            torch.index_select(block, 1, torch.from_numpy(self.columns.index), out=out)
            if factors is not None:
                out *= factors
        else:
            for start, stop, source in stretches:
                part, from_ = out[:, start:stop], block[:, source : source + stop - start]
                if factors is None:
                    part.copy_(from_)
                else:
                    torch.mul(from_, factors[start:stop], out=part)
        if self.multiplier != 1.0:
            out *= self.multiplier

    @cached_property
    def _column_runs(self) -> list[tuple[int, int, int]]:
        return runs(self.columns.index)

    def _column_factors(self, dtype: torch.dtype) -> Tensor | None:
        scale = self.columns.scale
        return None if np.all(scale == 1.0) else torch.from_numpy(scale).to(dtype)


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


def _picked(small: Tensor, index: np.ndarray) -> Tensor:
    stretches = runs(index)
    if len(stretches) == 1:
        return small[stretches[0][2] :][: len(index)]
    if len(stretches) * _SHORT_RUN > len(index):
        return small.index_select(0, torch.from_numpy(index))
    return torch.cat([small[source:][: stop - start] for start, stop, source in stretches])
