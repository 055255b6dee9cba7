"""Stacking: the whole stack of layers once more on top of itself."""

from __future__ import annotations

import numpy as np

from ligo.operators.base import DEPTH_OPERATORS, Exactness, Reference, copies_are_not_exact
from ligo.operators.maps import LayerMap, one_hot


@DEPTH_OPERATORS.register("stack")
class Stack:
    """Repeat the whole stack: layer l copies small layer l mod L."""

    reference = Reference("StackBERT (Gong et al., ICML 2019); Stacking your transformers", "2405.15319")

    def layer_map(self, num_small: int, num_target: int) -> LayerMap:
        return LayerMap(one_hot(np.arange(num_target) % num_small, num_small))

    def exactness(self, num_small: int, num_target: int) -> Exactness:
        return copies_are_not_exact(num_small, num_target)
