"""No depth change."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ligo.core.errors import PlanError
from ligo.operators.base import DEPTH_OPERATORS, DepthOperator, Reference
from ligo.operators.maps import LayerMap


@DEPTH_OPERATORS.register("identity")
class Identity(DepthOperator):
    """Keep the layers as they are; refuses a target of another depth."""

    reference: ClassVar[Reference] = Reference("no depth change")
    exact_when: ClassVar[str] = "always"

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        if num_small != num_target:
            raise PlanError(
                f"operator.depth=identity keeps the {num_small} layers, and the target has {num_target}.\n"
                f"  Try: operator.depth=zero_block, or target.num_hidden_layers={num_small}"
            )
        return LayerMap(np.eye(num_small))
