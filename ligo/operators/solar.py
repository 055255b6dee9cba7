"""Depth up-scaling: the first layers, then the last ones, overlapping in the middle."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ligo.core.errors import PlanError
from ligo.operators.base import DEPTH_OPERATORS, DepthOperator, Reference
from ligo.operators.maps import LayerMap, one_hot


@DEPTH_OPERATORS.register("solar")
class Solar(DepthOperator):
    """Depth up-scaling: the first layers, then the last layers, overlapping in the middle."""

    reference: ClassVar[Reference] = Reference(
        "SOLAR 10.7B: depth up-scaling (Kim et al. 2023)", "2312.15166"
    )
    exact_when: ClassVar[str] = "where the depth does not grow"

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        if num_target > 2 * num_small:
            raise PlanError(
                f"operator.depth=solar joins the first and the last layers of the small model, so it makes at most "
                f"{2 * num_small} layers from {num_small}, not {num_target}.\n"
                f"  Try: operator.depth=stack, or target.num_hidden_layers={2 * num_small}"
            )
        first = (num_target + 1) // 2
        last = np.arange(num_small - (num_target - first), num_small)
        return LayerMap(one_hot(np.concatenate([np.arange(first), last]), num_small))
