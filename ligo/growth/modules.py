"""The size of the weights before and after growth, module by module: RMS and variance, one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ligo.core.log import progress
from ligo.families.spec import TensorSpec
from ligo.growth.execute import ReadTensor
from ligo.growth.plan import GrowthPlan

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 2**22
"""Numbers that are held in float64 at a time."""


@dataclass
class _Sums:
    """Over numbers that have been seen."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, tensor: Tensor) -> None:
        for chunk in tensor.reshape(-1).split(_CHUNK):
            values = chunk.double()
            self.count += values.numel()
            self.total += float(values.sum())
            self.squares += float(values.square().sum())

    def as_json(self) -> dict[str, float]:
        mean, square = self.total / self.count, self.squares / self.count
        return {"rms": math.sqrt(square), "variance": max(0.0, square - mean * mean)}


def module_statistics(plan: GrowthPlan, small: ReadTensor, grown: ReadTensor) -> list[dict[str, Any]]:
    """Root mean square and variance of the weights of each kind of tensor, over all layers, in the plan's order.

    Args:
        small, grown: give the tensors of the two models by name; one is held at a time.

    Returns:
        Rows {module, small: {rms, variance}, grown: {rms, variance}}. `small` is the kind that the module grows from; None
        where it is drawn fresh.
    """
    with progress("measuring weights", len(plan.small.tensors) + len(plan.target.tensors)) as bar:

        def by_kind(tensors: Iterable[TensorSpec], read: ReadTensor) -> dict[str, _Sums]:
            found: dict[str, _Sums] = {}
            for spec in tensors:
                found.setdefault(spec.kind, _Sums()).add(read(spec.name))
                bar.advance()
            return found

        before, after = by_kind(plan.small.tensors, small), by_kind(plan.target.tensors, grown)
    source = {job.spec.kind: job.source.kind for job in plan.jobs if job.source is not None}
    return [
        {
            "module": kind,
            "small": before[source[kind]].as_json() if kind in source else None,
            "grown": sums.as_json(),
        }
        for kind, sums in after.items()
    ]
