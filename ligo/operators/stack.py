"""Stacking: the whole stack of layers once more on top of itself."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ligo.operators.base import DEPTH_OPERATORS, DepthOperator, Reference
from ligo.operators.maps import LayerMap, one_hot


@DEPTH_OPERATORS.register("stack")
class Stack(DepthOperator):
    """Repeat the whole stack: layer l copies small layer l mod L."""

    reference: ClassVar[Reference] = Reference(
        "StackBERT (Gong et al., ICML 2019); Stacking your transformers", "2405.15319"
    )
    exact_when: ClassVar[str] = "where the depth does not grow"

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        return LayerMap(one_hot(np.arange(num_target) % num_small, num_small))
